"""Every expanded function against float64 numpy, over its whole domain and at the special values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from graphopt.codegen.kernel.expr import Apply, Buffer, Const, Expr, Load, Var, call, cast, postorder, reduce, select
from graphopt.codegen.kernel.math import EXPANSIONS, expand
from graphopt.ir.types import F32, F64

RNG = np.random.default_rng(7)
TINY, SMALLEST, LARGEST = np.float32(2.0**-126), np.float32(2.0**-149), np.finfo(np.float32).max
SPECIAL = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, SMALLEST, -SMALLEST, TINY, -TINY, np.nextafter(TINY, np.float32(0)),
                    LARGEST, -LARGEST, 1, -1, 0.5, -0.5, 2, -2, 3, -3, 1e-10, -1e-10, 88.72283, 88.722839, 88.73, 89.4, 89.416,
                    89.42, -87.33, -87.34, -103.97, -103.98, -104, -1000, 1000, np.nextafter(np.float32(1), np.float32(0)),
                    np.nextafter(np.float32(1), np.float32(2)), np.nextafter(np.float32(-1), np.float32(0)),
                    np.nextafter(np.float32(-1), np.float32(-2)), 9.01, -9.01, 3.92, 3.95, 4, 16777216.0, 16777215.0,
                    2.0**26, 2.0**31, 1e30], np.float32)

FOLD = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "neg": np.negative, "abs": np.abs, "sqrt": np.sqrt,
    "floor": np.floor, "round": np.rint, "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.logical_not, "shl": np.left_shift,
    "shr": np.right_shift, "max": np.maximum, "isnan": np.isnan, "select": np.where,
}


def run(e: Expr, values: dict[Expr, np.ndarray], contract: bool = False) -> np.ndarray:
    """numpy's value of an expression, each operation rounded; with `contract`, `fma` of f32 rounds once."""
    memo: dict[int, np.ndarray] = {}
    with np.errstate(all="ignore"):
        for n in postorder(e):
            if n in values:
                memo[id(n)] = values[n]
            elif isinstance(n, Const):
                memo[id(n)] = np.asarray(n.value, n.dtype.numpy)
            elif isinstance(n, Load):
                memo[id(n)] = values[n]
            else:
                assert isinstance(n, Apply)
                args = [memo[id(c)] for c in n.args]
                if n.kind == "cast":
                    if n.dtype.is_integer and args[0].dtype.kind == "f":
                        limits = np.iinfo(n.dtype.numpy)
                        assert np.all((args[0] >= limits.min) & (args[0] <= limits.max)), "undefined cast"
                    out = args[0].astype(n.dtype.numpy)
                elif n.kind == "bitcast":
                    out = args[0].view(n.dtype.numpy)
                elif n.kind == "fma":
                    # In f64, whose second rounding to f32 is off by at most 2^-53.
                    a, b, c = (x.astype(np.float64) for x in args) if contract and n.dtype is F32 else args
                    out = (a * b + c).astype(n.dtype.numpy)
                else:
                    out = FOLD[n.kind](*args)
                assert out.dtype == n.dtype.numpy, n.kind
                memo[id(n)] = out
    return memo[id(e)]


def ulps(got: np.ndarray, want: np.ndarray) -> np.ndarray:
    """|got - want| in units of the last place of f32 at `want`; zero where both are NaN or the same infinity."""
    with np.errstate(all="ignore"):
        rounded = want.astype(np.float32)
        _, exponent = np.frexp(np.where(np.isfinite(rounded), want, 1.0))
        unit = np.ldexp(1.0, np.maximum(exponent - 24, -149))
        error = np.abs(got.astype(np.float64) - want) / unit
    same = (np.isnan(got) & np.isnan(want)) | (got == rounded)
    # An overflow that f64 does not see: within one ulp of the border both the largest value and infinity are right.
    error = np.where(np.isinf(got) & (np.abs(want) > float(LARGEST)), 0.0, error)
    error = np.where(np.isinf(rounded) & ~np.isinf(got), np.abs(float(LARGEST) - np.abs(want)) / 2.0**104, error)
    return np.where(same, 0.0, np.where(np.isnan(got) | np.isnan(want), np.inf, error))


def anything(n: int) -> np.ndarray:
    """Random bit patterns: every magnitude and sign alike, NaNs among them."""
    return RNG.integers(0, 2**32, n, dtype=np.uint32).view(np.float32)


def near(low: float, high: float, n: int = 200_000) -> np.ndarray:
    return RNG.uniform(low, high, n).astype(np.float32)


