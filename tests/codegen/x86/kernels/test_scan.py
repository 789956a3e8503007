"""Running sums and products along every axis, through the whole compiler."""

from __future__ import annotations

import numpy as np
import pytest

from tests.codegen.lower.lowering import random
from tests.codegen.x86.compiling import Batch

RNG = np.random.default_rng(23)


@pytest.mark.parametrize("target", ["x86", "x86:haswell"])
@pytest.mark.parametrize("threads", [1, 3])
def test_running_over_every_axis(target: str, threads: int) -> None:
    batch = Batch()
    for inner in (1, 3, 4, 7, 16, 33, 131, 700):
        x = random(RNG, "f32", 3, 29, inner, low=-1.2, high=1.2)
        wide, a = x.astype(np.float64), batch.input(x)
        for axis in range(3):
            batch.give(batch.b.cumsum(a, axis=axis), wide.cumsum(axis), f"cumsum over {axis} of {x.shape}")
            behind = np.flip(np.flip(wide, axis).cumsum(axis), axis)
            batch.give(batch.b.cumsum(a, axis=axis, reverse=True), behind, f"from the end over {axis} of {x.shape}")
            batch.give(batch.b.cumsum(a, axis=axis, exclusive=True), wide.cumsum(axis) - wide, f"before {axis} of {x.shape}")
        batch.give(batch.b.cumprod(a, axis=1), wide.cumprod(1), f"cumprod of {x.shape}")
    batch.check(target=target, threads=threads)


@pytest.mark.parametrize("dtype", ["f64", "f16", "bf16", "i32", "i64"])
def test_running_of_other_dtypes(dtype: str) -> None:
    batch = Batch()
    a = batch.input(random(RNG, dtype, 2, 13, 37))
    batch.give(batch.b.cumsum(a, axis=1))
    batch.give(batch.b.cumsum(a, axis=0, exclusive=True, reverse=True))
    batch.check()


def test_running_with_nothing_and_infinities() -> None:
    batch = Batch()
    x = random(RNG, "f32", 5, 40)
    x[1, 3], x[2, 4] = np.nan, np.inf
    batch.give(batch.b.cumsum(batch.input(x), axis=0))
    batch.give(batch.b.cumsum(batch.input(np.zeros((0, 40), np.float32)), axis=0))
    batch.give(batch.b.cumsum(batch.input(np.zeros((4, 0), np.float32)), axis=0))
    batch.check()
