"""Special functions, and what looks at the bits of a float."""

from __future__ import annotations

import math
from typing import Any

from graphopt.capture.torch.context import Context
from graphopt.capture.torch.ops.pointwise import arithmetic
from graphopt.capture.torch.table import aten
from graphopt.ir.graph import Value
from graphopt.ir.types import BOOL, I32, DType, dtype

# One IR op each, in the result's dtype.
_UNARY = {
    "lgamma": "lgamma", "digamma": "digamma", "erfc": "erfc", "erfinv": "erfinv", "special_erfcx": "erfcx",
    "special_ndtri": "ndtri", "special_log_ndtr": "log_ndtr", "special_airy_ai": "airy_ai",
    "i0": "bessel_i0", "special_i0e": "bessel_i0e", "special_i1": "bessel_i1", "special_i1e": "bessel_i1e",
    "special_modified_bessel_i0": "bessel_i0", "special_modified_bessel_i1": "bessel_i1",
    "special_modified_bessel_k0": "bessel_k0", "special_modified_bessel_k1": "bessel_k1",
    "special_scaled_modified_bessel_k0": "bessel_k0e", "special_scaled_modified_bessel_k1": "bessel_k1e",
    "special_bessel_j0": "bessel_j0", "special_bessel_j1": "bessel_j1", "special_bessel_y0": "bessel_y0",
    "special_bessel_y1": "bessel_y1",
}


def _unary(ir: str) -> Any:
    def entry(c: Context, x: Value) -> Value:
        return getattr(c.b, ir)(c.cast(x, c.dtype))
    return entry


for _name, _ir in _UNARY.items():
    aten(f"aten.{_name}.default")(_unary(_ir))


@aten("aten.polygamma.default")
def _(c: Context, n: int, x: Value) -> Value:
    x = c.cast(x, c.dtype)
    return c.b.digamma(x) if n == 0 else c.b.polygamma(x, n=n)


def _iterated(c: Context, ir: str, x: Any, other: Any, **attrs: Any) -> Value:
    """An op whose operands have the result's shape."""
    return getattr(c.b, ir)(*(c.expand(c.operand(v, c.dtype), c.shape) for v in (x, other)), **attrs)


def _orthogonal(family: str, shifted: bool) -> Any:
    def entry(c: Context, x: Any, n: Any) -> Value:
        x = c.operand(x, c.dtype)
        if shifted:
            x = c.b.sub(c.b.mul(x, c.scalar(2, c.dtype)), c.scalar(1, c.dtype))
        return _iterated(c, "orthogonal_polynomial", x, n, family=family)
    return entry


for _name, _family, _shifted in [
        *((f"{k}_polynomial_{f}", f"{k}_{f}", False) for k, f in (
            *(("chebyshev", f) for f in "tuvw"), ("hermite", "h"), ("hermite", "he"), ("laguerre", "l"), ("legendre", "p"))),
        *((f"shifted_chebyshev_polynomial_{f}", f"chebyshev_{f}", True) for f in "tuvw")]:
    aten(*(f"aten.special_{_name}.{o}" for o in ("default", "x_scalar", "n_scalar")))(_orthogonal(_family, _shifted))


@aten("aten.special_zeta.default", "aten.special_zeta.self_scalar", "aten.special_zeta.other_scalar")
def _(c: Context, x: Any, other: Any) -> Value:
    return _iterated(c, "zeta", x, other)


@aten("aten.igamma.default", "aten.special_gammainc.default")
def _(c: Context, x: Value, other: Value) -> Value:
    return _iterated(c, "gammainc", x, other)


@aten("aten.igammac.default", "aten.special_gammaincc.default")
def _(c: Context, x: Value, other: Value) -> Value:
    return _iterated(c, "gammaincc", x, other)


@aten("aten.mvlgamma.default")
def _(c: Context, x: Value, p: int) -> Value:
    """The sum of lgamma(x - k/2) for k below p, and p (p - 1) / 4 log pi."""
    x = c.cast(x, c.dtype)
    out: Value = c.scalar(p * (p - 1) / 4 * math.log(math.pi), c.dtype)
    for k in range(p):
        out = c.b.add(c.b.lgamma(c.b.sub(x, c.scalar(k / 2, c.dtype)) if k else x), out)
    return c.expand(out, c.shape)


@aten("aten.special_spherical_bessel_j0.default")
def _(c: Context, x: Value) -> Value:
    """sin(x) / x, 1 at zero, 0 at infinities."""
    x = c.cast(x, c.dtype)
    quotient = c.b.where(c.b.isinf(x), c.scalar(0, c.dtype), c.b.div(c.b.sin(x), x))
    return c.b.where(c.b.equal(x, c.scalar(0, c.dtype)), c.scalar(1, c.dtype), quotient)


