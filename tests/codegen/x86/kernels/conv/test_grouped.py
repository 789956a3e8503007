"""Channels-last convolutions of many small groups: every size, window, stride, dtype and epilogue, against torch in f64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import graphopt
from graphopt.codegen.x86 import costs
from tests.codegen.x86.compiling import Batch
from tests.codegen.x86.kernels.test_contraction import TARGETS, conv, of


@pytest.fixture(autouse=True)
def always_channels_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row-major convolutions cost so much here that the layout pass takes channels last wherever there is a kernel."""
    none = {"planar": 1e-9, "planar_depthwise": 1e-9}
    monkeypatch.setattr(costs, "FAMILIES", {name: replace(c, **none) for name, c in costs.FAMILIES.items()})


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
    batch.check(target=target, threads=2)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("inputs, outputs", [(1, 2), (1, 4), (1, 8), (2, 4), (8, 4), (3, 2), (3, 3), (2, 1), (5, 4), (16, 16),
                                             (24, 24)])
def test_groups_of_other_widths(target: str, inputs: int, outputs: int) -> None:
    batch = Batch()
    groups = 9
    conv(batch, of(2, groups * inputs, 9, 8), of(groups * outputs, inputs, 3, 3), of(groups * outputs), groups=groups, pad=1)
    conv(batch, of(1, groups * inputs, 7, 7), of(groups * outputs, inputs, 1, 1), groups=groups)
    batch.check(target=target, threads=2)


@pytest.mark.parametrize("target", TARGETS)
def test_one_dimension_three_and_wide_windows(target: str) -> None:
    batch = Batch()
    conv(batch, of(2, 24, 19), of(24, 4, 5), of(24), stride=2, pad=2, groups=6)
    conv(batch, of(1, 40, 5, 6, 7), of(40, 4, 3, 3, 3), of(40), pad=1, groups=10)
    conv(batch, of(1, 40, 11, 12), of(40, 4, 5, 5), of(40), pad=2, groups=10)
    conv(batch, of(1, 40, 11, 12, dtype="f64"), of(40, 4, 3, 3, dtype="f64"), pad=1, groups=10)
    conv(batch, of(1, 2000, 6, 6), of(2000, 4, 3, 3), pad=1, groups=500)
    batch.check(target=target, threads=3)


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_not_a_number_stays_in_its_group(target: str) -> None:
    torch.manual_seed(0)
    net = torch.nn.Conv2d(48, 48, 3, 1, 1, groups=12).eval()
    x = torch.randn(1, 48, 9, 9)
    x[0, 5, 4, 5] = torch.nan
    x[0, 17, 0, 0] = torch.inf
    model = graphopt.compile(net, (x,), target=target)
    with torch.inference_mode():
        want = net.double()(x.double()).numpy()
    np.testing.assert_allclose(np.asarray(model(x)), want, rtol=0, atol=2e-5)
    assert any(r.type.layout for op in model.graph.ops if op.name in ("conv", "fused") for r in op.results)  # type: ignore[union-attr]


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
    model = graphopt.compile(net.float(), (x, y), target=target, threads=2)
    np.testing.assert_allclose(np.asarray(model(x, y)), want, rtol=0, atol=2e-5)
