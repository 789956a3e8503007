"""Transposed convolutions as convolutions, against torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import graphopt
from graphopt.backends.pipeline import optimise
from graphopt.capture import capture
from graphopt.targets import parse_target


@pytest.mark.parametrize(("kernel", "stride", "padding", "extra", "groups", "dilation", "turned"), [
    (2, 2, 0, 0, 1, 1, True), (4, 2, 1, 0, 1, 1, True), (4, 2, 2, 1, 1, 1, True), (6, 3, 2, 1, 1, 1, True),
    (3, 1, 1, 0, 1, 1, True), (3, 1, 0, 0, 2, 1, True), (3, 1, 1, 0, 1, 2, True), ((4, 2), (2, 1), (1, 0), 0, 1, 1, True),
    (3, 2, 1, 1, 1, 1, True), (2, 2, 0, 1, 1, 1, True), (5, 3, 2, 2, 1, 1, True),
    ((3, 4), (2, 3), (0, 1), (1, 2), 1, 1, True), ((2, 5), (2, 2), 0, 0, 1, 1, True), (3, 2, 1, 1, 2, 1, False),
    (2, 3, 0, 0, 1, 1, False), (4, 2, 1, 0, 2, 1, False), (1, 1, 1, 0, 1, 1, False),
])
def test_transposed_convolutions(kernel, stride, padding, extra, groups, dilation, turned: bool) -> None:
    torch.manual_seed(0)
    net = torch.nn.ConvTranspose2d(6, 8, kernel, stride, padding, extra, groups, dilation=dilation).eval()
    x = torch.randn(2, 6, 5, 7)
    graph, _ = optimise(capture(net, (x,)), parse_target("x86"), validate=True)
    inside = {o.name for op in graph.ops for o in (op.regions[0].ops if op.regions else [op])}
    assert ("conv_transpose" not in inside) is turned
    with torch.inference_mode():
        want = net(x).numpy()
    np.testing.assert_allclose(np.asarray(graphopt.compile(net, (x,))(x)), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("net", [torch.nn.ConvTranspose1d(4, 6, 4, 2, 1), torch.nn.ConvTranspose3d(3, 4, 2, 2)])
def test_one_and_three_dimensions(net: torch.nn.Module) -> None:
    x = torch.randn(2, *((4, 9) if isinstance(net, torch.nn.ConvTranspose1d) else (3, 4, 3, 5)))
    with torch.inference_mode():
        want = net.eval()(x).numpy()
    np.testing.assert_allclose(np.asarray(graphopt.compile(net, (x,))(x)), want, rtol=0, atol=1e-5)


def test_infinities_of_a_window_that_is_no_multiple_of_the_stride() -> None:
    net = torch.nn.ConvTranspose2d(3, 4, 3, 2, 1, 1).eval()
    x = torch.randn(1, 3, 4, 5)
    x[0, 1, 2, 3], x[0, 2, 0, 0] = torch.inf, torch.nan
    with torch.inference_mode():
        want = net(x).numpy()
    np.testing.assert_allclose(np.asarray(graphopt.compile(net, (x,))(x)), want, rtol=0, atol=1e-5)
