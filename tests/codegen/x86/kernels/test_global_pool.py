"""Reductions that leave the last axis in memory: every extent, layout, dtype and thread, against numpy in f64 and torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from graphopt.capture import capture
from graphopt.ir import Value
from tests.codegen.lower.lowering import random
from tests.codegen.x86.compiling import AllChannelsLast, Batch, Built, made_by

RNG = np.random.default_rng(29)
TARGETS = ["x86", "x86:haswell"]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("threads", [1, 3])
def test_all_kinds_over_every_outer_axis(target: str, threads: int) -> None:
    batch = Batch()
    for shape in ((29, 5), (7, 16), (3, 31, 33), (2, 9, 11, 40), (1, 13, 130, 200), (2, 3, 5, 7, 17), (1500, 700)):
        x = random(RNG, "f32", *shape)
        wide, a = x.astype(np.float64), batch.input(x)
        for axes in ([0], [len(shape) - 2], list(range(len(shape) - 1))):
            for keep in (True, False):
                given = {"axes": axes, "keepdims": keep}
                at = {"axis": tuple(axes), "keepdims": keep}
                what = f"over {axes} of {shape}"
                batch.give(batch.b.reduce_sum(a, **given), wide.sum(**at), f"sum {what}", 1e-3)
                batch.give(batch.b.reduce_mean(a, **given), wide.mean(**at), f"mean {what}", 1e-5)
                batch.give(batch.b.reduce_max(a, **given), wide.max(**at), f"max {what}")
                batch.give(batch.b.reduce_min(a, **given), wide.min(**at), f"min {what}")
    x = 1 + random(RNG, "f32", 2, 9, 11, 40) / 10  # products that stay near 1
    for axes in ([1], [1, 2], [0, 1, 2]):
        batch.give(batch.b.reduce_prod(batch.input(x), axes=axes, keepdims=False),
                   x.astype(np.float64).prod(axis=tuple(axes)), f"product over {axes}", 1e-5)
    batch.check("global_pool", beside=["generic"], target=target, threads=threads)


@pytest.mark.parametrize("dtype", ["f64", "f16", "bf16", "i32"])
def test_other_dtypes(dtype: str) -> None:
    batch = Batch()
    a = batch.input(random(RNG, dtype, 2, 13, 9, 37))
    for reduce in (batch.b.reduce_mean, batch.b.reduce_max):
        batch.give(reduce(a, axes=[1, 2], keepdims=False))
    batch.check("generic" if dtype == "i32" else "global_pool", threads=2)


def test_nothing_and_what_is_not_a_number() -> None:
    batch = Batch()
    x = random(RNG, "f32", 1, 40, 60, 48)
    x[0, 3, 5, 7], x[0, 39, 59, 8] = np.nan, np.inf

    def all_of(a: Value) -> None:
        for reduce in (batch.b.reduce_sum, batch.b.reduce_max, batch.b.reduce_min):
            batch.give(reduce(a, axes=[1, 2], keepdims=True))

    all_of(batch.input(x))
    empty = batch.input(np.zeros((2, 0, 3, 16), np.float32))
    batch.give(batch.b.reduce_sum(empty, axes=[1, 2], keepdims=True))
    assert made_by(batch.check(threads=2))["global_pool"] == 3


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_global_pooling_between_convolutions(target: str, threads: int) -> None:
    """Images lie channels last there, some with a halo for the convolution that reads them too."""
    torch.manual_seed(0)

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = torch.nn.Conv2d(24, 72, 1), torch.nn.Conv2d(72, 40, 3, padding=1)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            y = torch.relu(self.first(x))
            z = self.second(y * torch.sigmoid(y.mean((2, 3), keepdim=True)))
            return y.mean((2, 3)), z, z.mean((2, 3)), z.amax((2, 3))

    net, x = Net().eval(), torch.randn(2, 24, 29, 31)
    with torch.inference_mode():
        want = net.double()(x.double())
    model = Built(capture(net.float(), (x,)), AllChannelsLast, target, threads)
    assert made_by(model)["global_pool"] == 3
    for got, wanted in zip(model(x), want):
        np.testing.assert_allclose(np.asarray(got), wanted.numpy(), rtol=0, atol=2e-5)
