"""ONNX's maps: Python's dicts. They run on the evaluator."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.errors import EvaluationError
from graphopt.ir.table import Operands, op
from graphopt.ir.types import F32, I64, STR, MapType, SequenceType, TensorType, Type

CASTS = {"TO_FLOAT": (F32, float), "TO_INT64": (I64, int), "TO_STRING": (STR, str)}


def _keys(o: Operands) -> int:
    if bool(o.ints) == bool(o.strings):
        raise o.fail("needs keys that are integers, or strings")
    return len(o.ints or o.strings)


def _zipped(o: Operands) -> list[Type]:
    count = _keys(o)
    if o.x.rank not in (1, 2) or (isinstance(o.x.shape[-1], int) and o.x.shape[-1] != count):
        raise o.fail(f"{o.x} has no column for each of {count} keys")
    return [SequenceType(MapType(I64 if o.ints else STR, TensorType(o.x.dtype, ())))]


@op("zip_map(x: f32; ints: ints = [], strings: strs = []) -> any*", types=_zipped)
def zip_map(x, *, ints, strings):
    """A map for each row of x [N, keys] (or one, for [keys]), from the keys to its elements, in the order of the keys."""
    keys = ints or strings
    if x.shape[-1] != len(keys):
        raise EvaluationError(f"{len(keys)} keys for {x.shape[-1]} columns")
    order = sorted(range(len(keys)), key=lambda k: keys[k])
    columns = x.reshape(-1, len(keys))[:, order].tolist()
    return [dict(zip([keys[k] for k in order], row)) for row in columns]


def _map(o: Operands) -> MapType:
    t = o.types[0]
    if not isinstance(t, MapType):
        raise o.fail(f"needs a map, got {t}")
    return t


def _vector(o: Operands) -> list[Type]:
    element = _map(o).element
    assert isinstance(element, TensorType)
    return [TensorType(element.dtype, (1, _keys(o)))]


@op("dict_vectorize(x: any; ints: ints = [], strings: strs = []) -> any*", types=_vector)
def dict_vectorize(x, *, ints, strings, result_types):
    """The elements of a map by the keys of a vocabulary, [1, keys]: 0, or the empty string, for those that it lacks
    (ONNX-ML DictVectorizer)."""
    keys, of = ints or strings, result_types[0].dtype
    missing: Any = "" if of is STR else 0
    return np.array([[x.get(k, missing) for k in keys]], of.numpy)


def _cast_types(o: Operands) -> list[Type]:
    _map(o)
    if o.to not in CASTS or o.form not in ("DENSE", "SPARSE"):
        raise o.fail(f"to={o.to!r}, form={o.form!r}; known: {', '.join(CASTS)} and DENSE, SPARSE")
    shape: Any = (1, o.size if o.form == "SPARSE" else None)
    return [TensorType(CASTS[o.to][0], shape)]


@op("cast_map(x: any; to: str, form: str, size: int) -> any*", types=_cast_types)
def cast_map(x, *, to, form, size):
    """The elements of a map in the order of its keys (DENSE), or each at its key in `size` places, 0 elsewhere (SPARSE), [1, n]
    (ONNX-ML CastMap)."""
    of, convert = CASTS[to]
    if form == "DENSE":
        return np.array([[convert(x[k]) for k in sorted(x)]], of.numpy).reshape(1, len(x))
    out = np.full((1, size), "0.f" if of is STR else 0, of.numpy)
    for k, v in x.items():
        if not 0 <= k < size:
            raise EvaluationError(f"key {k} of the map has no place among {size}")
        out[0, k] = convert(v)
    return out
