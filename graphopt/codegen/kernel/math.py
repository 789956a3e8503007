"""Transcendental functions as vectorisable arithmetic: polynomials, selects and bit patterns, no calls to libm.

`expand` replaces F32 nodes; F64 ones stay, for a target's own library. Errors below are the largest seen against
float64 over dense samples of each function's whole domain (tests/codegen/kernel/test_math.py holds them to it), with products and
sums rounded together (`fuses`), as machines do that can, and one after the other. Special values are those of C's Annex F, and
results below the normal range are rounded, not flushed. Casts to integers never see NaN or what does not fit: LLVM leaves them
undefined.

Coefficients are minimax (Remez exchange at 50 digits) under the weight that makes the stated quantity's error level.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from graphopt.codegen.kernel.expr import Apply, Const, Expr, binary, bitcast, cast, const, postorder, rebuild, select, unary
from graphopt.codegen.kernel.fuse import fuses
from graphopt.ir.types import F32, F64, I32, I64

LOG2_E = 1.44269504088896340736
# ln 2 in two parts; the first has nine bits, so that its product with an exponent is exact.
LN2_HIGH, LN2_LOW = 0.693359375, math.log(2) - 0.693359375
PI_HIGH, PI_LOW = 3.1415927410125732421875, -8.74227766e-8  # pi as two f32
SQRT_HALF_BITS = 0x3F3504F3  # of f32
SIGN = -(1 << 31)
ROUNDER, ROUNDER_BITS = 1.5 * 2**23, 0x4B400000  # added to a small f32, it leaves that rounded to an integer in the low bits
LEAST_NORMAL = -86.625  # half of e^x is a normal f32 from -86.643 on

EXP = (0.166666668, 0.041666483, 0.00833328325, 0.00139332304, 0.000199089292)  # (e^r - 1 - r - r^2/2) / r^3, |r| <= ln(2)/2
EXP_2 = (0.4999999343, 0.166665204, 0.04166839078, 0.008368745109, 0.001381454018)  # (e^r - 1 - r) / r^2, |r| <= ln(2)/2
LOG = (0.333333134, -0.249999863, 0.200020682, -0.166691806, 0.142213488, -0.123867584, 0.118574826, -0.117716291,
       0.0692642468)  # (log(1 + f) - f + f^2/2) / f^3, sqrt(1/2) <= 1 + f <= sqrt(2)
SIN = (-0.166666666, 0.0083333294, -0.00019839339, 2.71834299e-06)  # (sin x - x) / x^3 in x^2, |x| <= pi/4
COS = (0.0416666666, -0.00138888839, 2.47995415e-05, -2.72117637e-07)  # (cos x - 1 + x^2/2) / x^4 in x^2, |x| <= pi/4
ASIN = (0.166666602, 0.0750049555, 0.0445181204, 0.031800593, 0.0144587285, 0.0374952445)  # (asin x - x) / x^3 in x^2, to 1/2
ATAN = (-0.333333295, 0.199997601, -0.142809485, 0.110652751, -0.0883675023, 0.0679863203, -0.0454771026, 0.0231981631,
        -0.00762343357, 0.00117414579)  # (atan x - x) / x^3 in x^2, |x| <= 1
SINH = (0.166666665, 0.00833335055, 0.000198360745, 2.81739955e-06)  # (sinh x - x) / x^3 in x^2, |x| <= 1
TANH = (-0.333333184, 0.133326114, -0.0538546484, 0.021080374, -0.00628549208)  # (tanh x - x) / x^3 in x^2, |x| <= 0.55
ERF = (1.12837917, 0.636619382, 0.102777831, -0.0191530665, -0.00016038973, 0.00166701982, -0.000632832059, 0.000117639782,
       -9.25608484e-06)  # -log(1 - erf x) / x, 0 <= x <= 3.95
PHI = (-1.0, -1.15110694, -0.45918893, -0.0525632922, 0.00716491581, -0.000209567748, -0.000163928511, 3.89029186e-05,
       -3.93086447e-06, 1.56627715e-07)  # log2 Phi(-y), Phi the normal distribution, 0 <= y <= 6; c0 fixed, weight max(Phi, 1e-3)
EXP2 = (1.00000007, 0.693146967, 0.240221197, 0.0555071327, 0.00967554133, 0.00132764716)  # 2^f, |f| <= 1/2
LOG2_64 = (2.8853900817901503, 0.96179667327424656, 0.577083596370084, 0.41167210057297093,
           0.34074059769791848)  # 2 atanh(s) / (s ln 2) in s^2, |s| <= (sqrt(2) - 1) / (sqrt(2) + 1)
EXP2_64 = (0.99999999995955191, 0.69314718053502367, 0.24022651213570012, 0.055504109761172746, 0.009618025605306741,
           0.0013333422639254251, 0.0001546973142292865, 1.5316463064812485e-05)  # 2^f, |f| <= 1/2
# 1 / (2 pi) to 2^-205, and that in pieces of 29 bits, greatest first: their products with an f32 are exact in f64.
TURN = 0x517CC1B727220A94FE13ABE8FA9A6EE06DB14ACC9E21C820FF2
TURNS = tuple(math.ldexp(TURN >> shift & (1 << 29) - 1, shift - 205) for shift in range(174, -1, -29))


def expand(expr: Expr) -> Expr:
    """`expr` with every transcendental node of dtype F32 written out; sharing is kept, other nodes stay as they are."""
    memo: dict[int, Expr] = {}
    for node in postorder(expr):
        children = [memo[id(c)] for c in node.children]
        if (x := _gelu_of(node)) is not None:
            memo[id(node)] = gelu(memo[id(x)])
        elif isinstance(node, Apply) and node.dtype is F32 and node.kind in EXPANSIONS:
            memo[id(node)] = EXPANSIONS[node.kind](*children)
        elif (z := _logistic_of(node)) is not None:
            memo[id(node)] = logistic(children[0], memo[id(z)])
        elif (x := _normal_exp_of(node)) is not None:
            memo[id(node)] = select(children[0], children[1], _exp_of_normal(memo[id(x)]))
        elif all(a is b for a, b in zip(node.children, children)):
            memo[id(node)] = node
        else:
            memo[id(node)] = rebuild(node, children)
    return memo[id(expr)]


def _logistic_of(node: Expr) -> Expr | None:
    """The z of a / (1 + e^z) in f32 (sigmoid, SiLU, GELU by tanh, gates of recurrent layers), None for anything else."""
    if not isinstance(node, Apply) or node.kind != "div" or node.dtype is not F32:
        return None
    below = node.args[1]
    if not isinstance(below, Apply) or below.kind != "add":
        return None
    for one, power in (below.args, below.args[::-1]):
        if isinstance(one, Const) and one.value == 1 and isinstance(power, Apply) and power.kind == "exp":
            return power.args[0]
    return None


def _normal_exp_of(node: Expr) -> Expr | None:
    """The x of "0 where x < c, else e^x" in f32 (softmax), where c is at least LEAST_NORMAL; None for anything else."""
    if not isinstance(node, Apply) or node.kind != "select" or node.dtype is not F32:
        return None
    low, zero, power = node.args
    if not (isinstance(power, Apply) and power.kind == "exp" and isinstance(zero, Const) and zero.value == 0):
        return None
    x = power.args[0]
    if not (isinstance(low, Apply) and low.kind == "lt" and low.args[0] is x and isinstance(low.args[1], Const)):
        return None
    return x if low.args[1].value >= LEAST_NORMAL else None


# Building blocks ----------------------------------------------------------------------------
def _poly(x: Expr, coefficients: Sequence[float]) -> Expr:
    """c0 + c1 x + c2 x^2 + ... by Horner's rule, in x's dtype."""
    out: Expr = const(coefficients[-1], x.dtype)
    for c in reversed(coefficients[:-1]):
        out = out * x + c
    return out


def _hold(x: Expr, low: float, high: float) -> Expr:
    """x within low..high; NaN becomes `low`, so that casting it to an integer is defined. One instruction a side."""
    raised = select(x > low, x, low)
    return select(raised < high, raised, high)


def _keep_nan(x: Expr, low: float, high: float) -> Expr:
    """x within low..high, or NaN; one instruction a side."""
    lowered = select(x > high, high, x)
    return select(lowered < low, low, lowered)


def _round(x: Expr) -> Expr:
    return unary("round", x)


def _abs(x: Expr) -> Expr:
    return unary("abs", x)


def _sqrt(x: Expr) -> Expr:
    return unary("sqrt", x)


def _isnan(x: Expr) -> Expr:
    return unary("isnan", x)


def _shift_left(x: Expr, by: int) -> Expr:
    return binary("shl", x, by)


def _shift_right(x: Expr, by: int) -> Expr:
    return binary("shr", x, by)


def _bits(x: Expr) -> Expr:
    return bitcast(x, I32)


def _float(bits: Expr) -> Expr:
    return bitcast(bits, F32)


def _with_sign_of(x: Expr, magnitude: Expr) -> Expr:
    """`magnitude` (not negative) with x's sign, that of a zero included."""
    return _float(_bits(magnitude) | (_bits(x) & SIGN))


