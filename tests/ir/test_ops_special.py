"""Special functions against SciPy in float64 (which scikit-learn brings), and their values at the ends of their domains."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.ir.ops.iterated import ITERATIONS
from graphopt.ir.ops.special import FORMULAS
from graphopt.ir.table import TABLE

scipy = pytest.importorskip("scipy.special", reason="SciPy comes with scikit-learn")
RNG = np.random.default_rng(0)
NAN, INF = np.nan, np.inf


def spread(low: float, high: float) -> np.ndarray:
    """f32 numbers between the two, evenly and at random."""
    return np.concatenate([np.linspace(low, high, 2001), RNG.uniform(low, high, 2000)]).astype(np.float32)


def powers(low: float, high: float) -> np.ndarray:
    return (10 ** RNG.uniform(low, high, 2000)).astype(np.float32)


# name, SciPy's function, arguments
CASES = {
    "erfc": (scipy.erfc, spread(-10, 12)),
    "erfcx": (scipy.erfcx, np.concatenate([spread(-9, 10), powers(-10, 30)])),
    "erfinv": (scipy.erfinv, np.concatenate([spread(-1, 1), 1 - powers(-7, -1), powers(-10, 0)])),
    "ndtri": (scipy.ndtri, np.concatenate([spread(0, 1), powers(-37, 0)])),
    "log_ndtr": (scipy.log_ndtr, np.concatenate([spread(-40, 12), -powers(0, 15)])),
    "lgamma": (scipy.gammaln, np.concatenate([spread(-30, 30), powers(-30, 30), 1 + powers(-7, -1), 2 - powers(-7, -1)])),
    "digamma": (scipy.digamma, np.concatenate([spread(-30, 30), powers(-30, 30)])),
    "bessel_i0": (scipy.i0, spread(-80, 80)), "bessel_i0e": (scipy.i0e, np.concatenate([spread(-80, 80), powers(-5, 30)])),
    "bessel_i1": (scipy.i1, spread(-80, 80)), "bessel_i1e": (scipy.i1e, np.concatenate([spread(-80, 80), powers(-5, 30)])),
    "bessel_k0": (scipy.k0, np.concatenate([spread(1e-3, 80), powers(-30, 0)])),
    "bessel_k1": (scipy.k1, np.concatenate([spread(1e-3, 80), powers(-30, 0)])),
    "bessel_k0e": (scipy.k0e, np.concatenate([spread(1e-3, 80), powers(-30, 30)])),
    "bessel_k1e": (scipy.k1e, np.concatenate([spread(1e-3, 80), powers(-30, 30)])),
    "airy_ai": (lambda x: scipy.airy(x)[0], spread(-60, 60)),
}


@pytest.mark.parametrize("name", CASES)
def test_to_one_ulp_of_f32(name: str) -> None:
    reference, x = CASES[name]
    with np.errstate(all="ignore"):
        got = TABLE[name].evaluate(x)
        want = reference(x.astype(np.float64))
    finite = np.isfinite(want) & (np.abs(want) > 1e-37) & (np.abs(want) < 3e38)
    assert got.dtype == np.float32
    error = np.abs(got[finite] - want[finite]) / np.spacing(np.abs(want[finite]).astype(np.float32))
    assert error.max() <= 1.0, x[finite][error.argmax()]
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))


@pytest.mark.parametrize("name, reference", [("bessel_j0", scipy.j0), ("bessel_j1", scipy.j1), ("bessel_y0", scipy.y0),
                                             ("bessel_y1", scipy.y1)])
def test_bessel_functions_that_oscillate_are_right_to_rounding_of_their_amplitude(name: str, reference) -> None:
    x = np.concatenate([spread(0.1, 90), powers(-3, 4)]).astype(np.float64)
    with np.errstate(all="ignore"):
        got, want = FORMULAS[name](np, x), reference(x)
    assert np.max(np.abs(got - want) / np.maximum(np.abs(want), 1)) < 2e-14


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_polygamma(n: int) -> None:
    x = np.concatenate([spread(0.01, 30), powers(-3, 10)]).astype(np.float64)
    np.testing.assert_allclose(FORMULAS["polygamma"](np, x, n), scipy.polygamma(n, x), rtol=1e-13)


def iterate(name: str, *xs: np.ndarray, **attrs) -> np.ndarray:
    with np.errstate(all="ignore"):
        return TABLE[name].evaluate(*(np.asarray(x, np.float64) for x in xs), **attrs)


def test_zeta_and_incomplete_gamma_functions() -> None:
    s, q = RNG.uniform(1.05, 12, 300), RNG.uniform(0.01, 20, 300)
    np.testing.assert_allclose(iterate("zeta", s, q), scipy.zeta(s, q), rtol=1e-13)
    a, x = 10 ** RNG.uniform(-3, 4, 400), 10 ** RNG.uniform(-3, 4, 400)
    a = np.concatenate([a, a])
    x = np.concatenate([x, np.abs(a[:400] + np.sqrt(a[:400]) * RNG.normal(size=400))])  # where neither is near 0
    np.testing.assert_allclose(iterate("gammainc", a, x), scipy.gammainc(a, x), rtol=1e-9, atol=1e-300)
    np.testing.assert_allclose(iterate("gammaincc", a, x), scipy.gammaincc(a, x), rtol=1e-9, atol=1e-250)


def test_orthogonal_polynomials() -> None:
    x = RNG.uniform(-2, 2, 200)
    n = RNG.integers(0, 12, 200)
    for family, reference in {"chebyshev_t": scipy.eval_chebyt, "chebyshev_u": scipy.eval_chebyu, "hermite_h": scipy.eval_hermite,
                              "hermite_he": scipy.eval_hermitenorm, "laguerre_l": scipy.eval_laguerre,
                              "legendre_p": scipy.eval_legendre}.items():
        np.testing.assert_allclose(iterate("orthogonal_polynomial", x, n, family=family), reference(n, x), rtol=1e-9, atol=1e-9)
    assert iterate("orthogonal_polynomial", [0.5], [-3], family="legendre_p") == 0


ENDS = [  # name, argument, value
    ("lgamma", 0.0, INF), ("lgamma", -3.0, INF), ("lgamma", -INF, INF), ("lgamma", INF, INF), ("lgamma", NAN, NAN),
    ("digamma", 0.0, -INF), ("digamma", -0.0, INF), ("digamma", -2.0, NAN), ("digamma", INF, INF), ("erfc", INF, 0.0),
    ("erfc", -INF, 2.0), ("erfcx", INF, 0.0), ("erfcx", -INF, INF), ("erfinv", 1.0, INF), ("erfinv", -1.0, -INF),
    ("erfinv", 1.5, NAN), ("ndtri", 0.0, -INF), ("ndtri", 1.0, INF), ("ndtri", -0.1, NAN), ("log_ndtr", INF, 0.0),
    ("log_ndtr", -INF, -INF), ("bessel_k0", 0.0, INF), ("bessel_k0", -1.0, NAN), ("bessel_k1", INF, 0.0),
    ("bessel_y0", 0.0, -INF), ("bessel_y1", -1.0, NAN), ("bessel_j0", 0.0, 1.0), ("bessel_j1", 0.0, 0.0),
    ("bessel_i0e", INF, 0.0), ("airy_ai", NAN, NAN),
]


@pytest.mark.parametrize("name, x, value", ENDS)
def test_ends_of_domains(name: str, x: float, value: float) -> None:
    with np.errstate(all="ignore"):
        got = TABLE[name].evaluate(np.array([x], np.float32))
    np.testing.assert_array_equal(got, np.array([value], np.float32))


def test_every_function_takes_nothing_and_halves() -> None:
    for name in FORMULAS:
        attrs = {"n": 2} if name == "polygamma" else {}
        for dtype in (np.float16, np.float64):
            assert TABLE[name].evaluate(np.zeros((0, 3), dtype), **attrs).dtype == dtype
    for name in ITERATIONS:
        attrs = {"family": "legendre_p"} if name == "orthogonal_polynomial" else {}
        assert TABLE[name].evaluate(*[np.zeros((2, 0), np.float32)] * 2, **attrs).shape == (2, 0)
