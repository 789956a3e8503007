"""Pointwise convolutions that compute their image: norm and relu, scales, against torch in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from graphopt.backends.pipeline import optimise
from graphopt.capture import capture
from graphopt.targets import parse_target
from tests.codegen.x86.compiling import Built, ChannelsLast, made_by


class Dense(torch.nn.Module):
    """A layer of DenseNet: norm and relu of all that was concatenated, 1x1, 3x3, concatenated once more."""

    def __init__(self, channels: int, wide: int) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(channels, channels, 3, padding=1)
        self.scale, self.shift = torch.nn.Parameter(torch.randn(channels, 1, 1)), torch.nn.Parameter(torch.randn(channels, 1, 1))
        self.one, self.three = torch.nn.Conv2d(channels, wide, 1), torch.nn.Conv2d(wide, 8, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = torch.relu(x * self.scale + self.shift)
        return torch.cat([x, self.three(torch.relu(self.one(y)))], 1)


@pytest.mark.parametrize(("channels", "wide", "image", "batch"), [
    (16, 32, (14, 14), 1), (19, 21, (7, 5), 3), (70, 130, (13, 9), 1), (16, 8, (1, 2), 1), (520, 40, (28, 28), 1),
])
@pytest.mark.parametrize("target", ["x86", "x86:haswell", "x86:x86-64"])
@pytest.mark.parametrize("threads", [1, 2])
def test_norm_and_relu_before_a_pointwise_convolution(channels, wide, image, batch, target: str, threads: int) -> None:
    torch.manual_seed(0)
    net, x = Dense(channels, wide).eval(), torch.randn(batch, channels, *image)
    x[0, 0, 0, 0] = float("nan")
    with torch.inference_mode():
        want = net.double()(x.double()).numpy()
    model = Built(capture(net.float(), (x,)), ChannelsLast, target, threads, winograd=False)
    assert made_by(model)["conv.prologue"] == (image != (1, 2))  # two pixels are not worth bringing to one layout
    got = np.asarray(model(x))
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-4)


def test_the_image_is_computed_in_the_convolution() -> None:
    net, x = Dense(64, 32).eval(), torch.randn(1, 64, 28, 28)
    graph, _ = optimise(capture(net, (x,)), parse_target("x86:znver4"), validate=True)  # by whose costs it lies channels last
    bodies = [[o.name for o in op.regions[0].ops if o.name != "const"] for op in graph.ops if op.name == "fused"]
    assert any("conv" in body and body.index("conv") >= 2 for body in bodies)