def _power_of_two(n: Expr) -> Expr:
    """2^n as f32 for I32 n from -127 (which gives 0) to 127."""
    return _float(_shift_left(n + 127, 23))


def _scale(x: Expr, n: Expr) -> Expr:
    """x * 2^n with one rounding, for I32 n from -252 to 254."""
    half = _shift_right(n, 1)
    return x * _power_of_two(half) * _power_of_two(n - half)


def _exp_parts(x: Expr) -> tuple[Expr, Expr]:
    """(n, p) with e^x = 2^n (1 + p), n an I32 and p within 0.42 of zero; |x| at most 200 and not NaN."""
    shifted = x * LOG2_E + ROUNDER
    n = shifted - ROUNDER
    r = (x - n * LN2_HIGH) - n * LN2_LOW
    return _bits(shifted) - ROUNDER_BITS, r + r * r * (r * _poly(r, EXP) + 0.5)


def _split(x: Expr) -> tuple[Expr, Expr]:
    """(e, m) with x = 2^e m, e an I32 and sqrt(1/2) <= m < sqrt(2), for positive normal x; never undefined elsewhere."""
    bits = _bits(x)
    e = _shift_right(bits - SQRT_HALF_BITS, 23)
    return e, _float(bits - _shift_left(e, 23))


def _normal(x: Expr) -> tuple[Expr, Expr]:
    """(x scaled out of the subnormal range, the I32 exponent to add back)."""
    small = x < 2.0**-126
    return select(small, x * 2.0**23, x), select(small, const(-23, I32), const(0, I32))


