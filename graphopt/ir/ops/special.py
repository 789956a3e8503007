"""Special functions. All are computed in f64, and results rounded once: f32 ones are right to 1 ulp or so, but where it is said.

A formula stands here once, as a function `f(m, x)` of f64 arguments: `m` is numpy for the reference semantics, and for the
lowering an object with the same functions over scalar expressions (`graphopt.codegen.lower.special`). Both branches of
`m.where` are evaluated; what does not hold in a branch may be NaN or infinite there.
`DLMF` is the NIST Digital Library of Mathematical Functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphopt.ir.ops import coefficients as c
from graphopt.ir.ops.numeric import narrow, widen
from graphopt.ir.table import Trait, broadcast, op, same_shape

Formula = Callable[..., Any]
FORMULAS: dict[str, Formula] = {}  # of the elementwise ops below, attributes by name after the arguments
EULER = 0.57721566490153286061


def special(name: str, arguments: str = "x", attrs: str = "") -> Callable[[Formula], Formula]:
    """Define an elementwise op of floats by its formula."""
    names = arguments.split()

    def add(f: Formula) -> Formula:
        def run(*xs: np.ndarray, **attrs: Any) -> np.ndarray:
            return narrow(f(np, *(widen(x).astype(np.float64) for x in xs), **attrs), np.asarray(xs[0]).dtype)

        run.__doc__, run.__module__ = f.__doc__, __name__
        signature = ", ".join(f"{n}: T" for n in names)
        op(f"{name}({signature}{'; ' + attrs if attrs else ''}) -> T", T="float",
           shape=same_shape if len(names) == 1 else broadcast, traits=Trait.ELEMENTWISE)(run)
        FORMULAS[name] = f
        return f

    return add


# Building blocks ----------------------------------------------------------------------------
def polynomial(x: Any, coefficients: Sequence[float]) -> Any:
    """c0 + c1 x + c2 x^2 + ..., by Horner's rule."""
    out: Any = coefficients[-1]
    for k in reversed(coefficients[:-1]):
        out = out * x + k
    return out


def chebyshev(t: Any, coefficients: Sequence[float]) -> Any:
    """The sum of c_k T_k(t), by Clenshaw's recurrence."""
    twice = t + t
    one: Any = 0.0
    two: Any = 0.0
    for k in reversed(coefficients[1:]):
        one, two = twice * one - two + k, one
    return t * one - two + coefficients[0]


def _sin_pi(m: Any, x: Any) -> Any:
    """sin(pi x), exact at multiples of a half: the argument is reduced before it is multiplied."""
    r = x - 2.0 * m.rint(x * 0.5)  # -1 .. 1
    folded = m.where(m.abs(r) > 0.5, m.copysign(1.0, r) - r, r)
    return m.sin(math.pi * folded)


def _cot_pi(m: Any, x: Any) -> Any:
    """cot(pi x)."""
    r = x - m.rint(x)
    return m.cos(math.pi * r) / m.sin(math.pi * r)


# Error functions ----------------------------------------------------------------------------
def _erfcx_positive(m: Any, y: Any) -> Any:
    held = m.minimum(y, 1e30)
    return chebyshev((held - 3.75) / (held + 3.75), c.ERFCX) / (1.0 + 2.0 * y)


def _square_exp(m: Any, y: Any) -> Any:
    """e^(y^2), y split so that the error of its square is not magnified."""
    held = m.minimum(m.abs(y), 30.0)
    high = m.rint(held * 1024.0) / 1024.0
    return m.exp(high * high) * m.exp((held - high) * (held + high))


@special("erfcx")
def erfcx(m, x):
    """The scaled complementary error function, exp(x^2) (1 - erf(x)), for any x without over- or underflow of its factors."""
    tail = _erfcx_positive(m, m.abs(x))
    return m.where(m.isnan(x), x, m.where(x < 0, 2.0 * _square_exp(m, x) - tail, tail) * m.where(x < -27.0, math.inf, 1.0))


