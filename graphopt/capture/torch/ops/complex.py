"""Arithmetic of complex tensors on their parts, by the formulas that torch's kernels use.

What only moves elements needs no entry: see `graphopt.capture.torch.pairs.moved`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from graphopt.capture.torch.context import Context, Refusal
from graphopt.capture.torch.ops import pointwise
from graphopt.capture.torch.pairs import Complex, interleaved, taken_apart
from graphopt.capture.torch.table import ATEN, aten, aten_complex, parameters
from graphopt.ir.graph import Value
from graphopt.ir.types import BOOL, DType

Z = Complex


def complex_of(c: Context, x: Any, dtype: DType | None = None) -> Z:
    """A complex or real tensor, a number or a dim as a complex tensor with parts of that dtype, by default the result's."""
    dtype = dtype or c.dtype
    if isinstance(x, Z):
        return x if x.dtype is dtype else Z(c.cast(x.re, dtype), c.cast(x.im, dtype), x.real)
    if isinstance(x, complex):
        return Z(c.scalar(x.real, dtype), c.scalar(x.imag, dtype))
    return Z(c.operand(x, dtype), c.scalar(0, dtype), real=True)


def operands(c: Context, *xs: Any) -> list[Z]:
    return [complex_of(c, x) for x in xs]


def shaped(c: Context, z: Z) -> Z:
    """Both parts in the result's shape, where one was left to broadcasting."""
    return Z(c.expand(z.re, c.shape), c.expand(z.im, c.shape), z.real)


# Parts ------------------------------------------------------------------------------------------
@aten_complex("aten.view_as_real.default", "aten.view_as_real_copy.default")
def _(c: Context, x: Z) -> Value:
    return interleaved(c, x)


@aten_complex("aten.view_as_complex.default", "aten.view_as_complex_copy.default")
def _(c: Context, x: Value) -> Z:
    return taken_apart(c, x)


@aten_complex("aten.view.dtype", "prims.view_of_dtype.default")
def _(c: Context, x: Any) -> Any:
    wide = interleaved(c, x) if isinstance(x, Z) else x
    if isinstance(c.val, torch.Tensor) and c.val.dtype.is_complex:
        if wide.dtype is not c.dtype:
            raise Refusal("a view of another element size")
        return x if isinstance(x, Z) else taken_apart(c, c.reshape(x, (*c.shape, 2)))
    if wide.dtype is not c.dtype:
        raise Refusal("a view of another element size")
    return c.reshape(wide, c.shape)


@aten_complex("aten.real.default")
def _(c: Context, x: Z) -> Value:
    return x.re


@aten_complex("aten.imag.default")
def _(c: Context, x: Z) -> Value:
    return x.im


@aten_complex("aten.complex.default")
def _(c: Context, real: Value, imag: Value) -> Z:
    return shaped(c, Z(real, imag))


@aten_complex("aten.polar.default")
def _(c: Context, abs: Value, angle: Value) -> Z:
    return Z(c.b.mul(abs, c.b.cos(angle)), c.b.mul(abs, c.b.sin(angle)))


@aten_complex("aten.conj.default", "aten._conj.default", "aten.conj_physical.default", "aten._conj_physical.default")
def _(c: Context, x: Z) -> Z:
    return Z(x.re, c.b.neg(x.im))


@aten_complex("aten.clone.default", "aten.detach.default", "aten.alias.default", "aten.contiguous.default",
              "aten.resolve_conj.default", "aten.lift_fresh_copy.default",
              "aten.lift_fresh.default", "aten.positive.default", "aten.detach_.default",
              "aten.resolve_neg.default", "prims.view_of.default", "prims.copy_strided.default")
def _(c: Context, x: Z) -> Z:
    return x


@aten_complex("aten._to_copy.default", "aten.to.dtype", "aten.to.device", "aten.to.dtype_layout",
              "prims.convert_element_type.default", "aten.type_as.default")
def _(c: Context, x: Any) -> Any:
    """To real: the real part. To bool: is it other than zero?"""
    if c.val.dtype.is_complex:
        return shaped(c, complex_of(c, x))
    return nonzero(c, x) if c.dtype is BOOL else c.cast(x.re, c.dtype)


@aten_complex("aten.abs.default")
def _(c: Context, x: Z) -> Value:
    return modulus(c, x)


def modulus(c: Context, z: Z) -> Value:
    return pointwise.length(c, z.re, z.im)


@aten_complex("aten.angle.default")
def _(c: Context, x: Z) -> Value:
    return c.b.atan2(x.im, x.re)