def _log_of(e: Expr, f: Expr) -> Expr:
    """log(2^e (1 + f)), for f32 e."""
    return e * LN2_HIGH + (f + (e * LN2_LOW + f * f * (f * _poly(f, LOG) - 0.5)))


def _log_limits(x: Expr, inside: Expr) -> Expr:
    """The logarithm `inside` where x is positive and finite, and the right value elsewhere."""
    return select(x > 0.0, select(x.eq(math.inf), math.inf, inside), select(x.eq(0.0), const(-math.inf, F32), math.nan))


# The functions ------------------------------------------------------------------------------
@fuses
def exp(x: Expr) -> Expr:
    """e^x; at most 1 ulp."""
    held = _keep_nan(x, -104.0, 89.0)
    shifted = held * LOG2_E + ROUNDER
    n = shifted - ROUNDER
    r = (held - n * LN2_HIGH) - n * LN2_LOW
    return _scale((r + r * r * _poly(r, EXP_2)) + 1.0, _bits(shifted) - ROUNDER_BITS)


def _exp_biased(x: Expr) -> tuple[Expr, Expr]:
    """(r, s) with e^x = e^r s: for x from -87 to 89, where s is infinite from 88.4 on. NaN gives NaN.

    The integer comes out in the low bits with the exponent's bias already added.
    """
    shifted = x * LOG2_E + (ROUNDER + 127)
    n = shifted - (ROUNDER + 127)
    r = (x - n * LN2_HIGH) - n * LN2_LOW
    return r, _float(_shift_left(_bits(shifted), 23))


