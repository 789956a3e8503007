"""A saved PyTorch model is called as the module was: nested arguments, constants among them, results by name."""

from __future__ import annotations

import json
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch

import graphopt

Pair = namedtuple("Pair", "total parts")


class Nested(torch.nn.Module):
    def forward(self, xs, scale=2.0, *, bias=None):
        a, b = xs["a"] * scale, xs["b"][0] - xs["b"][1]
        return {"pair": Pair(a + b if bias is None else a + b + bias, [a, b]), "first": a}


def given(n: int = 3) -> dict:
    g = torch.Generator().manual_seed(5)
    make = lambda: torch.randn(n, 4, generator=g)
    return {"a": make(), "b": (make(), make())}


def same(got: object, want: object) -> None:
    torch.testing.assert_close(torch.as_tensor(got), want)


def test_a_loaded_model_takes_and_gives_the_structure_of_its_source(tmp_path: Path) -> None:
    net, xs = Nested().eval(), given()
    graphopt.compile(net, (xs,)).save(tmp_path / "net.gopt")
    loaded = graphopt.load(tmp_path / "net.gopt")
    for got, want in ((loaded(xs), net(xs)), (loaded(xs=xs), net(xs))):
        same(got["pair"].total, want["pair"].total)
        assert isinstance(got["pair"]["parts"], list) and list(got) == list(want) and isinstance(got["first"], torch.Tensor)
        for a, b in zip(got["pair"].parts, want["pair"].parts):
            same(a, b)
    arrays = {"a": xs["a"].numpy(), "b": [v.numpy() for v in xs["b"]]}
    result = loaded(arrays)["first"]
    assert isinstance(result, np.ndarray)
    same(result, net(xs)["first"])
    with pytest.raises(graphopt.InputError, match=r"xs.*missing.*b|keys a, b"):
        loaded({"a": xs["a"]})
    with pytest.raises(graphopt.InputError, match="scale: not an argument of the captured model"):
        loaded(xs, 3.0)


def test_with_free_dims_too(tmp_path: Path) -> None:
    rows = torch.export.Dim("rows", min=1, max=64)
    model = graphopt.compile(Nested().eval(), (given(),), dynamic_shapes={"xs": {"a": {0: rows}, "b": ({0: rows}, {0: rows})}})
    for n in (2, 5):
        model(given(n))
    model.save(tmp_path / "net.gopt")
    loaded = graphopt.load(tmp_path / "net.gopt")
    for n in (5, 2):
        same(loaded(given(n))["pair"].total, Nested()(given(n))["pair"].total)


def test_what_has_no_structure_says_nothing_of_it(tmp_path: Path) -> None:
    graphopt.compile(torch.nn.Linear(4, 3), (torch.zeros(2, 4),)).save(tmp_path / "net.gopt")
    assert "call" not in json.loads((tmp_path / "net.gopt" / "manifest.json").read_text())
