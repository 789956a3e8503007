"""Affine quantization, as ONNX QuantizeLinear and DequantizeLinear define it."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from graphopt.ir.dims import Shape, ceil_div
from graphopt.ir.ops.numeric import widen
from graphopt.ir.table import Operands, lookup, op
from graphopt.ir.types import dtype


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
    info = ml_dtypes.iinfo(to.numpy)
    rounded = np.rint(quotient.astype(np.float64))
    rounded = np.where(np.isnan(rounded), 0.0, rounded)
    if shift is not None:
        rounded = rounded + shift.astype(np.float64)
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