@fuses
def _exp_of_normal(x: Expr) -> Expr:
    """e^x for x from LEAST_NORMAL on (and NaN), anything below; at most 1 ulp. Half the scale comes last, so that it overflows
    where the result does."""
    held = select(x > 89.0, 89.0, x)
    shifted = held * LOG2_E + (ROUNDER + 126)
    n = shifted - (ROUNDER + 126)
    r = (held - n * LN2_HIGH) - n * LN2_LOW
    return ((r + r * r * _poly(r, EXP_2)) + 1.0) * _float(_shift_left(_bits(shifted), 23)) * 2.0


@fuses
def exp_negative(x: Expr) -> Expr:
    """e^x for x <= 0 (and NaN); at most 1 ulp, and 0 where it is no normal number: half the work of `exp`."""
    if x.dtype is not F32:
        return unary("exp", x)
    r, s = _exp_biased(x)
    return select(x < -87.0, 0.0, ((r + r * r * _poly(r, EXP_2)) + 1.0) * s)


@fuses
def logistic(a: Expr, z: Expr) -> Expr:
    """a / (1 + e^z), half the work of an `exp` and a division; at most 2.5 ulp, and 0 times `a` for z above 88.37, where the
    quotient is less than 4.2e-39 of `a`."""
    if isinstance(z, Apply) and z.kind == "neg":  # the sign moves into the constants
        x = _keep_nan(z.args[0], -89.0, 87.0)
        shifted = x * -LOG2_E + (ROUNDER + 127)
        n = shifted - (ROUNDER + 127)
        r = (x + n * LN2_HIGH) + n * LN2_LOW
        p = _poly(r, [c if k % 2 == 0 else -c for k, c in enumerate((1.0, 1.0, *EXP_2))])
        return a / (p * _float(_shift_left(_bits(shifted), 23)) + 1.0)
    r, s = _exp_biased(_keep_nan(z, -87.0, 89.0))
    return a / (_poly(r, (1.0, 1.0, *EXP_2)) * s + 1.0)


def _expm1_held(x: Expr) -> Expr:
    """e^x - 1 for x from -18 (where it is -1) to 89 (where it is infinite) and above 1e-10 in magnitude."""
    n, p = _exp_parts(x)
    t = _power_of_two(n - 1)  # half of 2^n, which alone may overflow
    return (t * p + (t - 0.5)) * 2.0


@fuses
def expm1(x: Expr) -> Expr:
    """e^x - 1; at most 1.6 ulp."""
    plain = select(_isnan(x), x, _expm1_held(_hold(x, -18.0, 89.0)))
    return select(_abs(x) < 1e-10, x, plain)


@fuses
def log(x: Expr) -> Expr:
    """Natural logarithm; at most 1 ulp. -inf at zeros, NaN below."""
    scaled, shift = _normal(x)
    e, m = _split(scaled)
    return _log_limits(x, _log_of(cast(e + shift, F32), m - 1.0))


@fuses
def log1p(x: Expr) -> Expr:
    """log(1 + x); at most 1.6 ulp. What 1 + x rounds away is added to the reduced argument, which for small x is x itself."""
    u = x + 1.0
    e, m = _split(u)
    lost = select(x < 1.0, x - (u - 1.0), 1.0 - (u - x))
    f = (m - 1.0) + lost * _power_of_two(binary("max", -e, -127))
    return select(_abs(x) < 1e-10, x, _log_limits(u, _log_of(cast(e, F32), f)))


