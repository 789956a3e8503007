"""Contractions: the lowered sums of products against the op table."""

from __future__ import annotations

import numpy as np
import pytest

from tests.codegen.lower.lowering import check, random

FLOATS = ["f32", "f16", "bf16", "f64"]


@pytest.mark.parametrize("of", [*FLOATS, "i8", "i32", "u8", "i64"])
def test_matmul(of: str) -> None:
    rng = np.random.default_rng(1)
    check("matmul", [random(rng, of, 3, 5), random(rng, of, 5, 7)])


@pytest.mark.parametrize("a,b", [((2, 1, 3, 5), (4, 5, 1)), ((1, 1), (1, 1)), ((3, 2, 4), (3, 4, 6)), ((0, 3), (3, 2)),
                                 ((3, 0), (0, 2)), ((2, 3), (3, 0))])
def test_matmul_shapes(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    rng = np.random.default_rng(2)
    check("matmul", [random(rng, "f32", *a), random(rng, "f32", *b)])


CONVOLUTIONS = [
    {"x": (2, 3, 7), "w": (4, 3, 3), "stride": [2], "pad": [1, 0], "dilation": [1]},
    {"x": (1, 4, 7, 6), "w": (6, 2, 3, 2), "stride": [2, 1], "pad": [1, 0, 2, 1], "dilation": [1, 2], "groups": 2},
    {"x": (2, 3, 5, 5), "w": (3, 1, 3, 3), "stride": [1, 1], "pad": [1, 1, 1, 1], "dilation": [1, 1], "groups": 3},
    {"x": (1, 2, 4, 3, 5), "w": (2, 2, 2, 2, 3), "stride": [1, 2, 1], "pad": [0, 1, 1, 1, 0, 1], "dilation": [1, 1, 2]},
    {"x": (1, 1, 1, 1), "w": (1, 1, 1, 1), "stride": [1, 1], "pad": [0, 0, 0, 0], "dilation": [1, 1]},
    {"x": (0, 2, 4, 4), "w": (3, 2, 3, 3), "stride": [1, 1], "pad": [0, 0, 0, 0], "dilation": [1, 1]},
    {"x": (1, 2, 6, 6), "w": (3, 2, 3, 3), "stride": [1, 1], "pad": [-1, 0, 0, -1], "dilation": [1, 1]},
]


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=lambda c: "x".join(map(str, c["x"])))
@pytest.mark.parametrize("of", ["f32", "f16", "i8"])
@pytest.mark.parametrize("biased", [False, True])
def test_conv(case: dict, of: str, biased: bool) -> None:
    rng = np.random.default_rng(3)
    attrs = {k: v for k, v in case.items() if k not in ("x", "w")}
    bias = random(rng, of, case["w"][0]) if biased else None
    check("conv", [random(rng, of, *case["x"]), random(rng, of, *case["w"]), bias], **attrs)


@pytest.mark.parametrize("case", [
    {"x": (2, 3, 5), "w": (3, 2, 3), "stride": [2], "pad": [1, 0], "dilation": [1], "output_padding": [1]},
    {"x": (1, 4, 3, 5), "w": (4, 3, 3, 2), "stride": [2, 3], "pad": [1, 0, 0, 1], "dilation": [2, 1], "output_padding": [0, 1],
     "groups": 2},
    {"x": (1, 2, 2, 3, 2), "w": (2, 1, 2, 2, 2), "stride": [1, 2, 2], "pad": [0] * 6, "dilation": [1, 1, 1],
     "output_padding": [0, 0, 1]},
    {"x": (1, 1, 3), "w": (1, 1, 2), "stride": [1], "pad": [-1, -2], "dilation": [1], "output_padding": [0]},
], ids=lambda c: "x".join(map(str, c["x"])))
@pytest.mark.parametrize("of", ["f32", "bf16"])
def test_conv_transpose(case: dict, of: str) -> None:
    rng = np.random.default_rng(4)
    attrs = {k: v for k, v in case.items() if k not in ("x", "w")}
    channels = case["w"][1] * case.get("groups", 1)
    check("conv_transpose", [random(rng, of, *case["x"]), random(rng, of, *case["w"]), random(rng, of, channels)], **attrs)


@pytest.mark.parametrize("groups,offset_groups,masked", [(1, 1, False), (2, 1, True), (1, 2, True), (2, 4, False)])
def test_deform_conv(groups: int, offset_groups: int, masked: bool) -> None:
    rng = np.random.default_rng(5)
    attrs = {"stride": [2, 1], "pad": [1, 0, 1, 1], "dilation": [1, 2]}
    oh, ow = 3, 4
    offset = random(rng, "f32", 2, offset_groups * 6 * 2, oh, ow)
    mask = random(rng, "f32", 2, offset_groups * 6, oh, ow) if masked else None
    check("deform_conv", [random(rng, "f32", 2, 4, 6, 5), random(rng, "f32", 4, 4 // groups, 3, 2), offset,
                          random(rng, "f32", 4), mask], groups=groups, offset_groups=offset_groups, **attrs)


@pytest.mark.parametrize("of", ["f32", "i32"])
def test_col2im(of: str) -> None:
    rng = np.random.default_rng(6)
    check("col2im", [random(rng, of, 2, 3 * 6, 3 * 4)], image=[7, 5], block=[3, 2], stride=[2, 1], pad=[0, 0, 0, 0],
          dilation=[1, 1])
    check("col2im", [random(rng, of, 1, 2 * 2, 4)], image=[5], block=[2], stride=[2], pad=[1, 2], dilation=[1])
    check("col2im", [random(rng, of, 1, 1 * 4, 3 * 3)], image=[5, 5], block=[2, 2], stride=[2, 2], pad=[1, 1, 1, 1],
          dilation=[2, 2])
