"""Row-major pools through the x86 template, against torch: windows over the edges, rows shorter than vectors, NaN, threads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.codegen.x86.compiling import Batch

RNG = np.random.default_rng(5)
TARGETS = ["x86", "x86:haswell", "x86:x86-64"]


def pools(batch: Batch, x: np.ndarray, kernel: list[int], stride: list[int], pad: list[int], dilation: list[int],
          ceil: bool) -> None:
    """Both kinds of pool, with what torch makes of them as the wanted results."""
    rank, given = len(kernel), torch.from_numpy(x)
    biggest = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[rank - 1]
    mean = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[rank - 1]
    v, options = batch.input(x), {"kernel": kernel, "stride": stride, "pad": pad * 2, "ceil_mode": ceil}
    want = biggest(given, kernel, stride, pad, dilation, ceil)  # type: ignore[operator]
    batch.give(batch.b.max_pool(v, dilation=dilation, **options), want.numpy(), f"max {kernel} {stride} {pad}")
    if set(dilation) == {1}:
        for whole in (True, False):
            want = mean(given, kernel, stride, pad, ceil, whole)  # type: ignore[operator]
            batch.give(batch.b.avg_pool(v, dilation=dilation, count_include_pad=whole, **options), want.numpy(),
                       f"mean {kernel} {stride} {pad} {whole}")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("threads", [1, 3])
def test_windows(target: str, threads: int) -> None:
    batch = Batch()
    for height, width in [(9, 11), (1, 40), (16, 33), (5, 4), (40, 130)]:
        x = RNG.standard_normal((2, 3, height, width)).astype(np.float32)
        for kernel, stride, pad, dilation in [(3, 2, 1, 1), (3, 1, 1, 1), (2, 2, 0, 1), (5, 1, 2, 1), (2, 1, 1, 1), (3, 2, 1, 2)]:
            if height + 2 * pad <= (kernel - 1) * dilation or (width + 2 * pad - (kernel - 1) * dilation - 1) // stride < 3:
                continue
            for ceil in (False, True):
                pools(batch, x, [kernel] * 2, [stride] * 2, [pad] * 2, [dilation] * 2, ceil)
        pools(batch, x, [1, 4], [1, 1], [0, 2], [1, 1], False)
        pools(batch, x, [1, 3], [3, 2], [0, 0], [1, 1], False)
    pools(batch, RNG.standard_normal((1, 2, 6, 7, 21)).astype(np.float32), [3, 2, 3], [2, 1, 2], [1, 1, 1], [1, 1, 1], False)
    pools(batch, RNG.standard_normal((2, 3, 50)).astype(np.float32), [3], [2], [1], [1], True)
    pools(batch, np.zeros((0, 3, 8, 8), np.float32), [2, 2], [2, 2], [0, 0], [1, 1], False)
    batch.check("pool", beside=["generic", "loops"], target=target, threads=threads)


def test_nan_and_infinities() -> None:
    """A NaN reaches the windows that hold it and no others; padding is less than any element."""
    batch = Batch()
    x = RNG.standard_normal((1, 2, 9, 37)).astype(np.float32)
    x[0, 0, 4, 17], x[0, 0, 0, 0], x[0, 1, 8, 36], x[0, 1, 3] = np.nan, -np.inf, np.inf, -np.inf
    for kernel, stride, pad in [(3, 2, 1), (3, 1, 1), (2, 2, 0)]:
        pools(batch, x, [kernel] * 2, [stride] * 2, [pad] * 2, [1, 1], False)
    pools(batch, np.full((1, 1, 4, 20), -np.inf, np.float32), [3, 3], [1, 1], [1, 1], [1, 1], False)
    batch.check("pool")
