"""Affine quantization: exact integers, the division in the scale's precision."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.codegen.kernel.expr import Expr, binary, call, cast, const, maximum, minimum, select
from graphopt.codegen.lower.common import ZERO, is_nan
from graphopt.codegen.lower.elementwise import convert
from graphopt.codegen.lower.registry import WIDENED, Accessor, OpView, compute, computed
from graphopt.ir.ops.quant import LARGEST_SHIFT
from graphopt.ir.types import F32, F64, I32, I64, DType


def _parameter(o: OpView, name: str, index: Sequence[Expr]) -> Expr | None:
    """The scale or zero point that holds for element `index` of x."""
    access: Accessor | None = o.accessor(name)
    if access is None:
        return None
    shape = o.shape(name)
    if len(shape) <= 1 and (not shape or shape[0] == 1):
        return access(*[ZERO] * len(shape))
    if o.block:
        return access(*(i // o.block if d == o.axis else i for d, i in enumerate(index)))
    return access(index[o.axis])


def _rounded_to(e: Expr, precision: DType) -> Expr:
    """`e` in the computed form of `precision`, rounded to it."""
    return cast(cast(e, precision), computed(precision)) if precision.name in WIDENED else cast(e, precision)


@compute("quantize")
def quantize(o: OpView, *i: Expr) -> Expr:
    d = o.types[1].dtype
    precision = d if d.is_float else F32
    scale = _parameter(o, "scale", i)
    assert scale is not None
    quotient = _rounded_to(_rounded_to(o.x(*i), precision) / _rounded_to(scale, precision), precision)
    zero_point = _parameter(o, "zero_point", i)
    if o.to.is_float:
        return cast(quotient if zero_point is None else quotient + cast(zero_point, quotient.dtype), o.dtype)
    return _saturated(quotient, zero_point, o.to)


def _saturated(x: Expr, zero_point: Expr | None, to: DType) -> Expr:
    """The nearest integer, even of two, plus the zero point, within the limits of `to`; NaN becomes the zero point."""
    # Up to 16 bits f32 is enough: where adding the zero point is inexact, the sum is far outside the range.
    work = F64 if to.bits > 16 else x.dtype
    steps = cast(call("round", x), work)
    steps = select(is_nan(steps), const(0, work), steps)
    if zero_point is not None:
        steps = steps + cast(zero_point, work)
    info = np.iinfo(to.numpy)
    return convert(minimum(maximum(steps, const(info.min, work)), const(info.max, work)), to)


@compute("requantize")
def requantize(o: OpView, *i: Expr) -> Expr:
    scale, shift, zero_point = (_channel(o, name, i) for name in ("scale", "shift", "zero_point"))
    assert scale is not None
    if shift is None:
        return _saturated(cast(o.x(*i), F32) * scale, zero_point, o.to)
    places = cast(minimum(maximum(shift, const(0, I32)), const(LARGEST_SHIFT, I32)), I64)
    one, none = const(1, I64), const(0, I64)
    half = select(places > none, binary("shl", one, maximum(places - one, none)), none)
    steps = binary("shr", cast(o.x(*i), I64) * cast(scale, I64) + half, places)
    info = np.iinfo(o.to.numpy)
    low, high = const(info.min, I64), const(info.max, I64)
    if zero_point is None:
        return cast(minimum(maximum(steps, low), high), o.to)
    point = cast(zero_point, I64)
    return cast(minimum(maximum(steps, low - point), high - point) + point, o.to)


def _channel(o: OpView, name: str, index: Sequence[Expr]) -> Expr | None:
    """The scale, shift or zero point of an element's channel."""
    access: Accessor | None = o.accessor(name)
    if access is None:
        return None
    shape = o.shape(name)
    return access(*([ZERO] * len(shape) if not shape or shape[0] == 1 else [index[o.axis]]))


@compute("dequantize")
def dequantize(o: OpView, *i: Expr) -> Expr:
    work = F64 if o.to is F64 else F32
    x, scale, zero_point = o.x(*i), _parameter(o, "scale", i), _parameter(o, "zero_point", i)
    assert scale is not None
    if zero_point is not None:
        exact = x.dtype if x.dtype.is_float else I64 if x.dtype.bits > 16 else I32
        x = cast(x, exact) - cast(zero_point, exact)
    return cast(cast(x, work) * cast(scale, work), o.dtype)