@aten_complex("aten.sgn.default")
def _(c: Context, x: Z) -> Z:
    size = modulus(c, x)
    zero = c.scalar(0, x.dtype)
    none = c.b.equal(size, zero)
    return Z(*(c.b.where(none, zero, c.b.div(v, size)) for v in (x.re, x.im)))


# Numbers for elements -----------------------------------------------------------------------------
@aten_complex("aten.full.default", "aten.full_like.default", "aten.new_full.default")
def _(c: Context, fill_value: Any) -> Z:
    return shaped(c, complex_of(c, fill_value))


@aten_complex("aten.fill.Scalar", "aten.fill.Tensor")
def _(c: Context, value: Any) -> Z:
    return shaped(c, complex_of(c, value))


@aten_complex("aten.scalar_tensor.default")
def _(c: Context, s: Any) -> Z:
    return complex_of(c, s)


def _number(value: int) -> Any:
    def entry(c: Context) -> Any:
        return shaped(c, complex_of(c, value)) if c.val.dtype.is_complex else c.full(value, c.shape, c.dtype)
    return entry


aten_complex("aten.zeros.default", "aten.zeros_like.default", "aten.new_zeros.default", "aten.empty.memory_format",
             "aten.empty_like.default", "aten.new_empty.default", "aten.empty_strided.default", "aten.new_empty_strided.default",
             "aten.empty_permuted.default", "aten.zero.default", "prims.empty_strided.default")(_number(0))
aten_complex("aten.ones.default", "aten.ones_like.default", "aten.new_ones.default")(_number(1))


@aten_complex("aten.eye.default", "aten.eye.m")
def _(c: Context, n: Any, m: Any = None) -> Z:
    return shaped(c, complex_of(c, ATEN["aten.eye.m"](c, n, m)))


# Arithmetic ---------------------------------------------------------------------------------------
@aten_complex("aten.add.Tensor", "aten.add.Scalar")
def _(c: Context, x: Any, other: Any, alpha: Any = 1) -> Z:
    a, b = operands(c, x, other)
    return added(c, a, b if alpha == 1 else times(c, b, complex_of(c, alpha)))


@aten_complex("aten.sub.Tensor", "aten.sub.Scalar")
def _(c: Context, x: Any, other: Any, alpha: Any = 1) -> Z:
    return _minus(c, x, other, alpha)


@aten_complex("aten.rsub.Tensor", "aten.rsub.Scalar")
def _(c: Context, x: Any, other: Any, alpha: Any = 1) -> Z:
    return _minus(c, other, x, alpha)


def _minus(c: Context, x: Any, other: Any, alpha: Any) -> Z:
    a, b = operands(c, x, other)
    b = b if alpha == 1 else times(c, b, complex_of(c, alpha))
    return shaped(c, Z(c.b.sub(a.re, b.re), c.b.sub(a.im, b.im)))


def added(c: Context, a: Z, b: Z) -> Z:
    return shaped(c, Z(c.b.add(a.re, b.re), c.b.add(a.im, b.im)))


def times(c: Context, a: Z, b: Z) -> Z:
    """(a.re + i a.im) (b.re + i b.im), every product taken, as torch does: zeros times infinities are NaN."""
    return Z(c.b.sub(c.b.mul(a.re, b.re), c.b.mul(a.im, b.im)), c.b.add(c.b.mul(a.re, b.im), c.b.mul(a.im, b.re)))


def quotient(c: Context, a: Z, b: Z) -> Z:
    """Smith's division (CACM 5, 1962): by the larger part of the divisor first, so that nothing overflows on the way."""
    one, zero = c.scalar(1, b.dtype), c.scalar(0, b.dtype)
    re, im = c.b.abs(b.re), c.b.abs(b.im)
    by_re = c.b.greater_equal(re, im)
    large, small = c.b.where(by_re, b.re, b.im), c.b.where(by_re, b.im, b.re)
    ratio = c.b.div(small, large)
    scale = c.b.div(one, c.b.add(large, c.b.mul(small, ratio)))
    # by the real part: (a + b r, b - a r), by the imaginary one: (a r + b, b r - a)
    first = lambda x: c.b.where(by_re, x, c.b.mul(x, ratio))
    second = lambda x: c.b.where(by_re, c.b.mul(x, ratio), x)
    got = Z(c.b.mul(c.b.add(first(a.re), second(a.im)), scale), c.b.mul(c.b.sub(first(a.im), second(a.re)), scale))
    nothing = c.b.and_(c.b.equal(re, zero), c.b.equal(im, zero))
    return Z(c.b.where(nothing, c.b.div(a.re, re), got.re), c.b.where(nothing, c.b.div(a.im, im), got.im))


