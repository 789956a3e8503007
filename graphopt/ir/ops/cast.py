"""Changes of dtype: by value (`cast`) and by bits (`bitcast`)."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from graphopt.errors import EvaluationError
from graphopt.ir.ops.numeric import widen
from graphopt.ir.table import Operands, Trait, op, same_shape
from graphopt.ir.types import DType, dtype

ROUNDINGS = ("nearest", "up", "down")


def convert(x: np.ndarray, to: DType, saturate: bool = True, rounding: str = "nearest") -> np.ndarray:
    """`x` as dtype `to`, by ONNX Cast's tables (opset 25); see the op `cast`."""
    x = np.asarray(x)
    of = dtype(x.dtype)
    if of is to:
        return x.astype(to.numpy, copy=False)
    if to.kind == "str":
        return _to_strings(x)
    if of.kind == "str":
        return _from_strings(x, to, saturate, rounding)
    if to.kind == "bool":
        return widen(x) != 0
    if to.is_float:
        if to.name == "f8e8m0":
            return _to_e8m0(x, saturate, rounding)
        return _to_float(x, to, saturate)
    wide = widen(x)
    if to.bits < 8:  # integers narrower than a byte take their low bits
        wide = wide.astype(np.int64)
    return wide.astype(to.numpy)


def _to_float(x: np.ndarray, to: DType, saturate: bool) -> np.ndarray:
    wide = widen(x)
    if to.bits > 8:
        return wide.astype(to.numpy)
    wide = wide if wide.dtype == np.float64 else wide.astype(np.float32)
    limits = ml_dtypes.finfo(to.numpy)
    low, high = float(limits.min), float(limits.max)
    if saturate and to.bits == 8:
        wide = np.clip(wide, low, high)
    return wide.astype(to.numpy)


def _to_e8m0(x: np.ndarray, saturate: bool, rounding: str) -> np.ndarray:
    """Powers of two from 2^-127 to 2^127, code 255 for NaN. A negative operand gives NaN."""
    wide = widen(x).astype(np.float64)
    mantissa, exponent = np.frexp(np.where(np.isfinite(wide) & (wide > 0), wide, 1.0))
    mantissa, code = mantissa * 2, exponent.astype(np.int64) - 1 + 127
    code += {"nearest": mantissa >= 1.5, "up": mantissa > 1, "down": np.zeros_like(mantissa, bool)}[rounding]
    code = np.where(wide == 0, -1, np.where(wide == np.inf, 255, code))
    code = np.clip(code, 0, 254) if saturate else np.where((code < 0) | (code > 254), 255, code)
    return np.where(np.isnan(wide) | (wide < 0), 255, code).astype(np.uint8).view(ml_dtypes.float8_e8m0fnu)


def _to_strings(x: np.ndarray) -> np.ndarray:
    wide = x.astype(np.float32) if dtype(x.dtype).is_float and dtype(x.dtype).bits < 16 else x
    out = np.empty(x.shape, object)
    out.reshape(-1)[:] = [str(v) for v in wide.reshape(-1)]
    return out


def _from_strings(x: np.ndarray, to: DType, saturate: bool, rounding: str) -> np.ndarray:
    def read(s: str) -> int | float:
        return int(s) if not to.is_float and _is_integer(s) else float(s)

    try:
        numbers = [read(str(s).strip()) for s in x.reshape(-1)]
    except ValueError as e:
        raise EvaluationError(f"cannot cast a string to {to}: {e}") from None
    if to.is_integer and all(isinstance(n, int) for n in numbers):  # exact beyond 2^53
        mask = (1 << to.bits) - 1
        unsigned = np.array([int(n) & mask for n in numbers], np.uint64).reshape(x.shape)
        return convert(unsigned, to)
    return convert(np.array(numbers, np.float64).reshape(x.shape), to, saturate, rounding)


def _is_integer(s: str) -> bool:
    return s.lstrip("+-").isdigit()


def _cast_shape(o: Operands) -> object:
    if o.rounding not in ROUNDINGS:
        raise o.fail(f"rounding must be one of {', '.join(ROUNDINGS)}, got {o.rounding!r}")
    return same_shape(o)


@op('cast(x: T; to: dtype, saturate: bool = true, rounding: str = "nearest") -> @to', T="any",
    shape=_cast_shape, traits=Trait.ELEMENTWISE)
def cast(x, *, to, saturate, rounding):
    """`x` converted to dtype `to`, as ONNX Cast does.

    Float to float rounds to nearest even and overflows to infinity; float to integer truncates towards zero,
    NaN and values out of range give what x86 does; integer to integer keeps the low bits; anything to bool
    asks whether it differs from zero. To f8, `saturate` clamps values out of range, infinity included, to
    the largest one; without it they become NaN, or infinity where the format has one. To f4e2m1 values
    always clamp, and NaN, which it lacks, becomes a zero as in ONNX's reference. `rounding` (nearest, up, down) is
    read by f8e8m0 alone. Numbers become strings as Python prints them, and strings are read as Python's `int`
    and `float` read them, inf and nan included.
    """
    return convert(x, to, saturate, rounding)


def _bitcast_shape(o: Operands) -> object:
    if o.x.dtype.bits != o.to.bits or "str" in (o.x.dtype.name, o.to.name):
        raise o.fail(f"{o.x.dtype} and {o.to} differ in width")
    return same_shape(o)


@op("bitcast(x: T; to: dtype) -> @to", T="any", shape=_bitcast_shape, traits=Trait.ELEMENTWISE | Trait.VIEW)
def bitcast(x, *, to):
    """The bits of `x` read as dtype `to`, which is as wide. A bool is a byte of 0 or 1."""
    return np.ascontiguousarray(x).reshape(np.shape(x)).view(to.numpy)