# Bits -------------------------------------------------------------------------------------------
def _bits_of(d: DType) -> tuple[DType, int]:
    """The signed integer of a float's width, and its sign bit."""
    return dtype(f"i{d.bits}"), -(1 << d.bits - 1)


def _integer(c: Context, x: Value) -> Value:
    return c.b.bitcast(x, to=_bits_of(x.dtype)[0])


def with_sign(c: Context, size: Value, sign: Value) -> Value:
    """|size| with the sign of `sign`, those of zeros and NaN included; floats of one dtype."""
    of, bit = _bits_of(size.dtype)
    magnitude = c.b.bit_and(_integer(c, size), c.scalar(~bit, of))
    return c.b.bitcast(c.b.bit_or(magnitude, c.b.bit_and(_integer(c, sign), c.scalar(bit, of))), to=size.dtype)


@aten("aten.copysign.Tensor", "aten.copysign.Scalar")
def _(c: Context, x: Any, other: Any) -> Value:
    return with_sign(c, c.operand(x, c.dtype), c.operand(other, c.dtype))


@aten("aten.signbit.default")
def _(c: Context, x: Value) -> Value:
    if x.dtype.is_float:
        x = _integer(c, x)
    return c.full(False, c.shape, BOOL) if x.dtype is BOOL or x.dtype.kind == "uint" else c.b.less(x, c.scalar(0, x.dtype))


@aten("aten.nextafter.default")
def _(c: Context, x: Value, other: Value) -> Value:
    """The next float towards `other`: one more or one less as an integer, in sign and magnitude."""
    d = c.dtype
    of, bit = _bits_of(d)
    zero = c.scalar(0, d)
    x, other = c.cast(x, d), c.cast(other, d)
    away = c.b.xor(c.b.less(x, other), c.b.less(x, zero))  # from zero
    bits = c.b.add(_integer(c, x), c.b.where(away, c.scalar(1, of), c.scalar(-1, of)))
    least = c.b.bit_or(c.b.bit_and(_integer(c, other), c.scalar(bit, of)), c.scalar(1, of))
    out = c.b.bitcast(c.b.where(c.b.equal(x, zero), least, bits), to=d)
    out = c.b.where(c.b.equal(x, other), other, out)
    lost = c.b.or_(c.b.isnan(x), c.b.isnan(other))
    return c.b.where(lost, c.scalar(math.nan, d), out)


_EXPONENT = {"f16": (10, 15), "bf16": (7, 127), "f32": (23, 127), "f64": (52, 1023)}  # bits of the fraction, bias


@aten("aten.frexp.Tensor")
def _(c: Context, x: Value) -> Any:
    """(m, e) with x = m 2^e and 1/2 <= |m| < 1; what is subnormal is scaled up first. As C's: zeros, infinities and NaN keep
    themselves, with e = 0."""
    d = x.dtype
    fraction, bias = _EXPONENT[d.name]
    of, _ = _bits_of(d)
    shift = fraction + 2
    small = c.b.less(c.b.abs(x), c.scalar(2.0 ** (1 - bias), d))
    bits = _integer(c, c.b.where(small, c.b.mul(x, c.scalar(2.0 ** shift, d)), x))
    field = (1 << d.bits - 1 - fraction) - 1
    exponent = c.b.bit_and(c.b.shift_right(bits, c.scalar(fraction, of)), c.scalar(field, of))
    exponent = c.b.sub(c.cast(exponent, I32), c.b.where(small, c.scalar(bias - 1 + shift, I32), c.scalar(bias - 1, I32)))
    mantissa = c.b.bit_or(c.b.bit_and(bits, c.scalar(~(field << fraction), of)), c.scalar(bias - 1 << fraction, of))
    plain = c.b.or_(c.b.equal(x, c.scalar(0, d)), c.b.or_(c.b.isinf(x), c.b.isnan(x)))
    return c.b.where(plain, x, c.b.bitcast(mantissa, to=d)), c.b.where(plain, c.scalar(0, I32), exponent)


@aten("aten.ldexp.Tensor")
def _(c: Context, x: Value, other: Value) -> Value:
    """x times 2 to the power `other`, rounded to a float, as torch has it."""
    return c.b.mul(c.cast(x, c.dtype), c.b.pow(c.scalar(2, c.dtype), c.cast(other, c.dtype)))


# Whole numbers ----------------------------------------------------------------------------------
@aten("aten.gcd.default")
def _(c: Context, x: Value, other: Value) -> Value:
    return arithmetic(c, "gcd", x, other)


@aten("aten.lcm.default")
def _(c: Context, x: Value, other: Value) -> Value:
    """|x / gcd(x, y) y|, 0 where both are."""
    x, other = c.cast(x, c.dtype), c.cast(other, c.dtype)
    product = c.b.mul(c.b.div(x, c.b.gcd(x, other)), other)
    return c.b.abs(product) if c.dtype.kind == "int" else product


__all__ = ["with_sign"]
