"""Convolutions of one pixel become products of matrices; others stay."""

import numpy as np
import pytest
import torch

import graphopt
from graphopt.rewrite import Pointwise
from tests.rewrite.rewriting import check, unchanged

W = np.random.default_rng(0).standard_normal((5, 4, 1, 1)).astype(np.float32)
ATTRS = "stride=[1, 1], pad=[0, 0, 0, 0], dilation=[1, 1]"


def test_with_bias_and_activation():
    check(Pointwise(), f"""graph @g(%x: f32[2, 4, 1, 1], %b: f32[5]) -> f32[2, 5, 1, 1] {{
      %w = const @w : f32[5, 4, 1, 1]
      %y = conv(%x, %w, %b) {{{ATTRS}, groups=1}} : f32[2, 5, 1, 1]
      %z = sigmoid(%y) : f32[2, 5, 1, 1]
      return %z
    }}""", """graph @g(%x: f32[2, 4, 1, 1], %b: f32[5]) -> f32[2, 5, 1, 1] {
      %w = const @w : f32[5, 4, 1, 1]
      %m = reshape(%w) {shape=[5, 4]} : f32[5, 4]
      %t = transpose(%m) {perm=[1, 0]} : f32[4, 5]
      %r = reshape(%x) {shape=[2, 4]} : f32[2, 4]
      %p = matmul(%r, %t) : f32[2, 5]
      %q = add(%p, %b) : f32[2, 5]
      %y = reshape(%q) {shape=[2, 5, 1, 1]} : f32[2, 5, 1, 1]
      %z = sigmoid(%y) : f32[2, 5, 1, 1]
      return %z
    }""", constants={"w": W})


@pytest.mark.parametrize(("x", "out", "attrs"), [
    ("f32[2, 4, 3, 1]", "f32[2, 5, 3, 1]", f"{ATTRS}, groups=1"),
    ("f32[2, 4, 1, 1]", "f32[2, 5, 3, 3]", "stride=[1, 1], pad=[1, 1, 1, 1], dilation=[1, 1], groups=1"),
    ("f32[2, 4, 1, 1]", "f32[2, 5, 1, 1]", "stride=[3, 3], pad=[1, 1, 1, 1], dilation=[1, 1], groups=1"),
    ("f32[2, 20, 1, 1]", "f32[2, 5, 1, 1]", f"{ATTRS}, groups=5"),
])
def test_several_pixels_borders_and_groups_stay(x: str, out: str, attrs: str):
    unchanged(Pointwise(), f"""graph @g(%x: {x}) -> {out} {{
      %w = const @w : f32[5, 4, 1, 1]
      %y = conv(%x, %w) {{{attrs}}} : {out}
      return %y
    }}""", constants={"w": W})


class Scaled(torch.nn.Module):
    """Squeeze and excite, then a projection and a residual."""

    def __init__(self, channels: int, squeezed: int, outs: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = torch.nn.Conv2d(channels, squeezed, 1), torch.nn.Conv2d(squeezed, channels, 1)
        self.project = torch.nn.Conv2d(channels, outs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        s = torch.sigmoid(self.fc2(torch.nn.functional.silu(self.fc1(x.mean((2, 3), keepdim=True)))))
        return self.project(x * s)


@pytest.mark.parametrize(("channels", "outs", "image"), [
    (13, 7, (5, 3)), (96, 24, (14, 14)), (144, 40, (9, 11)), (24, 16, (1, 1)),
])
@pytest.mark.parametrize("target", ["x86", "x86:haswell", "x86:x86-64"])
def test_squeeze_and_excite(channels: int, outs: int, image: tuple[int, int], target: str):
    torch.manual_seed(0)
    net, x = Scaled(channels, 6, outs).eval(), torch.randn(2, channels, *image)
    with torch.inference_mode():
        want = net.double()(x.double()).numpy()
    got = np.asarray(graphopt.compile(net.float(), (x,), target=target)(x))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
