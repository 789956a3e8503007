"""Channels-last convolutions: every remainder, window, stride, padding, group, epilogue and halo, against torch in f64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.capture import capture
from graphopt.codegen.x86.kernels.conv.boxes import choose_box
from graphopt.targets import parse_target
from tests.codegen.x86.compiling import Batch, Built, ChannelsLast, made_by
from tests.codegen.x86.kernels.test_contraction import TARGETS, conv, of

DIRECT = {"by": ChannelsLast, "winograd": False}  # channels last wherever there is a kernel for it, and no algorithm but that


def layouts_of(model: object) -> list[str]:
    return [str(r.type.layout) for op in model.graph.ops for r in op.results if r.type.layout]  # type: ignore[attr-defined]


@pytest.mark.parametrize("target", TARGETS)
@settings(max_examples=3)
@given(cases=st.lists(st.tuples(st.integers(1, 2), st.integers(1, 40), st.integers(4, 70), st.integers(1, 3), st.integers(1, 3),
                                st.integers(1, 2), st.integers(0, 2), st.integers(5, 17), st.integers(5, 17)),
                      min_size=5, max_size=5))
def test_convolutions_of_any_size(target: str, cases: list[tuple[int, ...]]) -> None:
    batch = Batch()
    for n, ci, co, kernel, stride, dilation, pad, h, w in cases:
        conv(batch, of(n, ci, h, w), of(co, ci, kernel, kernel), of(co), stride=stride, dilation=dilation, pad=pad)
    # Sums of fewer than 16 products are left row-major, and one pixel is a product of matrices.
    wide = sum(ci * kernel ** 2 * co >= 16 and h * w > 1 for _, ci, co, kernel, _, _, _, h, w in cases)
    assert made_by(batch.check(target=target, threads=2, **DIRECT))["conv.channels_last"] <= wide


@pytest.mark.parametrize("target", TARGETS)
def test_rows_and_columns_of_the_window_outside_of_the_image_are_left_out(target: str) -> None:
    batch = Batch()
    for kernel, stride, dilation, pad, h, w in ((3, 1, 6, 6, 9, 11), (3, 1, 8, 8, 9, 9), (5, 2, 3, 6, 10, 7), (3, 1, 1, 1, 3, 20),
                                                (3, 2, 5, 9, 6, 12), (2, 1, 2, 5, 4, 5), (3, 1, 12, 12, 28, 28),
                                                (3, 1, 24, 24, 28, 28), (3, 2, 9, 9, 11, 40), (5, 1, 7, 14, 12, 33),
                                                (3, 1, 20, 20, 6, 50), (3, 1, 30, 30, 9, 31)):
        conv(batch, of(2, 20, h, w), of(24, 20, kernel, kernel), of(24), stride=stride, dilation=dilation, pad=pad)
    assert made_by(batch.check(target=target, threads=2, **DIRECT))["conv.channels_last"] == 12


@pytest.mark.parametrize("target", TARGETS)
def test_groups_one_dimension_and_three(target: str) -> None:
    batch = Batch()
    conv(batch, of(1, 12, 9, 8), of(18, 4, 3, 3), groups=3, pad=1)
    conv(batch, of(2, 32, 7, 7), of(64, 16, 3, 3), of(64), groups=2, pad=1)
    conv(batch, of(2, 8, 19), of(24, 8, 5), of(24), stride=2, pad=2)
    conv(batch, of(1, 8, 5, 6, 7), of(20, 8, 3, 3, 3), of(20), pad=1)
    conv(batch, of(1, 8, 6, 6), of(16, 8, 3, 3), pad=[0, 1, 2, 0])
    conv(batch, of(1, 3, 1, 1), of(16, 3, 1, 1))
    made = made_by(batch.check(target=target, threads=2, **DIRECT))
    assert made["conv.channels_last"] == 5 and made["matmul"] == 1


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_any_number_of_threads_shares_the_tiles(threads: int) -> None:
    batch = Batch()
    conv(batch, of(1, 64, 23, 19), of(80, 64, 3, 3), of(80), pad=1)
    conv(batch, of(3, 96, 14, 14), of(40, 96, 1, 1), of(40))
    assert made_by(batch.check(threads=threads, **DIRECT))["conv.channels_last"] == 2


class Residual(torch.nn.Module):
    """Two windows, a shortcut, a gelu long enough to leave the registers, and a pool."""

    def __init__(self, c: int = 24) -> None:
        super().__init__()
        self.first, self.a, self.b = (torch.nn.Conv2d(i, c, k, s, k // 2) for i, k, s in ((3, 5, 2), (c, 3, 1), (c, 3, 1)))
        self.down = torch.nn.Conv2d(c, 2 * c, 1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.nn.functional.max_pool2d(self.first(x).relu(), 3, 2, 1)
        y = torch.nn.functional.gelu(self.a(x))
        return self.down((x + self.b(y)).relu()).mean((2, 3))


@pytest.mark.parametrize("target", TARGETS)
def test_a_residual_network_keeps_its_images_channels_last(target: str) -> None:
    torch.manual_seed(0)
    net = Residual().eval()
    x = torch.randn(2, 3, 37, 41)
    model = Built(capture(net, (x,)), target=target, threads=2, **DIRECT)
    with torch.inference_mode():
        want = net.double()(x.double()).numpy()
    np.testing.assert_allclose(np.asarray(model(x)), want, rtol=0, atol=2e-5 * np.abs(want).max())
    assert "NHWC+1" in layouts_of(model) and not any(op.name == "relayout" for op in model.graph.ops)
    assert made_by(model)["conv.channels_last"] == 4


def test_a_pixel_that_is_not_a_number_stays_within_its_window() -> None:
    torch.manual_seed(0)
    net = torch.nn.Conv2d(20, 33, 3, 1, 1).eval()
    x = torch.randn(1, 20, 9, 9)
    x[0, 3, 4, 5] = torch.nan
    x[0, 7, 0, 0] = torch.inf
    model = Built(capture(net, (x,)), **DIRECT)
    assert made_by(model)["conv.channels_last"] == 1
    with torch.inference_mode():
        want = net(x).numpy()
    got = np.asarray(model(x))
    assert np.array_equal(np.isnan(got), np.isnan(want)) and np.array_equal(np.isinf(got), np.isinf(want))


def test_pixels_do_not_share_cache_sets() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(8, 256, 1), torch.nn.Conv2d(256, 16, 1)).eval()
    model = Built(capture(net, (torch.randn(1, 8, 12, 12),)), **DIRECT)
    assert "NHWC/272" in layouts_of(model)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 600), st.sampled_from(["x86:skylake-avx512", "x86:haswell"]))
def test_boxes_fit_the_registers(height: int, width: int, channels: int, target: str) -> None:
    machine = parse_target(target, None)
    cycles, box = choose_box(height, width, channels, machine.lanes, machine)  # type: ignore[attr-defined]
    assert cycles > 0 and box.high <= height and box.wide <= width
    assert box.pixels * box.vectors + box.vectors + 1 <= machine.registers  # type: ignore[attr-defined]
