"""Operators on strings (dtype str, object arrays in numpy), and the encoders around them. They run on the evaluator."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from graphopt.errors import EvaluationError
from graphopt.ir.table import Operands, Trait, broadcast, op, same_shape

TOKENS = "str|i32|i64"


def _each(f: Callable[[Any], Any], x: np.ndarray, of: Any) -> np.ndarray:
    out = np.empty(x.shape, of)
    for at in np.ndindex(x.shape):
        out[at] = f(x[at])
    return out


@op("string_concat(x: str, y: str) -> str", shape=broadcast)
def string_concat(x, y):
    """Elements of x followed by those of y, broadcast (ONNX StringConcat)."""
    x, y = np.broadcast_arrays(x, y)
    out = np.empty(x.shape, object)
    for at in np.ndindex(x.shape):
        out[at] = x[at] + y[at]
    return out


def _string_split_shape(o: Operands) -> list:
    return [(*o.x.shape, None), o.x.shape]


@op("string_split(x: str; delimiter: str?, maxsplit: int?) -> (parts: str, counts: i64)", shape=_string_split_shape,
    traits=Trait.DATA_DEPENDENT)
def string_split(x, *, delimiter, maxsplit):
    """Each string split, padded with empty strings on a new last axis, and the number of parts (ONNX StringSplit).

    Without a delimiter, or an empty one, at runs of white space; at most `maxsplit` times where given.
    """
    limit = -1 if maxsplit is None else maxsplit
    parts = _each(lambda s: s.split(delimiter or None, limit), x, object)
    counts = _each(len, parts, np.int64)
    out = np.full((*x.shape, int(counts.max(initial=0))), "", object)
    for at in np.ndindex(x.shape):
        out[at][:len(parts[at])] = parts[at]
    return out, counts


@op("regex_full_match(x: str; pattern: str) -> bool", shape=same_shape)
def regex_full_match(x, *, pattern):
    """Whether the whole of each string matches the regular expression (ONNX RegexFullMatch).

    Python's syntax stands in for RE2's; they agree but for look-around and back-references, which RE2 lacks.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as e:
        raise EvaluationError(f"pattern {pattern!r} is not a regular expression: {e}") from e
    return _each(lambda s: compiled.fullmatch(s) is not None, x, bool)


def _normalize_shape(o: Operands) -> tuple:
    if o.x.rank not in (1, 2) or (o.x.rank == 2 and o.x.shape[0] != 1):
        raise o.fail(f"x must be [C] or [1, C], got {o.x}")
    if o.case not in ("LOWER", "UPPER", "NONE"):
        raise o.fail(f"case={o.case!r}, known: LOWER, UPPER, NONE")
    return (*o.x.shape[:-1], None if o.stopwords else o.x.shape[-1])


@op("string_normalize(x: str; case: str = NONE, is_case_sensitive: bool = false, stopwords: strs = [], locale: str?) -> str",
    shape=_normalize_shape, traits=Trait.DATA_DEPENDENT)
def string_normalize(x, *, case, is_case_sensitive, stopwords, locale):
    """x [C] or [1, C] without stop words, then in upper or lower case (ONNX StringNormalizer).

    Nothing left gives one empty string. The locale is not consulted: Unicode's own case mapping is used.
    """
    same = (lambda s: s) if is_case_sensitive else str.lower
    stops = {same(s) for s in stopwords}
    change = {"LOWER": str.lower, "UPPER": str.upper, "NONE": lambda s: s}[case]
    kept = [change(s) for s in x.reshape(-1) if same(s) not in stops]
    if not kept and stopwords:
        kept = [""]
    out = np.empty(len(kept), object)
    out[:] = kept
    return out.reshape(*x.shape[:-1], -1) if kept else out.reshape(*x.shape[:-1], 0)


def _label_shape(o: Operands) -> tuple:
    if o.keys.rank != 1 or o.labels.rank != 1:
        raise o.fail(f"keys and labels must have rank 1, got {o.keys} and {o.labels}")
    return o.x.shape


@op("label_encode(x: K, keys: K, labels: V, default: V) -> V", K="any", V="any", shape=_label_shape)
def label_encode(x, keys, labels, default):
    """The label of each element's key, `default` (one element) where there is none (ONNX-ML LabelEncoder).

    keys and labels pair up; of equal keys the last one counts. NaN is a key like any other.
    """
    unified = lambda k: "nan" if isinstance(k, float) and k != k else (type(k), k)
    table = dict(zip(map(unified, keys.tolist()), labels.reshape(-1)))
    other = default.reshape(-1)[0]
    out = np.empty(x.size, labels.dtype)
    for i, k in enumerate(x.reshape(-1).tolist()):
        out[i] = table.get(unified(k), other)
    return out.reshape(x.shape)


def _tfidf_shape(o: Operands) -> tuple:
    if o.x.rank > 2 or o.pool.rank != 1:
        raise o.fail(f"x must be [C] or [N, C] and the pool of rank 1, got {o.x} and {o.pool}")
    if o.mode not in ("TF", "IDF", "TFIDF"):
        raise o.fail(f"mode={o.mode!r}, known: TF, IDF, TFIDF")
    if not o.indexes:
        raise o.fail("indexes must not be empty")
    return (*o.x.shape[:-1], max(o.indexes) + 1)


@op("tfidf(x: K, pool: P; mode: str, min_gram: int, max_gram: int, max_skip: int, counts: ints, indexes: ints, "
    "weights: floats = []) -> f32", K=TOKENS, P=TOKENS, shape=_tfidf_shape)
def tfidf(x, pool, *, mode, min_gram, max_gram, max_skip, counts, indexes, weights):
    """How often each n-gram of the pool occurs in a row of x [C] or [N, C] (ONNX TfIdfVectorizer).

    counts[n - 1] is where the pool's n-grams of length n start; indexes[i] is the column of the i-th n-gram.
    Lengths min_gram to max_gram count, with 0 to max_skip items skipped between neighbours (single items once).
    TF gives the count, IDF the column's weight (1 without weights) where it occurs, TFIDF their product.
    """
    items = pool.tolist()
    column: dict[tuple, int] = {}
    number = 0
    for n, start in enumerate(counts, 1):
        end = counts[n] if n < len(counts) else len(items)
        for at in range(start, end - n + 1, n):
            if min_gram <= n <= max_gram:
                column[tuple(items[at:at + n])] = indexes[number]
            number += 1
    rows = x.reshape(-1, x.shape[-1]) if x.ndim else x.reshape(1, 1)
    seen = np.zeros((len(rows), max(indexes) + 1), np.float32)
    for r, row in enumerate(rows.tolist()):
        for n in range(min_gram, max_gram + 1):
            for step in range(1, 2 if n == 1 else max_skip + 2):
                for first in range(len(row) - (n - 1) * step):
                    found = column.get(tuple(row[first:first + (n - 1) * step + 1:step]))
                    if found is not None:
                        seen[r, found] += 1
    weight = np.asarray(weights, np.float32) if weights else np.ones(seen.shape[1], np.float32)
    y = seen if mode == "TF" else np.where(seen > 0, weight, np.float32(0)) if mode == "IDF" else seen * weight
    return y.reshape(*x.shape[:-1], seen.shape[1])
