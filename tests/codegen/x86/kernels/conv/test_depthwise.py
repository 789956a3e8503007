"""Depthwise convolutions channels last: strips of every size, windows, strides, dilations, channels, epilogues."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphopt.codegen.x86.kernels.conv.depthwise import Window, choose_strip
from graphopt.ir import Value
from graphopt.targets.x86 import X86
from tests.codegen.lower.lowering import random
from tests.codegen.x86.compiling import Batch, made_by

TARGETS = ["x86", "x86:haswell", "x86:x86-64"]
RNG = np.random.default_rng(11)
# (channels, spatial, window, stride, dilation, pad): none divides by a strip, some are smaller than one
CASES: list[tuple[int, tuple[int, ...], Any, Any, Any, Any]] = [
    (16, (9, 13), 3, 1, 1, 1), (33, (8, 17), 3, 1, 1, 1), (96, (11, 15), 3, 2, 1, 1), (5, (7, 7), 3, 1, 1, 1),
    (1, (6, 9), 3, 1, 1, 1), (17, (5, 19), 5, 1, 1, 2), (24, (14, 14), 5, 2, 1, 2), (40, (9, 9), 7, 1, 1, 3),
    (8, (3, 3), 7, 1, 1, 3), (20, (12, 13), 3, 1, 2, 2), (20, (15, 13), 3, 2, 2, 2), (18, (10, 12), [1, 5], 1, 1, [0, 2, 0, 2]),
    (18, (10, 12), [5, 1], [2, 1], 1, [2, 0, 1, 0]), (19, (9, 9), 3, 3, 1, 0), (16, (9, 10), [2, 4], 1, 1, [1, 2, 0, 1]),
    (16, (1, 1), 3, 1, 1, 1), (130, (6, 5), 3, 1, 1, [0, 0, 1, 1]), (16, (29,), 3, 1, 1, 1), (36, (50,), 9, 2, 1, 4),
    (16, (4, 5, 9), 3, 1, 1, 1), (17, (5, 6, 7), [3, 1, 5], [2, 1, 1], 1, [1, 0, 2, 1, 0, 2]), (16, (9, 9), 1, 1, 1, 0),
]


def depthwise(batch: Batch, x: Value, wide: torch.Tensor, window: Any, stride: Any, dilation: Any, pad: Any,
              bias: bool) -> tuple[Value, torch.Tensor]:
    """A depthwise convolution of value `x`, whose value in f64 is `wide`; its result, and that in f64."""
    n, channels = wide.ndim - 2, wide.shape[1]
    window, stride, dilation = ([s] * n if isinstance(s, int) else s for s in (window, stride, dilation))
    pad = [pad] * (2 * n) if isinstance(pad, int) else pad
    w = random(RNG, "f32", channels, 1, *window)
    b = random(RNG, "f32", channels) if bias else None
    y = batch.b.conv(x, batch.b.const(w), None if b is None else batch.b.const(b), stride=stride, pad=pad, dilation=dilation,
                     groups=channels)
    ends = [p for k in reversed(range(n)) for p in (pad[k], pad[n + k])]
    function = (torch.conv1d, torch.conv2d, torch.conv3d)[n - 1]
    return y, function(torch.nn.functional.pad(wide, ends), torch.from_numpy(w).double(),
                       None if b is None else torch.from_numpy(b).double(), stride=stride, dilation=dilation, groups=channels)


def channels_last(batch: Batch, x: np.ndarray) -> tuple[Value, torch.Tensor]:
    """A value that lies channels last: the result of a transpose from there."""
    last = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    n = x.ndim
    return batch.b.transpose(batch.input(last), perm=[0, n - 1, *range(1, n - 1)]), torch.from_numpy(x.astype(np.float64))


def to_last(batch: Batch, y: Value) -> Value:
    n = len(y.static_shape)
    return batch.b.transpose(y, perm=[0, *range(2, n), 1])


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 100), st.sampled_from([1, 3, 5, 7]), st.sampled_from([1, 2]),
       st.sampled_from([1, 2]), st.sampled_from(["avx512f", "avx2", "sse2"]))
def test_strips_fit_the_registers(height: int, width: int, channels: int, window: int, stride: int, dilation: int,
                                  feature: str) -> None:
    machine = X86("x86", "x86:a", "a", frozenset((feature,)))
    taps = Window((window,) * 2, (stride,) * 2, (dilation,) * 2)
    _, strip = choose_strip(height, width, channels, taps, machine.lanes, machine)
    assert strip.high <= height and strip.wide <= width
    assert strip.high * strip.wide * strip.vectors < machine.registers


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("bias", [False, True])
def test_windows_strides_dilations_and_channels(target: str, bias: bool) -> None:
    batch = Batch()
    for channels, spatial, *how in CASES:
        x, wide = channels_last(batch, random(RNG, "f32", 2, channels, *spatial))
        y, want = depthwise(batch, x, wide, *how, bias)
        batch.give(to_last(batch, y), np.moveaxis(want.numpy(), 1, -1), f"{channels} {spatial} {how}", 1e-4)
    # One image of one pixel and one of one channel lie alike either way, and are the row-major kernel's.
    made = made_by(batch.check(target=target, threads=2))
    assert made["conv.depthwise"] == len(CASES) - 2 and made["conv.row_major"] == 2


@pytest.mark.parametrize("threads", [1, 3])
def test_epilogues_and_halos(threads: int) -> None:
    """Behind another convolution its image has a border; long epilogues go through memory."""
    batch = Batch()
    for channels, size, window, stride in [(40, 30, 3, 1), (24, 31, 3, 2), (24, 23, 5, 1), (17, 22, 7, 1)]:
        x, wide = channels_last(batch, random(RNG, "f32", 1, channels, size, size))
        x, wide = batch.b.relu(x), wide.relu()
        for act, torch_act in [(batch.b.relu, torch.relu), (batch.b.sigmoid, torch.sigmoid)]:
            y, want = depthwise(batch, x, wide, window, stride, 1, window // 2, True)
            z, want = depthwise(batch, act(y), torch_act(want), window, 1, 1, window // 2, False)
            batch.give(to_last(batch, z), np.moveaxis(want.numpy(), 1, -1), f"{channels} {size} {window} {stride}", 1e-4)
    assert made_by(batch.check(threads=threads))["conv.depthwise"] == 16


def test_other_dtypes() -> None:
    for d, tolerance in (("f64", 1e-12), ("f16", 2e-2), ("bf16", 1e-1)):
        batch = Batch()
        array = random(RNG, d, 1, 20, 9, 11)
        w = random(RNG, d, 20, 1, 3, 3)
        x, _ = channels_last(batch, array)
        y = batch.b.conv(x, batch.b.const(w), None, stride=[1, 1], pad=[1] * 4, dilation=[1, 1], groups=20)
        want = torch.conv2d(*(torch.from_numpy(a.astype(np.float64)) for a in (array, w)), padding=1, groups=20)
        batch.give(to_last(batch, y), np.moveaxis(want.numpy(), 1, -1), d, tolerance)
        batch.check("conv.depthwise")


def test_special_values_stay_in_their_channel() -> None:
    batch = Batch()
    array = random(RNG, "f32", 1, 20, 8, 9)
    array[0, 3, 4, 4], array[0, 7, 0, 0], array[0, 19, 7, 8] = np.nan, np.inf, -np.inf
    x, wide = channels_last(batch, array)
    y, want = depthwise(batch, x, wide, 3, 1, 1, 1, False)
    batch.give(to_last(batch, y), np.moveaxis(want.numpy(), 1, -1), "special", 1e-4)
    batch.check("conv.depthwise")