@special("erfc")
def erfc(m, x):
    """The complementary error function 1 - erf(x), also where it is small."""
    tail = _erfcx_positive(m, m.abs(x)) / _square_exp(m, x)
    return m.where(m.isnan(x), x, m.where(x < 0, 2.0 - tail, tail))


def _quantile(m: Any, q: Any, tail: Any) -> Any:
    """The normal quantile at 1/2 + q, `tail` = 1/2 - |q| (AS 241)."""
    centre, shoulder, far = c.QUANTILE
    near = 0.180625 - q * q
    inner = q * polynomial(near, centre[0]) / polynomial(near, centre[1])
    r = m.sqrt(-m.log(tail))
    a, b = r - 1.6, m.minimum(r, 1e30) - 5.0
    beside = polynomial(a, shoulder[0]) / polynomial(a, shoulder[1])
    outer = m.where(r <= 5.0, beside, polynomial(b, far[0]) / polynomial(b, far[1]))
    outer = m.where(m.equal(tail, 0.0), math.inf, outer)
    return m.where(m.abs(q) <= 0.425, inner, m.where(q < 0, -outer, outer))


@special("erfinv")
def erfinv(m, x):
    """The inverse of erf: infinite at -1 and 1, NaN beyond."""
    return m.where(m.abs(x) <= 1.0, _quantile(m, x * 0.5, (1.0 - m.abs(x)) * 0.5) * math.sqrt(0.5), math.nan)


@special("ndtri")
def ndtri(m, x):
    """The quantile of the normal distribution: infinite at 0 and 1, NaN beyond (algorithm AS 241)."""
    q = x - 0.5
    return m.where(m.abs(q) <= 0.5, _quantile(m, q, m.where(q < 0, x, 1.0 - x)), math.nan)


@special("log_ndtr")
def log_ndtr(m, x):
    """The logarithm of the normal distribution function, also where that underflows."""
    y = x * math.sqrt(0.5)
    half = 0.5 * _erfcx_positive(m, m.abs(y))  # the smaller of both tails, without its factor e^-y^2
    low = m.log(half) - m.where(x < 0, y * y, 0.0)
    return m.where(m.isnan(x), x, m.where(x < 0, low, m.log1p(-half / _square_exp(m, y))))


# Gamma's family -----------------------------------------------------------------------------
def _log_gamma_near(m: Any, z: Any) -> Any:
    """log Gamma(2 + z) for |z| <= 1/2 (DLMF 5.7.3)."""
    series = [0.0] + [(-1) ** k * v / k for k, v in enumerate(c.ZETA_1, 2)]
    return z * (1.0 - EULER + polynomial(z, series))


def _stirling(m: Any, y: Any) -> Any:
    """log Gamma(y) for y >= 8 (DLMF 5.11.1)."""
    w = 1.0 / (y * y)
    rest = polynomial(w, (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156, -3617 / 122400)) / y
    return (y - 0.5) * (m.log(y) - 1.0) + (0.5 * math.log(2 * math.pi) - 0.5) + rest


def _log_gamma_positive(m: Any, x: Any) -> Any:
    low = x < 1.5
    near = _log_gamma_near(m, m.where(low, x - 1.0, x - 2.0)) - m.where(low, m.log1p(x - 1.0), 0.0)
    small = x < 8.0
    product = x
    for k in range(1, 8):
        product = product * (x + float(k))
    far = _stirling(m, m.where(small, x + 8.0, x)) - m.where(small, m.log(product), 0.0)
    return m.where((x >= 0.5) & (x <= 2.5), near, far)


@special("lgamma")
def lgamma(m, x):
    """log |Gamma(x)|; infinite at zero, at negative integers and at infinities."""
    y = m.where(x < 0.5, 1.0 - x, x)
    positive = _log_gamma_positive(m, y)
    mirrored = math.log(math.pi) - m.log(m.abs(_sin_pi(m, x))) - positive
    out = m.where(x < 0.5, mirrored, positive)
    whole = (x <= 0) & m.equal(m.floor(x), x)
    return m.where(m.isnan(x), x, m.where(whole | m.equal(m.abs(x), math.inf), math.inf, out))