@fuses
def tanh(x: Expr) -> Expr:
    """Hyperbolic tangent, a polynomial near zero and 1 - 2 / (e^2|x| + 1) beyond; at most 1.6 ulp."""
    y = _abs(x)
    z = y * y
    near = y + y * z * _poly(z, TANH)
    n, p = _exp_parts(_hold(y + y, 0.0, 20.0))
    far = 1.0 - 2.0 / ((p + 1.0) * _power_of_two(n) + 1.0)
    return select(_isnan(x), x, _with_sign_of(x, select(y < 0.55, near, far)))


@fuses
def erf(x: Expr) -> Expr:
    """Error function as 1 - e^-w of the polynomial w = -log(1 - erf |x|); at most 3 ulp."""
    y = _hold(_abs(x), 0.0, 3.95)
    w = y * _poly(y, ERF)
    tail = select(w < 1e-10, w, -_expm1_held(-w))
    return select(_isnan(x), x, _with_sign_of(x, tail))


@fuses
def gelu(x: Expr) -> Expr:
    """x Phi(x), Phi being the normal distribution, as relu(x) - |x| Phi(-|x|): half the work of erf's formula, which loses its
    digits where x is negative. At most 3.5 ulp where x is positive, and 1e-7 where it is not; no more than relu beyond 6."""
    y = _abs(x)
    p = _poly(y, PHI)
    shifted = p + (ROUNDER + 127)
    tail = _poly(p - (shifted - (ROUNDER + 127)), EXP2) * _float(_shift_left(_bits(shifted), 23))
    positive = select(x < 0.0, x * 0.0, x)  # NaN of -inf, as the formula has it
    return select(y > 6.0, positive, positive - y * tail)


def _gelu_of(node: Expr) -> Expr | None:
    """The x of which a node is 0.5 x (1 + erf(x / sqrt 2)), in f32."""
    if not (isinstance(node, Apply) and node.kind == "mul" and node.dtype is F32):
        return None
    half, sum = node.args
    found = _factor(half, 0.5)
    if found is None or not (isinstance(sum, Apply) and sum.kind == "add"):
        return None
    for one, error in (sum.args, sum.args[::-1]):
        if isinstance(one, Const) and one.value == 1 and isinstance(error, Apply) and error.kind == "erf":
            return found if _factor(error.args[0], math.sqrt(0.5)) is found else None
    return None


def _factor(product: Expr, constant: float) -> Expr | None:
    """What is multiplied with the constant."""
    if isinstance(product, Apply) and product.kind == "mul":
        for c, x in (product.args, product.args[::-1]):
            if isinstance(c, Const) and abs(c.value - constant) < 1e-7:
                return x
    return None


def _half_exp(y: Expr) -> Expr:
    """e^y / 2, infinite only where that is."""
    n, p = _exp_parts(_hold(y, -90.0, 91.0))
    return _scale(p + 1.0, n - 1)


@fuses
def sinh(x: Expr) -> Expr:
    """Hyperbolic sine; at most 1.8 ulp."""
    y = _abs(x)
    z = _hold(y * y, 0.0, 1.0)
    near = y + y * z * _poly(z, SINH)
    half = _half_exp(y)
    return select(_isnan(x), x, _with_sign_of(x, select(y < 1.0, near, half - 0.25 / half)))


@fuses
def cosh(x: Expr) -> Expr:
    """Hyperbolic cosine; at most 1.6 ulp."""
    half = _half_exp(_abs(x))
    return select(_isnan(x), x, half + 0.25 / half)


@fuses
def asinh(x: Expr) -> Expr:
    """Inverse hyperbolic sine, log1p(y + y^2 / (1 + sqrt(1 + y^2))) and log(2y) for large y; at most 2.2 ulp."""
    y = _abs(x)
    z = y * y
    big = y > 2.0**26
    plain = log1p(select(big, y, y + z / (_sqrt(z + 1.0) + 1.0)))
    return _with_sign_of(x, plain + select(big, const(math.log(2), F32), const(0.0, F32)))


