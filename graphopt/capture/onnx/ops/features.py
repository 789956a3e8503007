"""Preparation of features in ai.onnx.ml: scaling, imputing, encoding, maps."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from graphopt.capture.onnx.context import Context, Node, rank_of
from graphopt.capture.onnx.ops.scores import batched
from graphopt.capture.onnx.table import Results, entry
from graphopt.ir.dims import product
from graphopt.ir.graph import Value
from graphopt.ir.types import F32, I64, STR

ML = "ai.onnx.ml"
DENSE_FROM = 1024  # integer keys that lie this near to each other, or have one place in four taken, are looked up in a table

log = logging.getLogger(__name__)


@entry("Binarizer", domain=ML)
def binarizer(b: Context, n: Node) -> Results:
    x = n[0]
    wide = x if x.dtype.is_float else b.to(x, F32)
    return b.cast(b.greater(wide, n.attr("threshold", 0.0)), to=x.dtype)


@entry("Normalizer", domain=ML)
def normalizer(b: Context, n: Node) -> Results:
    """Each row divided by its greatest element, the sum of its absolute values, or its Euclidean norm, where that is not zero."""
    x = b.to(n[0], F32)
    norm, axes = n.attr("norm", "MAX"), (len(rank_of(x)) - 1,)
    if norm == "MAX":
        size = b.reduce_max(x, axes=axes, keepdims=True)
    elif norm == "L1":
        size = b.reduce_sum(b.abs(x), axes=axes, keepdims=True)
    elif norm == "L2":
        size = b.sqrt(b.reduce_sum(b.mul(x, x), axes=axes, keepdims=True))
    else:
        raise n.error(f"norm={norm!r}", "Known: MAX, L1, L2")
    return b.div(x, b.where(b.equal(size, 0.0), b.const(1, F32), size))


@entry("Scaler", domain=ML)
def scaler(b: Context, n: Node) -> Results:
    x = b.to(n[0], F32)
    offset, scale = (np.asarray(n.attr(a, [d]), np.float32) for a, d in (("offset", 0.0), ("scale", 1.0)))
    width = rank_of(x)[-1]
    for name, v in (("offset", offset), ("scale", scale)):
        if v.size != 1 and isinstance(width, int) and v.size != width:
            raise n.error(f"{name} has {v.size} elements for {width} features")
    return b.mul(b.sub(x, b.const(offset)), b.const(scale))


@entry("Imputer", domain=ML)
def imputer(b: Context, n: Node) -> Results:
    """Elements equal to the one to be replaced (NaN included) become the value of their column."""
    x = n[0]
    kind = "float" if x.dtype.is_float else "int64"
    old, new = n.attr(f"replaced_value_{kind}", 0), np.asarray(n.attr(f"imputed_value_{kind}s"))
    width = rank_of(x)[-1]
    if new.size != 1 and isinstance(width, int) and new.size != width:
        raise n.error(f"has {new.size} imputed values for {width} features")
    gone = b.isnan(x) if old != old else b.equal(x, old)
    return b.where(gone, b.const(new, x.dtype), x)


@entry("FeatureVectorizer", domain=ML)
def feature_vectorizer(b: Context, n: Node) -> Results:
    """All operands side by side, each cut to its stated width, or filled up with zeros."""
    parts = []
    given, widths = [v for v in n.inputs if v is not None], n.attr("inputdimensions")
    if len(given) != len(widths):
        raise n.error(f"has {len(given)} inputs and {len(widths)} inputdimensions")
    for v, width in zip(given, widths):
        v = batched(b, b.to(v, F32))
        dims = rank_of(v)
        v = v if len(dims) == 2 else b.reshape(v, shape=(dims[0], product(dims[1:])))
        has = rank_of(v)[1]
        if isinstance(has, int) and has < width:
            v = b.concat(v, b.full(0, (rank_of(v)[0], width - has), F32), axis=1)
        parts.append(v if has == width or (isinstance(has, int) and has < width) else b.cut(v, 1, 0, width))
    return parts[0] if len(parts) == 1 else b.concat(*parts, axis=1)


@entry("ArrayFeatureExtractor", domain=ML)
def array_feature_extractor(b: Context, n: Node) -> Results:
    """Columns of x by their numbers: the last axis becomes as long as there are. A vector gives one row, as in onnxruntime."""
    x, index = n[0], n[1]
    dims = rank_of(x)
    flat = b.reshaped(index, (product(rank_of(index)),))
    return b.gather(batched(b, x), flat, axis=max(len(dims) - 1, 1))


# Categories ---------------------------------------------------------------------------------
@entry("OneHotEncoder", domain=ML)
def one_hot_encoder(b: Context, n: Node) -> Results:
    """A new last axis with one place for each category; unknown ones give zeros. With zeros=0 the document has them fail, which
    no kernel can: they give zeros too, and that is announced."""
    x = n[0]
    strings = n.attr("cats_strings", None)
    if strings:
        categories = np.array(strings, dtype=object)
    else:
        categories = np.array(n.attr("cats_int64s"), dtype=np.int64)
        x = b.to(x, I64)
    if not n.attr("zeros", 1):
        log.info("%s: %s has zeros=0: categories that it does not know give rows of zeros rather than an error", n.place, n.kind)
    if strings:
        numbers = np.arange(len(strings), dtype=np.int64)
        x = b.label_encode(x, b.const(categories), b.const(numbers), b.const(np.array(-1, np.int64)))
        categories = numbers
    return b.cast(b.equal(b.unsqueezed(x, [len(rank_of(x))]), b.const(categories)), to=F32)


@entry("CategoryMapper", domain=ML)
def category_mapper(b: Context, n: Node) -> Results:
    names, numbers = np.array(n.attr("cats_strings"), dtype=object), np.array(n.attr("cats_int64s"), dtype=np.int64)
    if n[0].dtype is STR:
        return encoded(b, n, names, numbers, np.array(n.attr("default_int64", -1), np.int64))
    return encoded(b, n, numbers, names, np.array(n.attr("default_string", "_Unused"), dtype=object))


_KEYS = {"strings": (object, "_Unused"), "int64s": (np.int64, -1), "floats": (np.float32, -0.0)}


@entry("LabelEncoder", domain=ML)
def label_encoder_1(b: Context, n: Node) -> Results:
    """Before version 2: strings to their place in a list, and back."""
    names = np.array(n.attr("classes_strings"), dtype=object)
    places = np.arange(len(names), dtype=np.int64)
    if n[0].dtype is STR:
        return encoded(b, n, names, places, np.array(n.attr("default_int64", -1), np.int64))
    return encoded(b, n, places, names, np.array(n.attr("default_string", "_Unused"), dtype=object))


@entry("LabelEncoder", domain=ML, since=2)
def label_encoder(b: Context, n: Node) -> Results:
    keys, _ = _column(n, "keys")
    labels, default = _column(n, "values")
    return encoded(b, n, keys.reshape(-1), labels.reshape(-1), default)


def _column(n: Node, side: str) -> tuple[np.ndarray, np.ndarray]:
    """Keys or values, and the default of that kind."""
    column = n.attr(f"{side}_tensor", None)
    if column is not None:
        fallback: Any = n.attr("default_tensor", None)
        if fallback is None or not np.size(fallback):
            fallback = "_Unused" if column.dtype == object else -1 if column.dtype.kind in "iu" else -0.0
        return column, np.asarray(fallback, dtype=column.dtype).reshape(-1)[:1].reshape(())
    for kind, (np_type, plain) in _KEYS.items():
        if f"{side}_{kind}" in n.attrs:
            default = n.attr("default_tensor", None)
            if default is None or not np.size(default):
                default = n.attr(f"default_{kind[:-1]}", plain)
            one = np.array(default, dtype=np_type).reshape(-1)[:1].reshape(())
            return np.array(n.attrs[f"{side}_{kind}"], dtype=np_type), one
    raise n.error(f"has no {side}")


def encoded(b: Context, n: Node, keys: np.ndarray, labels: np.ndarray, default: np.ndarray) -> Value:
    """The label of each element's key, of equal ones the last, `default` where there is none. Numbers are looked up in a table
    where their keys lie close together, else searched for; strings go to the evaluator."""
    x = n[0]
    if len(keys) != len(labels):
        raise n.error(f"has {len(keys)} keys for {len(labels)} values")
    if keys.dtype == object or labels.dtype == object or not keys.size:
        if (x.dtype is STR) != (keys.dtype == object):
            raise n.error(f"has keys of {keys.dtype}, but its input is {x.dtype}")
        return b.label_encode(x, b.const(keys, x.dtype), b.const(labels), b.const(default, labels.dtype))
    keys = keys.astype(x.dtype.numpy)
    other = b.const(default.astype(labels.dtype))
    if keys.dtype.kind == "f" and (missing := np.isnan(keys)).any():
        of_nan = labels[np.flatnonzero(missing)[-1]]
        rest = _numbered(b, x, keys[~missing], labels[~missing], other) if not missing.all() else other
        return b.where(b.isnan(x), b.const(of_nan), rest)
    return _numbered(b, x, keys, labels, other)


def _numbered(b: Context, x: Value, keys: np.ndarray, labels: np.ndarray, other: Value) -> Value:
    _, last = np.unique(keys[::-1], return_index=True)  # sorted, and of equal keys the last
    keys, labels = keys[::-1][last], labels[::-1][last]
    low, high = keys[0], keys[-1]
    if keys.dtype.kind in "iu" and int(high) - int(low) < max(DENSE_FROM, 4 * len(keys)):
        table = np.full(int(high) - int(low) + 1, other.constant, labels.dtype)
        table[(keys.astype(np.int64) - int(low))] = labels
        known = b.and_(b.greater_equal(x, b.const(low)), b.less_equal(x, b.const(high)))
        place = b.sub(b.to(b.where(known, x, b.const(low)), I64), int(low))
        return b.where(known, b.gather(b.const(table), place, axis=0), other)
    place = b.minimum(b.search_sorted(x, b.const(keys)), len(keys) - 1)
    return b.where(b.equal(b.gather(b.const(keys), place, axis=0), x), b.gather(b.const(labels), place, axis=0), other)


# Maps ---------------------------------------------------------------------------------------
def _keys(n: Node, ints: str, strings: str) -> dict[str, list[Any]]:
    given = {"ints": n.attr(ints, None) or [], "strings": n.attr(strings, None) or []}
    if bool(given["ints"]) == bool(given["strings"]):
        raise n.error(f"needs one of {ints} and {strings}")
    return given


@entry("ZipMap", domain=ML)
def zip_map(b: Context, n: Node) -> Results:
    return b.op("zip_map", [b.to(n[0], F32)], _keys(n, "classlabels_int64s", "classlabels_strings")).result


@entry("DictVectorizer", domain=ML)
def dict_vectorizer(b: Context, n: Node) -> Results:
    return b.op("dict_vectorize", [n[0]], _keys(n, "int64_vocabulary", "string_vocabulary")).result


@entry("CastMap", domain=ML)
def cast_map(b: Context, n: Node) -> Results:
    return b.op("cast_map", [n[0]], {"to": n.attr("cast_to", "TO_FLOAT"), "form": n.attr("map_form", "DENSE"),
                                     "size": n.attr("max_map", 1)}).result