@special("digamma")
def digamma(m, x):
    """The derivative of log Gamma (DLMF 5.11.2, after moving x beyond 8); as PyTorch has it, infinite at zero with the opposite
    sign of that, NaN at negative integers."""
    y = m.where(x < 0, 1.0 - x, x)
    moved: Any = 0.0
    for k in range(8):
        moved = moved + 1.0 / (y + float(k))
    small = y < 8.0
    y = m.where(small, y + 8.0, y)
    w = 1.0 / (y * y)
    series = polynomial(w, (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12, -3617 / 8160))
    out = m.log(y) - 0.5 / y - w * series - m.where(small, moved, 0.0)
    out = m.where(x < 0, out - math.pi * _cot_pi(m, x), out)
    at_zero = m.copysign(math.inf, -x)
    whole = (x < 0) & m.equal(m.floor(x), x)
    return m.where(m.equal(x, 0.0), at_zero, m.where(whole, math.nan, out))


def hurwitz(m: Any, s: Any, q: Any) -> Any:
    """The sum of (q + k)^-s over k >= 0, for q > 0 and s > 1, by Euler and Maclaurin's formula from k = 10 on (DLMF 25.11.28)."""
    total: Any = 0.0
    for k in range(10):
        total = total + m.power(q + float(k), -s)
    return total + zeta_tail(m, s, q + 10.0)


def zeta_tail(m: Any, s: Any, w: Any) -> Any:
    """The sum of (w + k)^-s over k >= 0, for large w."""
    power = m.power(w, -s)
    total = power * w / (s - 1.0) + power * 0.5
    factor = s * power / w
    for k, b in enumerate(c.BERNOULLI):
        total = total + factor * b
        factor = factor * (s + float(2 * k + 1)) * (s + float(2 * k + 2)) / (w * w)
    return total


def _cotangent_derivative(n: int) -> list[float]:
    """The n-th derivative of cot(x) as a polynomial in cot(x)."""
    p = [0.0, 1.0]
    for _ in range(n):
        d = [k * v for k, v in enumerate(p)][1:]
        p = [-(a + b) for a, b in zip([*d, 0.0, 0.0], [0.0, 0.0, *d])]
    return p


@special("polygamma", attrs="n: int")
def polygamma(m, x, n):
    """The n-th derivative of digamma, n >= 1; infinite at zero and negative integers (DLMF 5.15.1, 5.15.6)."""
    y = m.where(x < 0.5, 1.0 - x, x)
    scale = math.exp(math.lgamma(n + 1))
    value = hurwitz(m, float(n + 1), m.minimum(y, 1e300)) * scale * (-1) ** (n + 1)
    mirror = math.pi ** (n + 1) * polynomial(_cot_pi(m, x), _cotangent_derivative(n))
    out = m.where(x < 0.5, value * (-1) ** n - mirror, value)
    whole = (x <= 0) & m.equal(m.floor(x), x)
    return m.where(m.isnan(x), x, m.where(whole, math.inf if n % 2 else -math.inf, out))


# Bessel's functions -------------------------------------------------------------------------
def _scaled_i(m: Any, y: Any, small: Sequence[float], large: Sequence[float]) -> Any:
    held = m.minimum(y, 8.0)
    top = m.maximum(y, 8.0)
    return m.where(y <= 8.0, chebyshev(held * 0.25 - 1.0, small), chebyshev(16.0 / top - 1.0, large) / m.sqrt(top))


@special("bessel_i0e")
def bessel_i0e(m, x):
    """exp(-|x|) I0(x), the scaled modified Bessel function of the first kind."""
    y = m.abs(x)
    return m.where(m.isnan(x), x, _scaled_i(m, y, c.I0_SMALL, c.I0_LARGE))


