"""Special functions, running extremes and systems of equations: each lowering against the reference semantics."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.ir.ops.iterated import ITERATIONS
from graphopt.ir.ops.special import FORMULAS
from tests.codegen.lower.lowering import SPECIAL, check, random

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("name", FORMULAS)
def test_formulas_mean_the_same_over_expressions(name: str) -> None:
    attrs = {"n": 3} if name == "polygamma" else {}
    x = np.concatenate([RNG.uniform(-12, 12, 40), RNG.uniform(0, 1, 20), SPECIAL]).astype(np.float32)
    check(name, [x], **attrs)
    check(name, [x[:7].astype(np.float16)], **attrs)
    check(name, [np.zeros((0, 2), np.float32)], **attrs)


@pytest.mark.parametrize("name", ITERATIONS)
def test_iterations_take_as_many_steps_as_each_element_needs(name: str) -> None:
    attrs = {"family": "laguerre_l"} if name == "orthogonal_polynomial" else {}
    a = np.array([0.5, 1, 2, 3, 7.5, 0, -1, np.nan, np.inf, 2, 2.5, 4], np.float32)
    b = np.array([1, 0.5, 0.1, 4, 3, 2, 3, 1, 1, -3.5, np.inf, 9], np.float32)
    if attrs:
        b = np.minimum(b, 40)  # a degree: the most steps there are take the interpreter half a minute
    check(name, [a, b], **attrs)
    check(name, [np.zeros((2, 0), np.float32)] * 2, **attrs)


def test_greatest_common_divisors() -> None:
    for of in ("i32", "i64", "u8"):
        a, b = random(RNG, of, 30), random(RNG, of, 30)
        check("gcd", [a, b])
    check("gcd", [np.array([0, 12, -12, 2**31 - 1, 1836311903], np.int32), np.array([0, 0, 18, 2**30, 1134903170], np.int32)])


@pytest.mark.parametrize("name", ["cummax", "cummin"])
def test_running_extremes_keep_the_last_of_equals_and_nan(name: str) -> None:
    x = np.array([[1, np.nan, 3, 2], [2, 2, -np.inf, np.nan], [np.inf, 0.0, -0.0, 1]], np.float32)
    for axis in (0, 1):
        check(name, [x], axis=axis)
    for shape in ((1, 3), (3, 1), (0, 2), (2, 0)):
        check(name, [random(RNG, "f32", *shape)], axis=1)
    check(name, [random(RNG, "i64", 4, 5)], axis=0)


def test_running_logsumexp() -> None:
    x = np.array([[1, 2, 3], [-np.inf, -np.inf, 1], [np.inf, 1000, 0], [np.nan, 1, 2], [1000, 1001, -5]], np.float32)
    got = check("cumlogsumexp", [x], axis=1)[0]
    np.testing.assert_allclose(got[4], [1000, 1001.3133, 1001.3133])
    check("cumlogsumexp", [x], axis=0)
    check("cumlogsumexp", [np.zeros((0, 3), np.float32)], axis=0)


@pytest.mark.parametrize("n, k", [(1, 1), (4, 3), (5, 0), (0, 2)])
def test_systems_of_equations(n: int, k: int) -> None:
    a, b = random(RNG, "f32", 2, n, n), random(RNG, "f32", 2, n, k)
    x, info = check("solve", [a, b])
    np.testing.assert_allclose(x, np.linalg.solve(a.astype(np.float64), b.astype(np.float64)), rtol=1e-4, atol=1e-4)
    assert not info.any()
    for upper in (False, True):
        for unit in (False, True):
            check("triangular_solve", [a + 3 * np.eye(n, dtype=np.float32), b], upper=upper, unit=unit)
    check("slogdet", [a])
    np.testing.assert_allclose(check("cholesky", [a @ a.swapaxes(1, 2) + np.eye(n, dtype=np.float32)])[0],
                               np.linalg.cholesky(a @ a.swapaxes(1, 2) + np.eye(n)), rtol=1e-4, atol=1e-4)


def test_singular_and_indefinite_matrices_are_told() -> None:
    assert check("solve", [np.array([[1, 2], [2, 4]], np.float32), np.ones((2, 1), np.float32)])[1] == 2
    assert check("cholesky", [np.array([[1, 0, 0], [0, -1, 0], [0, 0, 1]], np.float32)])[1] == 2
    sign, log = check("slogdet", [np.zeros((3, 3), np.float32)])
    assert sign == 0 and log == -np.inf
