"""Affine quantization, as ONNX QuantizeLinear and DequantizeLinear define it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction

import ml_dtypes
import numpy as np

from graphopt.ir.dims import Shape, ceil_div
from graphopt.ir.ops.numeric import widen
from graphopt.ir.table import Operands, lookup, op
from graphopt.ir.types import DType, dtype


def _quant_shape(o: Operands) -> Shape:
    x, rank = o.x.shape, o.x.rank
    if not 0 <= o.axis < max(rank, 1):
        raise o.fail(f"axis={o.axis} is out of range for {o.x}")
    if o.block < 0:
        raise o.fail(f"block={o.block} must not be negative")
    for name, t in (("scale", o.scale), ("zero_point", o.zero_point)):
        if t is None or t.rank == 0 or t.shape == (1,):
            continue
        if o.block:
            wanted = tuple(ceil_div(d, o.block) if i == o.axis else d for i, d in enumerate(x))
        else:
            wanted = x[o.axis:o.axis + 1]
        if t.rank != len(wanted) or any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in zip(t.shape, wanted)):
            shown = ", ".join(map(str, wanted))
            raise o.fail(f"{name} is {t}, but x is {o.x} with axis={o.axis}, block={o.block}: it must be a scalar or [{shown}]")
    if o.zero_point is not None and o.zero_point.rank != o.scale.rank:
        raise o.fail(f"zero_point {o.zero_point} must have the shape of the scale {o.scale}")
    return x


def _quantize_shape(o: Operands) -> Shape:
    if o.zero_point is not None and o.zero_point.dtype is not o.to:
        raise o.fail(f"zero_point is {o.zero_point.dtype}, but the result is {o.to}")
    return _quant_shape(o)


def _spread(v: np.ndarray, x: np.ndarray, axis: int, block: int) -> np.ndarray:
    """A scale or zero point made to broadcast against x."""
    if v.size == 1 and v.ndim <= 1:
        return v.reshape(())
    if block:
        return np.repeat(v, block, axis=axis)[tuple(slice(n) for n in x.shape)]
    return v.reshape([-1 if i == axis else 1 for i in range(x.ndim)])


def _arithmetic(scale: np.ndarray) -> np.dtype:
    """The precision of the division: that of the scale, f32 where it has no arithmetic (f8e8m0, i32)."""
    d = dtype(scale.dtype)
    return d.numpy if d.is_float and d.bits >= 16 else np.dtype(np.float32)


@op("quantize(x: T, scale: S, zero_point?: Q; axis: int, block: int = 0, to: dtype, saturate: bool = true) -> @to",
    T="f16|bf16|f32|f64|i32", S="f16|bf16|f32|f64|f8e8m0|i32", Q="int|float", shape=_quantize_shape,
    operations=lambda o, results: 4 * results[0].size)
def quantize(x, scale, zero_point=None, *, axis, block, to, saturate):
    """round_half_even(x / scale) + zero_point in an integer dtype, saturated; NaN becomes the zero point.

    scale is a scalar or [1], [x.shape[axis]], or with block > 0 one value a block along `axis` (rank of x). The
    division is done in the scale's dtype. To a float dtype there is no rounding to integers, and `saturate`
    says whether what is too large becomes the largest finite value or infinity/NaN (ONNX QuantizeLinear).
    """
    precision = _arithmetic(scale)
    quotient = widen(x.astype(precision)) / widen(_spread(scale, x, axis, block).astype(precision))
    quotient = widen(quotient.astype(precision))
    shift = None if zero_point is None else _spread(zero_point, x, axis, block)
    if to.is_float:
        if shift is not None:
            quotient = quotient + widen(shift)
        return lookup("cast").evaluate(quotient.astype(widen(quotient).dtype), to=to, saturate=saturate, rounding="nearest")
    return _saturated(quotient, shift, to)


def _saturated(x: np.ndarray, zero_point: np.ndarray | None, to: DType) -> np.ndarray:
    """The nearest integer, even where two are, plus the zero point, within the limits of `to`; NaN becomes the zero point."""
    info = ml_dtypes.iinfo(to.numpy)
    rounded = np.rint(x.astype(np.float64))
    rounded = np.where(np.isnan(rounded), 0.0, rounded)
    if zero_point is not None:
        rounded = rounded + zero_point.astype(np.float64)
    return np.clip(rounded, int(info.min), int(info.max)).astype(np.int64).astype(to.numpy)


@op("dequantize(x: Q, scale: S, zero_point?: Q; axis: int, block: int = 0, to: dtype) -> @to",
    Q="int|float", S="f16|bf16|f32|f64|f8e8m0", shape=_quant_shape, operations=lambda o, results: 2 * results[0].size)
def dequantize(x, scale, zero_point=None, *, axis, block, to):
    """(x - zero_point) * scale, the difference exact, the product in f32 (f64 for a f64 result), rounded once to `to`.

    scale and zero_point as in `quantize` (ONNX DequantizeLinear).
    """
    work = np.float64 if to.bits == 64 else np.float32
    if dtype(x.dtype).is_integer:
        shift = 0 if zero_point is None else _spread(zero_point, x, axis, block).astype(np.int64)
        difference = (x.astype(np.int64) - shift).astype(work)
    else:
        shift = 0 if zero_point is None else _spread(zero_point, x, axis, block).astype(work)
        difference = x.astype(work) - shift
    return (difference * _spread(scale, x, axis, block).astype(work)).astype(to.numpy)


LARGEST_SHIFT = 62  # 2^62 times a half fits beside a product of two i32 in an i64


def _requantize_shape(o: Operands) -> Shape:
    x = o.x.shape
    if not 0 <= o.axis < max(len(x), 1):
        raise o.fail(f"axis={o.axis} is out of range for {o.x}")
    if o.fixed != o.scale.dtype.is_integer:
        raise o.fail(f"the scale is {o.scale.dtype}: a multiplier in i32 goes with fixed=true, a scale in f32 with fixed=false")
    if o.fixed != (o.shift is not None):
        raise o.fail("a multiplier needs a shift" if o.fixed else "a scale in f32 has no shift")
    if not o.to.is_integer or o.to.bits > 32:
        raise o.fail(f"to={o.to} must be an integer dtype of at most 32 bits")
    if o.zero_point is not None and o.zero_point.dtype is not o.to:
        raise o.fail(f"zero_point is {o.zero_point.dtype}, but the result is {o.to}")
    channels = x[o.axis] if x else 1
    for name, t in (("scale", o.scale), ("shift", o.shift), ("zero_point", o.zero_point)):
        if t is None or t.rank == 0 or t.shape == (1,):
            continue
        if t.rank != 1 or (isinstance(t.shape[0], int) and isinstance(channels, int) and t.shape[0] != channels):
            raise o.fail(f"{name} is {t}, but x is {o.x} with axis={o.axis}: it must be a scalar or [{channels}]")
    return x


@op("requantize(x: A, scale: S, shift?: I, zero_point?: Q; axis: int, to: dtype, fixed: bool = false) -> @to",
    A="i32", S="f32|i32", I="i32", Q="int", shape=_requantize_shape, operations=lambda o, results: 5 * results[0].size)
def requantize(x, scale, shift=None, zero_point=None, *, axis, to, fixed):
    """A contraction's sum in i32 as an integer of another scale: x * scale, rounded, plus the zero point, saturated.

    scale, shift and zero_point are scalars, [1], or one for each index of `axis`. The result is the same bits everywhere:

    - fixed=false: scale in f32. x becomes the nearest f32 (even of two), the product is rounded to f32, then to the nearest
      integer, even of two; NaN becomes 0.
    - fixed=true: scale is a multiplier in i32, and the product is divided by 2^shift: floor(x * scale / 2^shift + 1/2), exactly,
      the greater of two nearest integers (as TFLite's single rounding does). A shift beyond 0..62 is taken as the nearest within.

    The zero point is added without overflow, and what is then outside of `to` becomes its least or greatest value.
    """
    scale, shift, zero_point = (None if v is None else _spread(v, x, axis, 0) for v in (scale, shift, zero_point))
    if not fixed:
        with np.errstate(all="ignore"):
            return _saturated(x.astype(np.float32) * scale, zero_point, to)
    places = np.clip(shift, 0, LARGEST_SHIFT).astype(np.int64)
    half = np.where(places > 0, np.int64(1) << np.maximum(places - 1, 0), 0)
    steps = (x.astype(np.int64) * scale.astype(np.int64) + half) >> places
    info = ml_dtypes.iinfo(to.numpy)
    # The zero point moves the limits, where nothing can overflow.
    point = np.int64(0) if zero_point is None else zero_point.astype(np.int64)
    return (np.clip(steps, int(info.min) - point, int(info.max) - point) + point).astype(to.numpy)


def fixed_point(scales: Iterable[float]) -> tuple[np.ndarray, np.ndarray]:
    """Multipliers of 31 bits and shifts for which multiplier / 2^shift is nearest to each positive scale; both in i32.

    Raises ValueError where a scale is not positive and below 2^31.
    """
    multipliers, shifts = [], []
    for scale in scales:
        if not 0 < scale < 2**31:
            raise ValueError(f"{scale} is no positive scale below 2^31")
        shift = min(31 - math.frexp(scale)[1], LARGEST_SHIFT)  # the least scales have fewer bits
        multiplier = round(Fraction(scale) * 2**shift)
        if multiplier == 2**31:
            multiplier, shift = 2**30, shift - 1
        multipliers.append(multiplier)
        shifts.append(shift)
    return np.array(multipliers, np.int32), np.array(shifts, np.int32)
