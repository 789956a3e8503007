"""Arithmetic of complex tensors on their parts, by the formulas that torch's kernels use.

What only moves elements needs no entry: see `graphopt.capture.torch.pairs.moved`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from graphopt.capture.torch.context import Context, Refusal, axis_of, product
from graphopt.capture.torch.ops import control, convolution, creation, linear, pointwise, reduction  # noqa: F401  (their entries)
from graphopt.capture.torch.pairs import Complex, both, interleaved, taken_apart
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


def _operands(c: Context, *xs: Any) -> list[Z]:
    return [complex_of(c, x) for x in xs]


def _shaped(c: Context, z: Z) -> Z:
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
    return _shaped(c, Z(real, imag))


@aten_complex("aten.polar.default")
def _(c: Context, abs: Value, angle: Value) -> Z:
    return Z(c.b.mul(abs, c.b.cos(angle)), c.b.mul(abs, c.b.sin(angle)))


@aten_complex("aten.conj.default", "aten._conj.default", "aten.conj_physical.default", "aten._conj_physical.default")
def _(c: Context, x: Z) -> Z:
    return Z(x.re, c.b.neg(x.im))


@aten_complex("aten.clone.default", "aten.detach.default", "aten.alias.default", "aten.contiguous.default",
              "aten.resolve_conj.default", "aten.lift_fresh_copy.default",
              "aten.lift_fresh.default", "aten.positive.default", "aten.detach_.default",
              "aten.resolve_neg.default", "prims.view_of.default")
def _(c: Context, x: Z) -> Z:
    return x


@aten_complex("aten._to_copy.default", "aten.to.dtype", "aten.to.device", "aten.to.dtype_layout",
              "prims.convert_element_type.default", "aten.type_as.default")
def _(c: Context, x: Any) -> Any:
    """To real: the real part. To bool: is it other than zero?"""
    if c.val.dtype.is_complex:
        return _shaped(c, complex_of(c, x))
    return _nonzero(c, x) if c.dtype is BOOL else c.cast(x.re, c.dtype)


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
    return _shaped(c, complex_of(c, fill_value))


@aten_complex("aten.fill.Scalar", "aten.fill.Tensor")
def _(c: Context, value: Any) -> Z:
    return _shaped(c, complex_of(c, value))


@aten_complex("aten.scalar_tensor.default")
def _(c: Context, s: Any) -> Z:
    return complex_of(c, s)


def _number(value: int) -> Any:
    def entry(c: Context) -> Any:
        return _shaped(c, complex_of(c, value)) if c.val.dtype.is_complex else c.full(value, c.shape, c.dtype)
    return entry


aten_complex("aten.zeros.default", "aten.zeros_like.default", "aten.new_zeros.default", "aten.empty.memory_format",
             "aten.empty_like.default", "aten.new_empty.default", "aten.empty_strided.default", "aten.new_empty_strided.default",
             "aten.empty_permuted.default", "aten.zero.default", "prims.empty_strided.default")(_number(0))
aten_complex("aten.ones.default", "aten.ones_like.default", "aten.new_ones.default")(_number(1))


@aten_complex("aten.eye.default", "aten.eye.m")
def _(c: Context, n: Any, m: Any = None) -> Z:
    return _shaped(c, complex_of(c, ATEN["aten.eye.m"](c, n, m)))


# Arithmetic ---------------------------------------------------------------------------------------
@aten_complex("aten.add.Tensor", "aten.add.Scalar")
def _(c: Context, x: Any, other: Any, alpha: Any = 1) -> Z:
    a, b = _operands(c, x, other)
    return added(c, a, b if alpha == 1 else times(c, b, complex_of(c, alpha)))


@aten_complex("aten.sub.Tensor", "aten.sub.Scalar")
def _(c: Context, x: Any, other: Any, alpha: Any = 1) -> Z:
    return _minus(c, x, other, alpha)


@aten_complex("aten.rsub.Tensor", "aten.rsub.Scalar")
def _(c: Context, x: Any, other: Any, alpha: Any = 1) -> Z:
    return _minus(c, other, x, alpha)


def _minus(c: Context, x: Any, other: Any, alpha: Any) -> Z:
    a, b = _operands(c, x, other)
    b = b if alpha == 1 else times(c, b, complex_of(c, alpha))
    return _shaped(c, Z(c.b.sub(a.re, b.re), c.b.sub(a.im, b.im)))


def added(c: Context, a: Z, b: Z) -> Z:
    return _shaped(c, Z(c.b.add(a.re, b.re), c.b.add(a.im, b.im)))


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
    return _shaped(c, times(c, *_operands(c, x, other)))


@aten_complex("aten.div.Tensor", "aten.div.Scalar", "aten.div.Tensor_mode", "aten.div.Scalar_mode", "aten.true_divide.Tensor")
def _(c: Context, x: Any, other: Any, rounding_mode: str | None = None) -> Z:
    if rounding_mode is not None:
        raise Refusal("a rounded complex quotient")
    return _shaped(c, quotient(c, *_operands(c, x, other)))


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


@aten_complex("aten.pow.Tensor_Tensor", "aten.pow.Tensor_Scalar", "aten.pow.Scalar")
def _(c: Context, x: Any, exponent: Any) -> Z:
    if isinstance(exponent, complex) and exponent.imag == 0:
        exponent = exponent.real
    base = complex_of(c, x)
    if isinstance(exponent, (int, float)):
        whole = abs(exponent)
        if exponent == 0.5:
            return _sqrt(c, base)
        if exponent and whole == int(whole) and whole <= 8:
            got = base
            for digit in bin(int(whole))[3:]:
                got = times(c, got, got)
                got = times(c, got, base) if digit == "1" else got
            return got if exponent > 0 else quotient(c, complex_of(c, 1), got)
    return _shaped(c, _power(c, base, complex_of(c, exponent)))


def _power(c: Context, x: Z, y: Z) -> Z:
    """exp(y log x); 1 where y is 0, and else 0 where x is."""
    got = _exp(c, times(c, y, _log(c, x)))
    zero, one = c.scalar(0, x.dtype), c.scalar(1, x.dtype)
    none, unity = (c.b.and_(c.b.equal(z.re, zero), c.b.equal(z.im, zero)) for z in (x, y))
    return Z(c.b.where(unity, one, c.b.where(none, zero, got.re)), c.b.where(c.b.or_(unity, none), zero, got.im))


# Functions ----------------------------------------------------------------------------------------
def _function(f: Callable[[Context, Z], Z], *names: str) -> None:
    def entry(c: Context, x: Any) -> Z:
        return f(c, complex_of(c, x))
    aten_complex(*(f"aten.{name}.default" for name in names))(entry)


def _exp(c: Context, z: Z) -> Z:
    """e^re (cos im + i sin im); a real argument has a real result, at infinity too."""
    size, zero = c.b.exp(z.re), c.scalar(0, z.dtype)
    return Z(c.b.mul(size, c.b.cos(z.im)), c.b.where(c.b.equal(z.im, zero), z.im, c.b.mul(size, c.b.sin(z.im))))


def _exp2(c: Context, z: Z) -> Z:
    by = c.scalar(math.log(2), z.dtype)
    return _exp(c, Z(c.b.mul(z.re, by), c.b.mul(z.im, by)))


def _expm1(c: Context, z: Z) -> Z:
    """re: expm1(re) cos im - 2 sin²(im / 2), which keeps what is small."""
    half = c.b.sin(c.b.mul(z.im, c.scalar(0.5, z.dtype)))
    less = c.b.mul(c.scalar(2, z.dtype), c.b.mul(half, half))
    return Z(c.b.sub(c.b.mul(c.b.expm1(z.re), c.b.cos(z.im)), less), _exp(c, z).im)


def _log(c: Context, z: Z, base: float = math.e) -> Z:
    by = None if base == math.e else c.scalar(1 / math.log(base), z.dtype)
    re, im = c.b.log(modulus(c, z)), c.b.atan2(z.im, z.re)
    return Z(re, im) if by is None else Z(c.b.mul(re, by), c.b.mul(im, by))


def _log1p(c: Context, z: Z) -> Z:
    """log |1 + z| is half of log1p(re (2 + re) + im²)."""
    two, half = c.scalar(2, z.dtype), c.scalar(0.5, z.dtype)
    one_more = Z(c.b.add(z.re, c.scalar(1, z.dtype)), z.im)
    near = c.b.add(c.b.mul(z.re, c.b.add(z.re, two)), c.b.mul(z.im, z.im))
    far = _log(c, one_more)
    is_near = c.b.less(c.b.add(c.b.abs(z.re), c.b.abs(z.im)), half)
    return Z(c.b.where(is_near, c.b.mul(half, c.b.log1p(near)), far.re), far.im)


def _sqrt(c: Context, z: Z) -> Z:
    """With t = sqrt((|z| + |re|) / 2): t + i im / 2t on the right of the plane, |im| / 2t ± i t on the left. An eighth of z is
    taken first, so that the sum does not overflow."""
    half, zero, eighth = c.scalar(0.5, z.dtype), c.scalar(0, z.dtype), c.scalar(0.125, z.dtype)
    small = z.each(lambda v: c.b.mul(v, eighth))
    t = c.b.mul(c.scalar(2, z.dtype), c.b.sqrt(c.b.add(modulus(c, small), c.b.abs(small.re))))
    other = c.b.div(c.b.mul(c.b.abs(z.im), half), t)
    other = c.b.where(c.b.equal(z.im, zero), zero, c.b.where(c.b.isinf(z.im), t, other))
    left = c.b.less(z.re, zero)
    size = c.b.where(left, t, other)
    return Z(c.b.where(left, other, t), c.b.where(_negative(c, z.im), c.b.neg(size), size))


def _negative(c: Context, x: Value) -> Value:
    """The sign bit."""
    integer = c.dtype_of(torch.int32 if x.dtype.bits == 32 else torch.int64)
    return c.b.less(c.b.bitcast(x, to=integer), c.scalar(0, integer))


def _rsqrt(c: Context, z: Z) -> Z:
    return quotient(c, complex_of(c, 1, z.dtype), _sqrt(c, z))


def _sinh(c: Context, z: Z) -> Z:
    return Z(c.b.mul(c.b.sinh(z.re), c.b.cos(z.im)), c.b.mul(c.b.cosh(z.re), c.b.sin(z.im)))


def _cosh(c: Context, z: Z) -> Z:
    return Z(c.b.mul(c.b.cosh(z.re), c.b.cos(z.im)), c.b.mul(c.b.sinh(z.re), c.b.sin(z.im)))


def _tanh(c: Context, z: Z) -> Z:
    """(sinh re cosh re + i sin im cos im) / (sinh² re + cos² im), re kept where cosh does not overflow."""
    limit = c.scalar(20.0 if z.dtype.bits == 32 else 40.0, z.dtype)
    re = c.b.maximum(c.b.minimum(z.re, limit), c.b.neg(limit))
    sinh, cosh, sin, cos = c.b.sinh(re), c.b.cosh(re), c.b.sin(z.im), c.b.cos(z.im)
    below = c.b.add(c.b.mul(sinh, sinh), c.b.mul(cos, cos))
    return Z(c.b.div(c.b.mul(sinh, cosh), below), c.b.div(c.b.mul(sin, cos), below))


def _turned(f: Callable[[Context, Z], Z]) -> Callable[[Context, Z], Z]:
    """-i f(i z): sin and tan of sinh and tanh."""
    def turned(c: Context, z: Z) -> Z:
        got = f(c, Z(c.b.neg(z.im), z.re))
        return Z(got.im, c.b.neg(got.re))
    return turned


def _cos(c: Context, z: Z) -> Z:
    return _cosh(c, Z(c.b.neg(z.im), z.re))


def _sigmoid(c: Context, z: Z) -> Z:
    one = complex_of(c, 1, z.dtype)
    e = _exp(c, Z(c.b.neg(z.re), c.b.neg(z.im)))
    return quotient(c, one, Z(c.b.add(e.re, one.re), e.im))


def _silu(c: Context, z: Z) -> Z:
    return times(c, z, _sigmoid(c, z))


_function(_exp, "exp")
_function(_exp2, "exp2")
_function(_expm1, "expm1")
_function(_log, "log")
_function(lambda c, z: _log(c, z, 2), "log2")
_function(lambda c, z: _log(c, z, 10), "log10")
_function(_log1p, "log1p")
_function(_sqrt, "sqrt")
_function(_rsqrt, "rsqrt")
_function(_sinh, "sinh")
_function(_cosh, "cosh")
_function(_tanh, "tanh")
_function(_turned(_sinh), "sin")
_function(_cos, "cos")
_function(_turned(_tanh), "tan")
_function(_sigmoid, "sigmoid")
_function(_silu, "silu")


# Questions ----------------------------------------------------------------------------------------
def _nonzero(c: Context, x: Any) -> Value:
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
        return handler(c, _nonzero(c, x))

    def two(c: Context, x: Any, other: Any) -> Value:
        return handler(c, _nonzero(c, x), _nonzero(c, other))

    aten_complex(name)(two if "other" in given else one)


for _name in ("not", "and", "or", "xor"):
    _logical(f"aten.logical_{_name}.default")


@aten_complex("aten.any.default", "aten.any.dim", "aten.any.dims")
def _(c: Context, x: Z, dim: Any = None, keepdim: bool = False) -> Value:
    return ATEN["aten.any.dim"](c, _nonzero(c, x), dim, keepdim)


@aten_complex("aten.all.default", "aten.all.dim", "aten.all.dims")
def _(c: Context, x: Z, dim: Any = None, keepdim: bool = False) -> Value:
    return ATEN["aten.all.dim"](c, _nonzero(c, x), dim, keepdim)


@aten_complex("aten.nonzero.default", "aten.argwhere.default")
def _(c: Context, x: Z) -> Value:
    return ATEN["aten.nonzero.default"](c, _nonzero(c, x))


# Reductions ---------------------------------------------------------------------------------------
def _linear(*names: str) -> None:
    """Entries that are linear in `x`: done to both parts."""
    for name in names:
        def entry(c: Context, x: Any, dim: Any = None, keepdim: bool = False, handler: Any = ATEN[name]) -> Any:
            given = {"x": complex_of(c, x), "dim": dim, "keepdim": keepdim}
            return both(c, handler, {k: v for k, v in given.items() if k in parameters(handler)})
        aten_complex(name)(entry)


_linear("aten.sum.default", "aten.sum.dim_IntList", "aten.mean.default", "aten.mean.dim", "aten.cumsum.default")


@aten_complex("aten.prod.default", "aten.prod.dim_int")
def _(c: Context, x: Any, dim: Any = None, keepdim: bool = False) -> Z:
    """Halves of the axis are multiplied until one element is left."""
    z = complex_of(c, x)
    if z.rank == 0:
        return z
    if dim is None:
        z, axis = z.each(lambda v: c.reshape(v, (product(v.shape),))), 0
    else:
        axis = axis_of(dim, z.rank)
    one = complex_of(c, 1)
    size = z.shape[axis]
    if not isinstance(size, int):
        raise Refusal("a product over a symbolic dim")
    if size == 0:
        return _shaped(c, one)
    while size > 1:
        half = size // 2
        low, high, odd = (_cut(c, z, axis, *ends) for ends in ((0, half), (half, 2 * half), (2 * half, size)))
        z = times(c, low, high)
        if size % 2:
            z = Z(c.concat([z.re, odd.re], axis), c.concat([z.im, odd.im], axis))
        size -= half
    return z.each(lambda v: c.reshape(v, c.shape))


@aten_complex("aten.cumprod.default")
def _(c: Context, x: Any, dim: int) -> Z:
    """Each element with that a power of two before it, as many times as it takes."""
    z = complex_of(c, x)
    if z.rank == 0:
        return z
    axis = axis_of(dim, z.rank)
    size = z.shape[axis]
    if not isinstance(size, int):
        raise Refusal("a product over a symbolic dim")
    step = 1
    while step < size:
        first, before, later = (_cut(c, z, axis, *ends) for ends in ((0, step), (0, size - step), (step, size)))
        later = times(c, before, later)
        z = Z(c.concat([first.re, later.re], axis), c.concat([first.im, later.im], axis))
        step *= 2
    return z


def _cut(c: Context, z: Z, axis: int, start: int, end: int) -> Z:
    return z.each(lambda v: c.slice(v, axis, start, end))


@aten_complex("aten.var.correction", "aten.var.dim", "aten.var.default")
def _(c: Context, x: Z, dim: Any = None, correction: Any = None, unbiased: Any = None, keepdim: bool = False) -> Value:
    return _variance(c, x, dim, correction, unbiased, keepdim)


@aten_complex("aten.std.correction", "aten.std.dim", "aten.std.default")
def _(c: Context, x: Z, dim: Any = None, correction: Any = None, unbiased: Any = None, keepdim: bool = False) -> Value:
    return c.b.sqrt(_variance(c, x, dim, correction, unbiased, keepdim))


def _variance(c: Context, x: Z, dim: Any, correction: Any, unbiased: Any, keepdim: bool) -> Value:
    """That of the parts, added."""
    return c.b.add(*(ATEN["aten.var.correction"](c, v, dim, correction, unbiased, keepdim) for v in (x.re, x.im)))


@aten_complex("aten.linalg_vector_norm.default")
def _(c: Context, x: Z, ord: float = 2, dim: Any = None, keepdim: bool = False) -> Value:
    return ATEN["aten.linalg_vector_norm.default"](c, _sizes(c, x), ord, dim, keepdim)


@aten_complex("aten.norm.ScalarOpt_dim", "aten.norm.Scalar", "aten.norm.ScalarOpt_dtype", "aten.norm.ScalarOpt_dim_dtype")
def _(c: Context, x: Z, p: Any = 2, dim: Any = None, keepdim: bool = False) -> Value:
    return ATEN["aten.norm.ScalarOpt_dim"](c, _sizes(c, x), p, dim, keepdim)


def _sizes(c: Context, x: Z) -> Value:
    return modulus(c, complex_of(c, x))


# Products -----------------------------------------------------------------------------------------
def _bilinear(c: Context, f: Callable[[Value, Value], Value], a: Z, b: Z) -> Z:
    return Z(c.b.sub(f(a.re, b.re), f(a.im, b.im)), c.b.add(f(a.re, b.im), f(a.im, b.re)))


def _matmul(c: Context, a: Any, b: Any) -> Z:
    return _bilinear(c, lambda x, y: ATEN["aten.matmul.default"](c, x, y), *_operands(c, a, b))


@aten_complex("aten.mm.default", "aten.bmm.default", "aten.mv.default", "aten.dot.default", "aten.matmul.default",
              "aten.linalg_matmul.default")
def _(c: Context, x: Any, mat2: Any = None, vec: Any = None, tensor: Any = None, other: Any = None) -> Z:
    return _matmul(c, x, next(v for v in (mat2, vec, tensor, other) if v is not None))


@aten_complex("aten.vdot.default")
def _(c: Context, x: Any, other: Any) -> Z:
    a = complex_of(c, x)
    return _matmul(c, Z(a.re, c.b.neg(a.im)), other)


@aten_complex("aten.linear.default")
def _(c: Context, input: Any, weight: Any, bias: Any = None) -> Z:
    out = _matmul(c, input, complex_of(c, weight).each(lambda v: c.swap(v, 0, 1) if v.rank == 2 else v))
    return out if bias is None else added(c, out, complex_of(c, bias))


@aten_complex("aten.addmm.default", "aten.baddbmm.default", "aten.addmv.default", "aten.addbmm.default")
def _(c: Context, x: Any, mat1: Any = None, mat2: Any = None, batch1: Any = None, batch2: Any = None, mat: Any = None,
      vec: Any = None, beta: Any = 1, alpha: Any = 1) -> Z:
    out = _matmul(c, next(v for v in (mat1, batch1, mat) if v is not None), next(v for v in (mat2, batch2, vec) if v is not None))
    if out.rank > len(c.shape):  # addbmm adds up the batch
        out = out.each(lambda v: c.b.reduce_sum(v, axes=(0,)))
    out = out if alpha == 1 else times(c, out, complex_of(c, alpha))
    if beta == 0:
        return out
    x = complex_of(c, x)
    return added(c, out, x if beta == 1 else times(c, x, complex_of(c, beta)))


@aten_complex("aten.outer.default", "aten.ger.default")
def _(c: Context, x: Any, vec2: Any) -> Z:
    a, b = _operands(c, x, vec2)
    return times(c, a.each(lambda v: c.unsqueeze(v, 1)), b.each(lambda v: c.unsqueeze(v, 0)))


def _convolution(*names: str) -> None:
    """Four real convolutions; the bias goes with the last two."""
    for name in names:
        handler = ATEN[name]
        taken = parameters(handler)

        def entry(c: Context, input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
                  transposed: bool = False, output_padding: Any = 0, groups: int = 1, *, handler: Any = handler,
                  taken: Any = taken) -> Z:
            options = {"stride": stride, "padding": padding, "dilation": dilation, "transposed": transposed,
                       "output_padding": output_padding, "groups": groups}
            given = {k: v for k, v in options.items() if k in taken}
            out = _bilinear(c, lambda x, w: handler(c, input=x, weight=w, bias=None, **given), *_operands(c, input, weight))
            if bias is None:
                return out
            spatial = weight.rank - 2
            per_channel = complex_of(c, bias).each(lambda v: c.reshape(v, (v.shape[0], *[1] * spatial)))
            return added(c, out, per_channel)

        aten_complex(name)(entry)


_convolution("aten.conv1d.default", "aten.conv2d.default", "aten.conv3d.default", "aten.conv1d.padding", "aten.conv2d.padding",
             "aten.conv3d.padding", "aten.convolution.default", "aten.conv_transpose1d.default", "aten.conv_transpose2d.input",
             "aten.conv_transpose3d.input")


# Nested programs ------------------------------------------------------------------------------------
aten_complex("wrap_with_set_grad_enabled")(lambda c, args: ATEN["wrap_with_set_grad_enabled"](c, args))

__all__: Sequence[str] = ["added", "complex_of", "modulus", "quotient", "times"]