@fuses
def acosh(x: Expr) -> Expr:
    """Inverse hyperbolic cosine, log1p(t + sqrt(2t + t^2)) of t = x - 1; at most 2.3 ulp. NaN below one."""
    t = x - 1.0
    big = x > 2.0**26
    plain = log1p(select(big, x, t + _sqrt(t + t + t * t)))
    return select(x < 1.0, math.nan, plain + select(big, const(math.log(2), F32), const(0.0, F32)))


@fuses
def atanh(x: Expr) -> Expr:
    """Inverse hyperbolic tangent, log1p(2y + 2y^2 / (1 - y)) / 2; at most 2 ulp. NaN beyond one."""
    y = _abs(x)
    t = y + y
    plain = log1p(t + t * y / (1.0 - y)) * 0.5
    return _with_sign_of(x, select(y > 1.0, const(math.nan, F32), select(y < 1e-10, y, plain)))


def _reduce_angle(x: Expr) -> tuple[Expr, Expr]:
    """(q, r) with |x| = (q + 4k) pi/2 + r, |r| <= pi/4, q an I32 and r an f32; (any, any) where x is not finite.

    |x| / (2 pi) modulo 1 comes from exact products with the pieces of 1 / (2 pi), so that no argument is too large.
    """
    y = cast(select(_abs(x) < math.inf, _abs(x), 0.0), F64)
    fractions = []
    for piece in TURNS:
        product = y * piece
        fractions.append(product - _round(product))
    first = fractions[0] * 4.0
    quarter = _round(first)
    rest = fractions[-1]
    for f in reversed(fractions[1:-1]):
        rest = rest + f
    inner = (first - quarter) + rest * 4.0
    more = _round(inner)
    return cast(quarter + more, I32), cast((inner - more) * (math.pi / 2), F32)


def _sin_cos(r: Expr) -> tuple[Expr, Expr]:
    z = r * r
    return r + r * z * _poly(z, SIN), (z * z * _poly(z, COS) - z * 0.5) + 1.0


def _wave(x: Expr, ahead: int, sign: Expr) -> Expr:
    """sin(|x| + ahead pi/2) with its sign bit flipped by that of the I32 `sign`; NaN where x is not finite."""
    q, r = _reduce_angle(x)
    q = q + ahead if ahead else q
    s, c = _sin_cos(r)
    value = select((q & 1).eq(0), s, c)
    flipped = _float(binary("xor", _bits(value), binary("xor", _shift_left(q & 2, 30), sign)))
    return select(_abs(x) < math.inf, flipped, math.nan)


@fuses
def sin(x: Expr) -> Expr:
    """Sine; at most 1.6 ulp, whatever the magnitude of x. NaN at infinities."""
    return _wave(x, 0, _bits(x) & SIGN)


@fuses
def cos(x: Expr) -> Expr:
    """Cosine; errors as those of `sin`."""
    return _wave(x, 1, const(0, I32))


@fuses
def tan(x: Expr) -> Expr:
    """Tangent; at most 3.5 ulp."""
    q, r = _reduce_angle(x)
    s, c = _sin_cos(r)
    odd = q & 1
    even = odd.eq(0)
    value = select(even, s, c) / select(even, c, s)
    flipped = _float(binary("xor", _bits(value), binary("xor", _shift_left(odd, 31), _bits(x) & SIGN)))
    return select(_abs(x) < math.inf, flipped, math.nan)


def _atan_unit(a: Expr) -> Expr:
    """Arc tangent for 0 <= a <= 1."""
    z = a * a
    return a + a * z * _poly(z, ATAN)


def _from(high: float, low: float, x: Expr) -> Expr:
    """(high + low) - x."""
    return high - (x - low)


def _inner_sine(x: Expr, y: Expr) -> tuple[Expr, Expr]:
    """Whether y = |x| is above a half, and the arc sine of x where it is not, else of sqrt((1 - y) / 2)."""
    big = y > 0.5
    z = select(big, (1.0 - y) * 0.5, x * x)
    s = select(big, _sqrt(z), x)
    return big, s + s * z * _poly(z, ASIN)


