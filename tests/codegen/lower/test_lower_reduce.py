"""Reductions and running sums."""

from __future__ import annotations

import numpy as np
import pytest

from tests.codegen.lower.lowering import check, random

RNG = np.random.default_rng(41)
NUMBERS = ["f32", "f16", "bf16", "f64", "i8", "i32", "i64", "u8", "u64"]


@pytest.mark.parametrize("of", NUMBERS)
@pytest.mark.parametrize("name", ["sum", "mean", "max", "min", "prod"])
def test_reductions(name: str, of: str) -> None:
    for shape, axes in (((3, 4, 5), [1]), ((3, 4, 5), [0, 2]), ((2, 3), [0, 1]), ((2, 1), [1]), ((2, 3), []), ((2, 0), [1]),
                        ((0, 2), [1])):
        for keep in (False, True):
            check(f"reduce_{name}", [random(RNG, of, *shape, low=-1.2, high=1.2)], axes=axes, keepdims=keep)


@pytest.mark.parametrize("name", ["sum", "mean", "max", "min", "prod", "logsumexp"])
def test_specials(name: str) -> None:
    x = random(RNG, "f32", 6, 5)
    x[0, 2], x[1, 1], x[2, :], x[3, :], x[4, 0] = np.nan, np.inf, -np.inf, np.inf, 88
    check(f"reduce_{name}", [x], axes=[1])


@pytest.mark.parametrize("of", ["f32", "f16", "f64"])
def test_logsumexp(of: str) -> None:
    check("reduce_logsumexp", [random(RNG, of, 3, 4, 5)], axes=[0, 2])
    check("reduce_logsumexp", [random(RNG, of, 3, 4) * 30], axes=[1], keepdims=True)
    check("reduce_logsumexp", [random(RNG, of, 3, 0)], axes=[1])
    check("reduce_logsumexp", [random(RNG, of, 3)], axes=[])


def test_any_and_all() -> None:
    x = RNG.random((4, 5)) < 0.3
    for name in ("reduce_any", "reduce_all"):
        check(name, [x], axes=[1])
        check(name, [x[:, :0]], axes=[1], keepdims=True)


@pytest.mark.parametrize("of", NUMBERS)
@pytest.mark.parametrize("last", [False, True])
def test_positions_of_extremes(of: str, last: bool) -> None:
    for name in ("argmax", "argmin"):
        x = random(RNG, of, 4, 7, 3, low=0, high=0.5)  # ties
        check(name, [x], axis=1, select_last=last)
        check(name, [x], axis=2, keepdims=True, select_last=last)
        if of[0] in "fb":
            x[1, 2] = x[1, 4] = x[2, 0, 0] = np.nan
            x[3] = -np.inf
            check(name, [x], axis=1, select_last=last)


@pytest.mark.parametrize("of", NUMBERS)
@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_running(of: str, exclusive: bool, reverse: bool) -> None:
    for name in ("cumsum", "cumprod"):
        for shape, axis in (((2, 5, 3), 1), ((4,), 0), ((2, 1), 1), ((2, 0), 1), ((3, 2), 0)):
            check(name, [random(RNG, of, *shape, low=-1.2, high=1.2)], axis=axis, exclusive=exclusive, reverse=reverse)