erf64 = np.vectorize(math.erf, otypes=[np.float64])
# name -> (float64 reference, largest error in ulp, where to look closely)
CASES = {
    "exp": (np.exp, 1.0, [near(-105, 90), near(-1, 1)]),
    "expm1": (np.expm1, 1.6, [near(-20, 90), near(-1, 1)]),
    "log": (np.log, 1.0, [near(0, 4), near(0, 1e4), near(0.9, 1.1), near(0, 1e-37)]),
    "log1p": (np.log1p, 1.6, [near(-1, 4), near(0, 1e4), near(-0.01, 0.01)]),
    "tanh": (np.tanh, 1.6, [near(-10, 10), near(-0.5, 0.5)]),
    "erf": (erf64, 3.0, [near(-4.2, 4.2), near(-0.5, 0.5)]),
    "sinh": (np.sinh, 1.8, [near(-90, 90), near(-1.5, 1.5)]),
    "cosh": (np.cosh, 1.6, [near(-90, 90), near(-1.5, 1.5)]),
    "asinh": (np.arcsinh, 2.2, [near(-10, 10), near(-0.1, 0.1)]),
    "acosh": (np.arccosh, 2.3, [near(1, 10), near(1, 1.01), near(1, 1e9)]),
    "atanh": (np.arctanh, 2.0, [near(-1, 1), near(-0.01, 0.01)]),
    "sin": (np.sin, 1.6, [near(-4, 4), near(-1e5, 1e5)]),
    "cos": (np.cos, 1.6, [near(-4, 4), near(-1e5, 1e5)]),
    "tan": (np.tan, 3.5, [near(-4, 4), near(-1e5, 1e5)]),
    "asin": (np.arcsin, 2.5, [near(-1, 1), near(-0.01, 0.01)]),
    "acos": (np.arccos, 1.2, [near(-1, 1), near(0.99, 1), near(-1, -0.99)]),
    "atan": (np.arctan, 1.8, [near(-10, 10), near(-1, 1)]),
}


@pytest.mark.parametrize("contract", [False, True], ids=["rounded", "contracted"])
@pytest.mark.parametrize("name", CASES)
def test_unary_functions_stay_within_their_error(name, contract):
    reference, limit, ranges = CASES[name]
    x = np.concatenate([SPECIAL, anything(300_000), *ranges])
    v = Var("x", F32)
    got = run(expand(call(name, v)), {v: x}, contract)
    with np.errstate(all="ignore"):
        want = reference(x.astype(np.float64))
    error = ulps(got, want)
    worst = int(np.argmax(error))
    assert error[worst] <= limit, f"{name}({x[worst]!r}) = {got[worst]!r}, want {want[worst]!r}: {error[worst]:.2f} ulp"
    zero = want == 0
    assert np.array_equal(np.signbit(got[zero]), np.signbit(want[zero])), "the sign of zero"


@pytest.mark.parametrize("contract", [False, True], ids=["rounded", "contracted"])
@pytest.mark.parametrize("sign", ["negated", "plain"])
@pytest.mark.parametrize("name", ["sigmoid", "silu"])
def test_a_quotient_of_one_and_an_exponential_errs_by_two_and_a_half_ulp_at_most(name, sign, contract):
    x = np.concatenate([SPECIAL, anything(300_000), near(-90, 20), near(-5, 5), near(-1, 1)])
    v = Var("x", F32)
    z = -v if sign == "negated" else v * -1.0
    below = 1 + call("exp", z) if name == "silu" else call("exp", z) + 1
    whole = expand((v if name == "silu" else 1) / below)
    assert not any(isinstance(n, Apply) and n.kind == "exp" for n in postorder(whole))
    got = run(whole, {v: x}, contract)
    with np.errstate(all="ignore"):
        x64 = x.astype(np.float64)
        want = (x64 if name == "silu" else 1) / (1 + np.exp(-x64))
    inside = ~(x64 < -88.37)
    error = ulps(got, want)[inside]
    assert error.max() <= 2.5, f"{name}({x[inside][error.argmax()]!r}): {error.max():.2f} ulp"
    far = ~inside & (x > -np.inf)
    assert np.all(got[far] == 0) or np.abs(got[far] - want[far]).max() < 4e-37
    assert np.isnan(got[x == -np.inf]).all() == (name == "silu")  # -inf / inf


@pytest.mark.parametrize("contract", [False, True], ids=["rounded", "contracted"])
def test_gelu_stays_within_its_error(contract):
    x = np.concatenate([SPECIAL, anything(100_000), near(-7, 7), near(-0.5, 0.5), near(5.9, 6.1), near(-6.1, -5.9)])
    v = Var("x", F32)
    e = expand(0.5 * v * (1 + call("erf", v * math.sqrt(0.5))))
    got = run(e, {v: x}, contract)
    with np.errstate(invalid="ignore"):  # NaNs that signal
        x64 = x.astype(np.float64)
        want = np.array([0.5 * a * math.erfc(-a * math.sqrt(0.5)) for a in x64])
    positive = x64 > 0
    assert ulps(got[positive], want[positive]).max() <= 3.5
    others = ~(positive | np.isnan(want))
    assert np.abs(got[others] - want[others]).max() <= 1e-7
    assert np.array_equal(np.isnan(got), np.isnan(want)) and np.isnan(want[x64 == -math.inf]).all()  # -inf times 0
    assert not any(isinstance(n, Apply) and n.kind == "erf" for n in postorder(e))


