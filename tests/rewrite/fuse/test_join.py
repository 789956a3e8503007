"""Concatenation in place: where it may happen, where not, and that the numbers are right."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import graphopt
from graphopt.capture import capture
from tests.codegen.x86.compiling import Built, ChannelsLast


class Dense(nn.Module):
    """Each layer reads all that came before it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, 2, 1)
        self.layers = nn.ModuleList(nn.Sequential(nn.BatchNorm2d(16 + 8 * i), nn.ReLU(), nn.Conv2d(16 + 8 * i, 32, 1), nn.ReLU(),
                                                  nn.Conv2d(32, 8, 3, 1, 1)) for i in range(3))
        self.last = nn.Conv2d(40, 24, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = [self.first(x).relu()]
        for layer in self.layers:
            found.append(layer(torch.cat(found, 1)))
        return self.last(torch.cat(found, 1))


class Nested(nn.Module):
    """Two joins want the same parts, and one has a part that is returned."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 32, 1), nn.Conv2d(32, 24, 1)
        self.c, self.d = nn.Conv2d(32, 40, 3, 1, 1), nn.Conv2d(64, 16, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = self.a(x).relu()
        b, c = self.b(x).relu(), self.c(x).relu()
        y = torch.cat([b, c], 1)
        z = self.d(y)
        return torch.cat([y, z], 1) * 2, torch.cat([c, b], 1).exp(), z


class Rows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.a(x).tanh(), self.b(x)], 0).softmax(0)


def names(model: object) -> list[str]:
    return [op.name for op in model.graph.ops]  # type: ignore[attr-defined]


class Inside(nn.Module):
    """A join within a join."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 32, 1), nn.Conv2d(32, 24, 1), nn.Conv2d(56, 16, 3, 1, 1)
        self.d = nn.Conv2d(72, 16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x).relu()
        y = torch.cat([x, self.b(x)], 1)
        return self.d(torch.cat([y, self.c(y).relu()], 1))


@pytest.mark.parametrize(("net", "shape", "joins"), [
    (Dense(), (2, 3, 21, 30), 3), (Nested(), (1, 3, 12, 12), 1), (Rows(), (5, 8), 1), (Inside(), (1, 3, 14, 14), 2)])
def test_parts_are_computed_where_the_whole_is_read(net: nn.Module, shape: tuple[int, ...], joins: int) -> None:
    torch.manual_seed(1)
    net.eval()
    x = torch.randn(*shape)
    model = Built(capture(net, (x,)), ChannelsLast, threads=2)
    with torch.inference_mode():
        want = net(x)
    for _ in range(2):  # borders are zeroed in every call
        got = model(x)
        for g, w in zip(got if isinstance(got, tuple) else (got,), want if isinstance(want, tuple) else (want,)):
            np.testing.assert_allclose(np.asarray(g), w.numpy(), rtol=0, atol=2e-5 * float(w.abs().max()))
    assert names(model).count("join") == joins


def test_what_is_returned_or_comes_from_outside_is_copied() -> None:
    class Outside(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            z = y.exp()
            return torch.cat([x, z], 0).neg().softmax(1), z

    x, y = torch.randn(3, 4), torch.randn(2, 4)
    model = graphopt.compile(Outside(), (x, y))
    assert "join" not in names(model)
    for g, w in zip(model(x, y), Outside()(x, y)):
        np.testing.assert_allclose(np.asarray(g), w.numpy(), rtol=1e-5, atol=1e-6)