@fuses
def asin(x: Expr) -> Expr:
    """Arc sine; at most 2.5 ulp. NaN beyond one."""
    y = _abs(x)
    big, p = _inner_sine(y, y)
    return _with_sign_of(x, select(big, _from(PI_HIGH / 2, PI_LOW / 2, p + p), p))


@fuses
def acos(x: Expr) -> Expr:
    """Arc cosine; at most 1.2 ulp. NaN beyond one."""
    big, p = _inner_sine(x, _abs(x))
    outer = select(x < 0.0, _from(PI_HIGH, PI_LOW, p + p), p + p)
    return select(big, outer, _from(PI_HIGH / 2, PI_LOW / 2, p))


@fuses
def atan(x: Expr) -> Expr:
    """Arc tangent; at most 1.8 ulp."""
    y = _abs(x)
    steep = y > 1.0
    p = _atan_unit(select(steep, 1.0 / y, y))
    return _with_sign_of(x, select(steep, _from(PI_HIGH / 2, PI_LOW / 2, p), p))


@fuses
def atan2(y: Expr, x: Expr) -> Expr:
    """Angle of the point (x, y); at most 1.8 ulp. Zeros and infinities as in C: their signs choose the quadrant."""
    v, h = _abs(y), _abs(x)
    steep = v > h
    low, high = select(steep, h, v), select(steep, v, h)
    ratio = select(low.eq(high), select(high.eq(0.0), const(0.0, F32), const(1.0, F32)), low / high)
    p = _atan_unit(ratio)
    right = select(steep, _from(PI_HIGH / 2, PI_LOW / 2, p), p)
    turned = select(_bits(x) < 0, _from(PI_HIGH, PI_LOW, right), right)
    return select(_isnan(x) | _isnan(y), math.nan, _with_sign_of(y, turned))


@fuses
def pow(x: Expr, y: Expr) -> Expr:
    """x^y as 2^(y log2 |x|) in f64; at most 0.6 ulp. Special cases as C's: x^0 and 1^y are 1 even for NaN, a negative x
    needs an integer y (else NaN), and an odd one keeps x's sign, that of zero included."""
    h = _abs(x)
    scaled, shift = _normal(h)
    e, m = _split(scaled)
    m64 = cast(m, F64)
    s = (m64 - 1.0) / (m64 + 1.0)
    finite_log = cast(e + shift, F64) + s * _poly(s * s, LOG2_64)
    zero_or_inf = select(h.eq(0.0), const(-math.inf, F64), const(math.inf, F64))
    t = _hold(cast(y, F64) * select(h.eq(0.0) | h.eq(math.inf), zero_or_inf, finite_log), -200.0, 200.0)
    n = _round(t)
    power = bitcast(_shift_left(cast(cast(n, I32), I64) + 1023, 52), F64)
    magnitude = cast(_poly(t - n, EXP2_64) * power, F32)

    whole = unary("floor", y).eq(y)
    odd = whole & (unary("floor", y * 0.5) * 2.0).ne(y)
    out = _float(_bits(magnitude) | (_bits(x) & select(odd, const(SIGN, I32), const(0, I32))))
    out = select((x < 0.0) & (h < math.inf) & ~whole, math.nan, out)
    out = select(_isnan(x) | _isnan(y), math.nan, out)
    return select(y.eq(0.0) | x.eq(1.0) | (h.eq(1.0) & _abs(y).eq(math.inf)), 1.0, out)


EXPANSIONS: dict[str, Callable[..., Expr]] = {
    f.__name__: f for f in (exp, log, log1p, expm1, sin, cos, tan, asin, acos, atan, sinh, cosh, tanh, asinh, acosh, atanh,
                            erf, pow, atan2)
}

__all__ = ["EXPANSIONS", "exp_negative", "expand"]