def test_what_only_looks_like_gelu_keeps_its_erf():
    v, w = Var("x", F32), Var("y", F32)
    x = near(-3, 3, 1000)
    for e, want in ((0.5 * v * (1 + call("erf", w * math.sqrt(0.5))), lambda a, b: 0.5 * a * (1 + erf64(b * math.sqrt(0.5)))),
                    (0.5 * v * (1 + call("erf", v * 0.5)), lambda a, b: 0.5 * a * (1 + erf64(a * 0.5))),
                    (0.25 * v * (1 + call("erf", v * math.sqrt(0.5))), lambda a, b: 0.25 * a * (1 + erf64(a * math.sqrt(0.5))))):
        got = run(expand(e), {v: x, w: x[::-1].copy()})
        np.testing.assert_allclose(got, want(x.astype(np.float64), x[::-1].astype(np.float64)), atol=1e-6)


def pairs() -> tuple[np.ndarray, np.ndarray]:
    a, b = np.meshgrid(SPECIAL, SPECIAL)
    base, power = near(0, 100), near(-20, 20)
    whole = np.rint(near(-40, 40, 50_000))
    return (np.concatenate([a.ravel(), anything(200_000), base, near(0.9, 1.1), near(-20, 20, 50_000)]),
            np.concatenate([b.ravel(), anything(200_000), power, near(-900, 900), whole]))


@pytest.mark.parametrize("name, reference, limit", [("pow", np.power, 0.6), ("atan2", np.arctan2, 1.8)])
def test_binary_functions_stay_within_their_error(name, reference, limit):
    x, y = pairs()
    a, b = Var("x", F32), Var("y", F32)
    got = run(expand(call(name, a, b)), {a: x, b: y})
    with np.errstate(all="ignore"):
        want = reference(x.astype(np.float64), y.astype(np.float64))
    error = ulps(got, want)
    worst = int(np.argmax(error))
    assert error[worst] <= limit, f"{name}({x[worst]!r}, {y[worst]!r}) = {got[worst]!r}, want {want[worst]!r}"
    zero = want == 0
    assert np.array_equal(np.signbit(got[zero]), np.signbit(want[zero])), "the sign of zero"


def test_angles_next_to_a_multiple_of_half_pi_keep_their_precision():
    multiples = (np.arange(1, 40_000) * (np.pi / 2)).astype(np.float32)
    v = Var("x", F32)
    for name, reference in (("sin", np.sin), ("cos", np.cos)):
        assert ulps(run(expand(call(name, v)), {v: multiples}), reference(multiples.astype(np.float64))).max() <= 2.0


def test_only_f32_functions_are_expanded_and_sharing_survives():
    x, d = Var("x", F32), Var("d", F64)
    assert expand(call("exp", d)) is call("exp", d)
    untouched = x * 2.0 + 1.0
    assert expand(untouched) is untouched
    e = call("exp", x)
    squared = expand(e * e)
    assert isinstance(squared, Apply) and squared.args[0] is squared.args[1]


def test_functions_within_reductions_and_casts_are_expanded():
    b = Buffer("b", F32, (4,))
    e = cast(reduce("sum", [4], lambda k: call("tanh", call("exp", b[k]))), F64)
    kinds = {n.kind for n in postorder(expand(e)) if isinstance(n, Apply)}
    assert not kinds & set(EXPANSIONS)


@pytest.mark.parametrize("contract", [False, True])
@pytest.mark.parametrize("least", [-86.625, -50.0, -3.0])
def test_exponentials_that_are_zero_below_a_bound(least: float, contract: bool) -> None:
    """0 where x < c, else e^x, as softmax has it: fewer operations than exp, and right for every x."""
    x = Var("x", F32)
    bound = np.float32(least)
    plain = select(x < least, 0.0, call("exp", x))
    e = expand(plain)
    assert len(postorder(e)) < len(postorder(expand(call("exp", x))))
    values = np.concatenate([SPECIAL, RNG.uniform(-90, 90, 200_000), np.linspace(-87, -86.8, 4001), np.linspace(88.3, 89.1, 4001),
                             [bound, np.nextafter(bound, np.float32(0))]]).astype(np.float32)
    with np.errstate(all="ignore"):
        want = np.where(values < bound, 0.0, np.exp(values.astype(np.float64)))
    assert ulps(run(e, {x: values}, contract), want).max() <= 1


def test_a_bound_below_the_normal_numbers_takes_the_whole_exponential() -> None:
    x = Var("x", F32)
    values = np.linspace(-104, -86, 10_001, dtype=np.float32)
    want = np.where(values < -100, 0.0, np.exp(values.astype(np.float64)))
    assert ulps(run(expand(select(x < -100.0, 0.0, call("exp", x))), {x: values}), want).max() <= 1