@special("bessel_i0")
def bessel_i0(m, x):
    """I0(x), the modified Bessel function of the first kind; NaN at infinities, as PyTorch and SciPy have it."""
    y = m.abs(x)
    half = m.exp(y * 0.5)  # e^y alone may overflow
    return m.where(m.isnan(x), x, _scaled_i(m, y, c.I0_SMALL, c.I0_LARGE) * half * half)


def _i1e(m: Any, x: Any) -> Any:
    y = m.abs(x)
    held, top = m.minimum(y, 8.0), m.maximum(y, 8.0)
    return m.where(y <= 8.0, chebyshev(held * 0.25 - 1.0, c.I1_SMALL) * y,
                   chebyshev(16.0 / top - 1.0, c.I1_LARGE) / m.sqrt(top))


@special("bessel_i1e")
def bessel_i1e(m, x):
    """exp(-|x|) I1(x)."""
    return m.where(m.isnan(x), x, m.copysign(_i1e(m, x), x))


@special("bessel_i1")
def bessel_i1(m, x):
    """I1(x), as `bessel_i0`."""
    y = m.abs(x)
    half = m.exp(y * 0.5)
    return m.where(m.isnan(x), x, m.copysign(_i1e(m, x) * half * half, x))


def _k0(m: Any, x: Any, scaled: bool) -> Any:
    held, top = m.minimum(x, 2.0), m.maximum(x, 2.0)
    t = held * held * 0.5 - 1.0
    near = chebyshev(t, c.K0_SMALL) - m.log(held * 0.5) * chebyshev(t, c.I0_K)
    far = chebyshev(4.0 / top - 1.0, c.K0_LARGE) / m.sqrt(top)
    return m.where(x <= 2.0, near * m.exp(held) if scaled else near, far if scaled else far * m.exp(-top))


def _k1(m: Any, x: Any, scaled: bool) -> Any:
    held, top = m.minimum(x, 2.0), m.maximum(x, 2.0)
    t = held * held * 0.5 - 1.0
    near = chebyshev(t, c.K1_SMALL) / held + m.log(held * 0.5) * chebyshev(t, c.I1_K) * held
    far = chebyshev(4.0 / top - 1.0, c.K1_LARGE) / m.sqrt(top)
    return m.where(x <= 2.0, near * m.exp(held) if scaled else near, far if scaled else far * m.exp(-top))


def _positive(m: Any, x: Any, value: Any, at_zero: float) -> Any:
    """`value` above zero, its limit at zero, NaN below."""
    return m.where(m.isnan(x), x, m.where(x > 0, value, m.where(m.equal(x, 0.0), at_zero, math.nan)))


@special("bessel_k0")
def bessel_k0(m, x):
    """K0(x), the modified Bessel function of the second kind; infinite at zero, NaN below."""
    return _positive(m, x, _k0(m, x, False), math.inf)


@special("bessel_k0e")
def bessel_k0e(m, x):
    """exp(x) K0(x)."""
    return _positive(m, x, _k0(m, x, True), math.inf)


@special("bessel_k1")
def bessel_k1(m, x):
    """K1(x)."""
    return _positive(m, x, _k1(m, x, False), math.inf)


@special("bessel_k1e")
def bessel_k1e(m, x):
    """exp(x) K1(x)."""
    return _positive(m, x, _k1(m, x, True), math.inf)


def _asymptotic(m: Any, y: Any, order: int) -> tuple[Any, Any]:
    """J and Y of order 0 or 1 at y >= 8, by Hankel's form (DLMF 10.17.3 and 4) with sin and cos of y itself."""
    u = 8.0 / y
    t = 2.0 * u * u - 1.0
    p = chebyshev(t, c.P1 if order else c.P0)
    q = chebyshev(t, c.Q1 if order else c.Q0) * u
    scale = 1.0 / m.sqrt(math.pi * y)
    s, k = m.sin(y), m.cos(y)
    cosine, sine = (s - k, -s - k) if order else (s + k, s - k)  # sqrt(2) times those of y - pi/4 - order pi/2
    return scale * (cosine * p - sine * q), scale * (sine * p + cosine * q)


