"""A convolution streamed into the depthwise one that reads it: rows, strides, borders, panels, epilogues, threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.codegen.lower.lowering import random
from tests.codegen.x86.compiling import Batch, Streams, made_by

RNG = np.random.default_rng(12)
# (channels in, between, height, width, first window, first stride, depthwise window, stride, dilation, pad of both)
CASES = [
    (8, 48, 20, 21, 1, 1, 3, 1, 1, 0, 1), (24, 144, 13, 17, 1, 1, 3, 2, 1, 0, 1), (16, 96, 15, 40, 1, 1, 5, 1, 1, 0, 2),
    (16, 40, 14, 14, 1, 1, 5, 2, 1, 0, 2), (160, 200, 7, 7, 1, 1, 3, 1, 1, 0, 1), (8, 17, 9, 30, 1, 1, 7, 1, 1, 0, 3),
    (8, 32, 12, 12, 1, 1, 3, 1, 2, 0, 2), (3, 32, 25, 27, 3, 2, 3, 1, 1, 1, 1), (12, 33, 5, 33, 1, 1, 3, 3, 1, 0, 0),
    (9, 24, 16, 11, 1, 2, 2, 2, 1, 0, 0), (12, 10, 10, 33, 1, 1, 3, 1, 1, 0, 1), (16, 64, 1, 30, 1, 1, 3, 1, 1, 0, 1),
    (16, 64, 30, 1, 1, 1, 3, 1, 1, 0, 1), (16, 64, 8, 8, 1, 1, 4, 1, 1, 0, [1, 2, 2, 1]),
]

ROUNDING = 2e-6  # of the largest sum: two of up to 200 products, which may cancel


def chain(batch: Batch, case: Any, act: str, bias: bool, images: int = 2) -> None:
    inputs, between, height, width, k1, s1, k2, s2, dilation, p1, p2 = case
    array = random(RNG, "f32", images, height, width, inputs)
    x = batch.b.transpose(batch.input(array), perm=[0, 3, 1, 2])
    wide = torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 1))).double()
    for outs, groups, k, s, d, p in ((between, 1, k1, s1, 1, p1), (between, between, k2, s2, dilation, p2)):
        w = random(RNG, "f32", outs, wide.shape[1] // groups, k, k)
        b = random(RNG, "f32", outs) if bias else None
        pad = [p] * 4 if isinstance(p, int) else p
        x = batch.b.conv(x, batch.b.const(w), None if b is None else batch.b.const(b), stride=[s, s], pad=pad, dilation=[d, d],
                         groups=groups)
        padded = torch.nn.functional.pad(wide, (pad[1], pad[3], pad[0], pad[2]))
        wide = torch.conv2d(padded, torch.from_numpy(w).double(), None if b is None else torch.from_numpy(b).double(), s, 0, d,
                            groups)
        largest = float(wide.abs().max())
        if act:
            x, wide = getattr(batch.b, act)(x), getattr(torch, act)(wide)
    batch.give(batch.b.transpose(x, perm=[0, 2, 3, 1]), np.moveaxis(wide.numpy(), 1, -1), f"{case} {act}", ROUNDING * largest)


def streams(model: Any) -> int:
    return made_by(model)["conv.streamed"]


@pytest.mark.parametrize("target", ["x86", "x86:haswell", "x86:x86-64"])
@pytest.mark.parametrize(("act", "threads"), [("relu", 1), ("sigmoid", 2), ("", 3)])
def test_rows_go_from_one_convolution_to_the_next(target: str, act: str, threads: int) -> None:
    batch = Batch()
    for case in CASES:
        chain(batch, case, act, bias=act != "")
    model = batch.check(by=Streams, target=target, threads=threads)
    assert streams(model) > len(CASES) // 2


@pytest.mark.parametrize("threads", [2, 5])
def test_large_images_are_shared(threads: int) -> None:
    batch = Batch()
    for case in [(16, 96, 57, 56, 1, 1, 3, 1, 1, 0, 1), (16, 96, 57, 56, 1, 1, 3, 2, 1, 0, 1),
                 (3, 32, 90, 91, 3, 2, 3, 1, 1, 1, 1)]:
        chain(batch, case, "relu", bias=True, images=1)
    assert streams(batch.check(by=Streams, threads=threads)) == 2  # a window is not read once a panel


def test_what_others_read_is_stored() -> None:
    batch = Batch()
    array = random(RNG, "f32", 1, 20, 20, 16)
    x = batch.b.transpose(batch.input(array), perm=[0, 3, 1, 2])
    w, v = (batch.b.const(random(RNG, "f32", *s)) for s in ((48, 16, 1, 1), (48, 1, 3, 3)))
    y = batch.b.conv(x, w, None, stride=[1, 1], pad=[0] * 4, dilation=[1, 1], groups=1)
    z = batch.b.conv(y, v, None, stride=[1, 1], pad=[1] * 4, dilation=[1, 1], groups=48)
    batch.give(batch.b.transpose(z, perm=[0, 2, 3, 1]), tolerance=1e-4)
    batch.give(batch.b.transpose(y, perm=[0, 2, 3, 1]), tolerance=1e-4)
    assert streams(batch.check(by=Streams)) == 0
