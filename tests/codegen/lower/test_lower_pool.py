"""Pooling: windows over the border, partial windows, indices."""

from __future__ import annotations

import numpy as np
import pytest

from tests.codegen.lower.lowering import check, random

RNG = np.random.default_rng(21)
WINDOWS = [
    {"kernel": [3], "stride": [2], "pad": [1, 1], "dilation": [1]},
    {"kernel": [3, 2], "stride": [2, 2], "pad": [1, 0, 1, 1], "dilation": [1, 2]},
    {"kernel": [3, 3], "stride": [2, 3], "pad": [0, 1, 1, 0], "dilation": [1, 1], "ceil_mode": True},
    {"kernel": [2, 3], "stride": [3, 2], "pad": [0, 0, 0, 0], "dilation": [2, 1], "ceil_mode": True},
    {"kernel": [2, 1, 2], "stride": [1, 2, 1], "pad": [0, 0, 1, 1, 0, 0], "dilation": [1, 1, 2]},
]


@pytest.mark.parametrize("window", WINDOWS, ids=lambda w: f"{w['kernel']}{w.get('ceil_mode', False)}")
@pytest.mark.parametrize("of", ["f32", "f16", "i8", "u8", "f64"])
def test_pools(window: dict, of: str) -> None:
    spatial = (7, 8, 5)[:len(window["kernel"])]
    for lead in ((2, 3), (2,)):
        x = random(RNG, of, *lead, *spatial)
        check("max_pool", [x], **window)
        check("max_pool_indices", [x], **window)
        if of[0] == "f":
            for include in (False, True):
                check("avg_pool", [x], count_include_pad=include, **window)
            check("avg_pool", [x], count_include_pad=False, divisor=3, **window)


def test_nan_and_infinity_win() -> None:
    x = random(RNG, "f32", 1, 2, 6, 6, special=True)
    x[0, 1, 0] = -np.inf
    window = {"kernel": [2, 2], "stride": [1, 1], "pad": [1, 1, 0, 0], "dilation": [1, 1]}
    check("max_pool", [x], **window)
    check("max_pool_indices", [x[:, :, 1:]], **window)


def test_equal_elements_give_the_first() -> None:
    x = np.ones((1, 2, 4, 4), np.float32)
    check("max_pool_indices", [x], kernel=[2, 2], stride=[2, 2], pad=[0, 0, 0, 0], dilation=[1, 1])
    check("adaptive_max_pool", [x], output=[3, 2])


@pytest.mark.parametrize("output", [(1, 1), (3, 2), (7, 5), (14, 10), (4, 7)])
@pytest.mark.parametrize("of", ["f32", "bf16"])
def test_adaptive(output: tuple[int, ...], of: str) -> None:
    x = random(RNG, of, 2, 3, 7, 5)
    check("adaptive_avg_pool", [x], output=output)
    check("adaptive_max_pool", [x], output=output)
    check("adaptive_max_pool", [x[0, 0]], output=output[:1])


def test_nothing_to_pool() -> None:
    window = {"kernel": [2], "stride": [1], "pad": [0, 0], "dilation": [1]}
    check("max_pool", [random(RNG, "f32", 0, 2, 4)], **window)
    check("avg_pool", [random(RNG, "f32", 0, 2, 4)], count_include_pad=True, **window)
    check("adaptive_avg_pool", [random(RNG, "f32", 0, 2, 4)], output=[2])
