"""Channels-last convolutions of many small groups: every size, window, stride, dtype and epilogue, against torch in f64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.capture import capture
from graphopt.targets import parse_target
from tests.codegen.x86.compiling import Batch, Built, ChannelsLast, made_by
from tests.codegen.x86.kernels.test_contraction import TARGETS, conv, of


def taken(target: str, outputs: int) -> bool:
    """Groups whose outputs are a power of two, and at most half a vector, are this kernel's."""
    return outputs & (outputs - 1) == 0 and 2 * outputs <= parse_target(target).lanes  # type: ignore[attr-defined]


@pytest.mark.parametrize("target", TARGETS)
@settings(max_examples=2)
@given(cases=st.lists(st.tuples(st.integers(1, 2), st.integers(2, 19), st.sampled_from([(4, 4), (2, 2), (8, 8)]),
                                st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.integers(0, 2), st.integers(5, 17),
                                st.integers(5, 17)), min_size=5, max_size=5))
def test_groups_of_any_size(target: str, cases: list[tuple[int, ...]]) -> None:
    batch = Batch()
    for n, groups, (ci, co), kernel, stride, dilation, pad, h, w in cases:  # type: ignore[misc]
        conv(batch, of(n, groups * ci, h, w), of(groups * co, ci, kernel, kernel), of(groups * co), groups=groups, stride=stride,
             dilation=dilation, pad=pad)
    made = made_by(batch.check(by=ChannelsLast, target=target, threads=2))
    assert made["conv.grouped"] <= sum(taken(target, co) for _, _, (_, co), *_ in cases)  # type: ignore[misc]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("inputs, outputs", [(1, 2), (1, 4), (1, 8), (2, 4), (8, 4), (3, 2), (3, 3), (2, 1), (5, 4), (16, 16),
                                             (24, 24)])
def test_groups_of_other_widths(target: str, inputs: int, outputs: int) -> None:
    batch = Batch()
    groups = 9
    conv(batch, of(2, groups * inputs, 9, 8), of(groups * outputs, inputs, 3, 3), of(groups * outputs), groups=groups, pad=1)
    conv(batch, of(1, groups * inputs, 7, 7), of(groups * outputs, inputs, 1, 1), groups=groups)
    made = made_by(batch.check(by=ChannelsLast, target=target, threads=2))
    assert made["conv.grouped"] == 2 * taken(target, outputs)


@pytest.mark.parametrize("target", TARGETS)
def test_one_dimension_three_and_wide_windows(target: str) -> None:
    batch = Batch()
    conv(batch, of(2, 24, 19), of(24, 4, 5), of(24), stride=2, pad=2, groups=6)
    conv(batch, of(1, 40, 5, 6, 7), of(40, 4, 3, 3, 3), of(40), pad=1, groups=10)
    conv(batch, of(1, 40, 11, 12), of(40, 4, 5, 5), of(40), pad=2, groups=10)
    conv(batch, of(1, 40, 11, 12, dtype="f64"), of(40, 4, 3, 3, dtype="f64"), pad=1, groups=10)
    conv(batch, of(1, 2000, 6, 6), of(2000, 4, 3, 3), pad=1, groups=500)
    made = made_by(batch.check(by=ChannelsLast, target=target, threads=3))
    lanes = parse_target(target).lanes  # type: ignore[attr-defined]
    assert made["conv.grouped"] == {16: 5, 8: 4, 4: 0}[lanes]  # in f64 a vector holds half as many


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_not_a_number_stays_in_its_group(target: str) -> None:
    torch.manual_seed(0)
    net = torch.nn.Conv2d(48, 48, 3, 1, 1, groups=12).eval()
    x = torch.randn(1, 48, 9, 9)
    x[0, 5, 4, 5] = torch.nan
    x[0, 17, 0, 0] = torch.inf
    model = Built(capture(net, (x,)), ChannelsLast, target)
    with torch.inference_mode():
        want = net.double()(x.double()).numpy()
    np.testing.assert_allclose(np.asarray(model(x)), want, rtol=0, atol=2e-5)
    assert made_by(model)["conv.grouped"] == taken(target, 4)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("width", [4, 8])
def test_long_epilogues(target: str, width: int) -> None:
    torch.manual_seed(0)

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(40, 40, 3, 2, 1, groups=40 // width)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.gelu(self.conv(x)) * torch.nn.functional.silu(y)

    net, x, y = Net().eval(), torch.randn(2, 40, 11, 13), torch.randn(2, 40, 6, 7)
    with torch.inference_mode():
        want = net.double()(x.double(), y.double()).numpy()
    model = Built(capture(net.float(), (x, y)), ChannelsLast, target, 2)
    assert made_by(model)["conv.grouped"] == taken(target, width)
    np.testing.assert_allclose(np.asarray(model(x, y)), want, rtol=0, atol=2e-5)
