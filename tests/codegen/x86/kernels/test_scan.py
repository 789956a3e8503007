"""Running sums and products along every axis, through the whole compiler."""

from __future__ import annotations

import numpy as np
import pytest

from tests.codegen.lower.lowering import random
from tests.codegen.x86.compiling import Batch, made_by

RNG = np.random.default_rng(23)


@pytest.mark.parametrize("target", ["x86", "x86:haswell"])
@pytest.mark.parametrize("threads", [1, 3])
def test_running_over_every_axis(target: str, threads: int) -> None:
    batch = Batch()
    inners = (1, 3, 4, 7, 16, 33, 131, 700)
    for inner in inners:
        x = random(RNG, "f32", 3, 29, inner, low=-1.2, high=1.2)
        wide, a = x.astype(np.float64), batch.input(x)
        for axis in range(3):
            batch.give(batch.b.cumsum(a, axis=axis), wide.cumsum(axis), f"cumsum over {axis} of {x.shape}")
            behind = np.flip(np.flip(wide, axis).cumsum(axis), axis)
            batch.give(batch.b.cumsum(a, axis=axis, reverse=True), behind, f"from the end over {axis} of {x.shape}")
            batch.give(batch.b.cumsum(a, axis=axis, exclusive=True), wide.cumsum(axis) - wide, f"before {axis} of {x.shape}")
        batch.give(batch.b.cumprod(a, axis=1), wide.cumprod(1), f"cumprod of {x.shape}")
    made = made_by(batch.check(target=target, threads=threads))
    # Along either outer axis three sums each, and a product, where four elements lie behind it; the kernels of the others are
    # written by the rule. One element behind the middle axis leaves 29 behind the first.
    assert made["scan"] == 7 * sum(n >= 4 for n in inners) + 3 * sum(n < 4 for n in inners)


@pytest.mark.parametrize("dtype", ["f64", "f16", "bf16", "i32", "i64"])
def test_running_of_other_dtypes(dtype: str) -> None:
    batch = Batch()
    a = batch.input(random(RNG, dtype, 2, 13, 37))
    batch.give(batch.b.cumsum(a, axis=1))
    batch.give(batch.b.cumsum(a, axis=0, exclusive=True, reverse=True))
    batch.check("scan")


def test_running_with_nothing_and_infinities() -> None:
    batch = Batch()
    x = random(RNG, "f32", 5, 40)
    x[1, 3], x[2, 4] = np.nan, np.inf
    batch.give(batch.b.cumsum(batch.input(x), axis=0))
    batch.give(batch.b.cumsum(batch.input(np.zeros((0, 40), np.float32)), axis=0))
    batch.give(batch.b.cumsum(batch.input(np.zeros((4, 0), np.float32)), axis=0))
    assert made_by(batch.check())["scan"] == 1