@aten_complex("aten.mul.Tensor", "aten.mul.Scalar")
def _(c: Context, x: Any, other: Any) -> Z:
    return shaped(c, times(c, *operands(c, x, other)))


@aten_complex("aten.div.Tensor", "aten.div.Scalar", "aten.div.Tensor_mode", "aten.div.Scalar_mode", "aten.true_divide.Tensor")
def _(c: Context, x: Any, other: Any, rounding_mode: str | None = None) -> Z:
    if rounding_mode is not None:
        raise Refusal("a rounded complex quotient")
    return shaped(c, quotient(c, *operands(c, x, other)))


@aten_complex("aten.reciprocal.default")
def _(c: Context, x: Z) -> Z:
    return quotient(c, complex_of(c, 1), x)


aten("aten._neg_view.default")(ATEN["aten.neg.default"])


@aten_complex("aten.neg.default", "aten._neg_view.default")
def _(c: Context, x: Z) -> Z:
    return Z(c.b.neg(x.re), c.b.neg(x.im))


@aten_complex("aten.square.default")
def _(c: Context, x: Z) -> Z:
    return times(c, x, x)


# Questions ----------------------------------------------------------------------------------------
def nonzero(c: Context, x: Any) -> Value:
    if not isinstance(x, Z):
        return c.boolean(x)
    return c.b.or_(c.boolean(x.re), c.boolean(x.im))


def _parts_dtype(c: Context, *xs: Any) -> DType:
    """The dtype of the parts in which complex tensors, real ones and numbers meet."""
    return c.promoted(*(x.re if isinstance(x, Z) else x.real if isinstance(x, complex) else x for x in xs))


def _compared(c: Context, x: Any, other: Any) -> Value:
    at = _parts_dtype(c, x, other)
    a, b = complex_of(c, x, at), complex_of(c, other, at)
    return c.b.and_(c.b.equal(a.re, b.re), c.b.equal(a.im, b.im))


@aten_complex("aten.eq.Tensor", "aten.eq.Scalar")
def _(c: Context, x: Any, other: Any) -> Value:
    return _compared(c, x, other)


@aten_complex("aten.ne.Tensor", "aten.ne.Scalar")
def _(c: Context, x: Any, other: Any) -> Value:
    return c.b.not_(_compared(c, x, other))


@aten_complex("aten.isnan.default")
def _(c: Context, x: Z) -> Value:
    return c.b.or_(c.b.isnan(x.re), c.b.isnan(x.im))


@aten_complex("aten.isinf.default")
def _(c: Context, x: Z) -> Value:
    return c.b.or_(c.b.isinf(x.re), c.b.isinf(x.im))


@aten_complex("aten.isfinite.default")
def _(c: Context, x: Z) -> Value:
    return c.b.and_(*(ATEN["aten.isfinite.default"](c, v) for v in (x.re, x.im)))


def _logical(name: str) -> None:
    handler = ATEN[name]
    given = [k for k in ("x", "other") if k in parameters(handler)]

    def one(c: Context, x: Any) -> Value:
        return handler(c, nonzero(c, x))

    def two(c: Context, x: Any, other: Any) -> Value:
        return handler(c, nonzero(c, x), nonzero(c, other))

    aten_complex(name)(two if "other" in given else one)


for _name in ("not", "and", "or", "xor"):
    _logical(f"aten.logical_{_name}.default")


@aten_complex("aten.any.default", "aten.any.dim", "aten.any.dims")
def _(c: Context, x: Z, dim: Any = None, keepdim: bool = False) -> Value:
    return ATEN["aten.any.dim"](c, nonzero(c, x), dim, keepdim)


@aten_complex("aten.all.default", "aten.all.dim", "aten.all.dims")
def _(c: Context, x: Z, dim: Any = None, keepdim: bool = False) -> Value:
    return ATEN["aten.all.dim"](c, nonzero(c, x), dim, keepdim)


@aten_complex("aten.nonzero.default", "aten.argwhere.default")
def _(c: Context, x: Z) -> Value:
    return ATEN["aten.nonzero.default"](c, nonzero(c, x))


# Nested programs ------------------------------------------------------------------------------------
aten_complex("wrap_with_set_grad_enabled")(lambda c, args: ATEN["wrap_with_set_grad_enabled"](c, args))

__all__: Sequence[str] = ["added", "complex_of", "modulus", "nonzero", "operands", "quotient", "shaped", "times"]
