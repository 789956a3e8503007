"""Functions of complex tensors, by the formulas that torch's kernels use."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from graphopt.capture.torch.context import Context
from graphopt.capture.torch.ops.complex import complex_of, modulus, quotient, shaped, times
from graphopt.capture.torch.pairs import Complex
from graphopt.capture.torch.table import aten_complex
from graphopt.ir.graph import Value

Z = Complex


@aten_complex("aten.pow.Tensor_Tensor", "aten.pow.Tensor_Scalar", "aten.pow.Scalar")
def _(c: Context, x: Any, exponent: Any) -> Z:
    if isinstance(exponent, complex) and exponent.imag == 0:
        exponent = exponent.real
    base = complex_of(c, x)
    if isinstance(exponent, (int, float)):
        whole = abs(exponent)
        if exponent == 0.5:
            return _sqrt(c, base)
        if exponent and whole <= 8 and whole == int(whole):
            got = base
            for digit in bin(int(whole))[3:]:
                got = times(c, got, got)
                got = times(c, got, base) if digit == "1" else got
            return got if exponent > 0 else quotient(c, complex_of(c, 1), got)
    return shaped(c, _power(c, base, complex_of(c, exponent)))


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
