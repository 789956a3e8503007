"""Guards and helpers that several passes' rules share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphopt.ir.dims import DimLike
from graphopt.ir.graph import Value
from graphopt.ir.types import DType, TensorType
from graphopt.rewrite.engine.pattern import Match

Guard = Callable[[Match], bool]


def is_float(m: Match) -> bool:
    """Is the root's result a float?"""
    return bool(m.result.dtype.is_float)


def is_integer(m: Match) -> bool:
    return bool(m.result.dtype.is_integer)


def known_shape(v: Value | None) -> tuple[DimLike, ...] | None:
    """The shape of a tensor of known rank, else None."""
    return v.type.shape if v is not None and isinstance(v.type, TensorType) else None


def static_shape(v: Value | None) -> tuple[int, ...] | None:
    """The shape of a tensor where it is all numbers, else None."""
    return v.type.static_shape if v is not None and isinstance(v.type, TensorType) and v.type.is_static else None


def same_type(a: Value, b: Value) -> bool:
    """Same dtype and, known to be, the same shape."""
    return a.dtype is b.dtype and known_shape(a) is not None and known_shape(a) == known_shape(b)


def as_result(m: Match, v: Value) -> Value | None:
    """`v` broadcast to the root's shape; None where that is not known, or the dtype another."""
    shape = known_shape(m.result)
    if shape is None or known_shape(v) is None or v.dtype is not m.result.dtype:
        return None
    return v if v.shape == shape else m.build.expand(v, shape=shape)


def filled(m: Match, number: Any) -> Value | None:
    """The root's result as one number everywhere."""
    return as_result(m, m.build.const(number, m.result.dtype))


def operand_as_result(name: str) -> Callable[[Match], Value | None]:
    """A replacement: the value bound to that name, broadcast."""
    return lambda m: as_result(m, m.values[name])


def merged(m: Match, a: str, b: str, f: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Value | None:
    """The constant f(#a, #b); None where it would be larger than both."""
    x, y = m.array(a), m.array(b)
    with np.errstate(all="ignore"):
        out = np.asarray(f(x, y)).astype(x.dtype)
    return m.build.const(out) if out.size <= max(x.size, y.size) else None


def inverse(perm: Sequence[int]) -> tuple[int, ...]:
    """The permutation that undoes `perm`."""
    out = [0] * len(perm)
    for i, p in enumerate(perm):
        out[p] = i
    return tuple(out)


def widens(a: DType, b: DType) -> bool:
    """Does dtype `b` hold every value of `a` exactly?"""
    if a is b:
        return True
    if a.kind == "bool":
        return b.kind in ("int", "uint", "float") and b.bits >= 8 and not b.name.startswith("f8")
    if a.is_integer and b.is_integer:
        return b.bits > a.bits and not (a.kind == "int" and b.kind == "uint")
    digits = {"f16": 11, "bf16": 8, "f32": 24, "f64": 53}
    if b.name not in digits:
        return False
    if a.is_integer:
        return digits[b.name] >= a.bits - (a.kind == "int") and b.name != "f16"
    exponents = {"f16": 5, "bf16": 8, "f32": 8, "f64": 11}
    return a.name in digits and digits[a.name] <= digits[b.name] and exponents[a.name] <= exponents[b.name]