def _j_near(m: Any, y: Any, order: int) -> Any:
    t = y * y / 32.0 - 1.0
    return chebyshev(t, c.J1_SMALL) * y if order else chebyshev(t, c.J0_SMALL)


@special("bessel_j0")
def bessel_j0(m, x):
    """J0(x), the Bessel function of the first kind; within 3e-16 of right, whose ulps are many near a zero. NaN at infinities, as
    PyTorch and SciPy have it."""
    y = m.abs(x)
    far = _asymptotic(m, m.where(y < math.inf, m.maximum(y, 8.0), 8.0), 0)[0]
    return m.where(m.isnan(x), x, m.where(y <= 8.0, _j_near(m, m.minimum(y, 8.0), 0), m.where(y < math.inf, far, math.nan)))


@special("bessel_j1")
def bessel_j1(m, x):
    """J1(x), as `bessel_j0`."""
    y = m.abs(x)
    far = _asymptotic(m, m.where(y < math.inf, m.maximum(y, 8.0), 8.0), 1)[0]
    out = m.where(y <= 8.0, _j_near(m, m.minimum(y, 8.0), 1), m.where(y < math.inf, far, math.nan))
    return m.where(m.isnan(x), x, m.where(x < 0, -out, out))


@special("bessel_y0")
def bessel_y0(m, x):
    """Y0(x), the Bessel function of the second kind; -inf at zero, NaN below. Errors as those of `bessel_j0`."""
    held = m.minimum(x, 8.0)
    near = chebyshev(held * held / 32.0 - 1.0, c.Y0_SMALL) + 2 / math.pi * m.log(held * 0.5) * _j_near(m, held, 0)
    far = _asymptotic(m, m.where(x < math.inf, m.maximum(x, 8.0), 8.0), 0)[1]
    return _positive(m, x, m.where(x <= 8.0, near, m.where(x < math.inf, far, math.nan)), -math.inf)


@special("bessel_y1")
def bessel_y1(m, x):
    """Y1(x), as `bessel_y0`."""
    held = m.minimum(x, 8.0)
    near = chebyshev(held * held / 32.0 - 1.0, c.Y1_SMALL) / held + 2 / math.pi * m.log(held * 0.5) * _j_near(m, held, 1)
    far = _asymptotic(m, m.where(x < math.inf, m.maximum(x, 8.0), 8.0), 1)[1]
    return _positive(m, x, m.where(x <= 8.0, near, m.where(x < math.inf, far, math.nan)), -math.inf)


@special("airy_ai")
def airy_ai(m, x):
    """Airy's function Ai(x) (DLMF 9.7.5 and 9.7.9 beyond -8 and 2); NaN at infinities, as PyTorch has it."""
    middle = chebyshev((m.minimum(m.maximum(x, -8.0), 2.0) + 3.0) / 5.0, c.AIRY_MIDDLE)
    high = m.minimum(m.maximum(x, 2.0), 1e4)
    z = 2 / 3 * high * m.sqrt(high)
    right = chebyshev(2.0 * m.sqrt(8.0 / (high * high * high)) - 1.0, c.AIRY_FAR) * m.exp(-z) / m.sqrt(m.sqrt(high))
    low = m.where(x < -8.0, m.where(x > -math.inf, -x, 8.0), 8.0)
    cube = low * low * low
    z = 2 / 3 * low * m.sqrt(low) + math.pi / 4
    t = 1024.0 / cube - 1.0
    left = (m.sin(z) * chebyshev(t, c.AIRY_P) - m.cos(z) * chebyshev(t, c.AIRY_Q) / m.sqrt(cube)) / m.sqrt(math.pi * m.sqrt(low))
    out = m.where(x > 2.0, right, m.where(x < -8.0, left, middle))
    return m.where(m.abs(x) < math.inf, out, math.nan)
