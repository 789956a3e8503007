"""Indices out of range: held at the border, or refused by `check_indices` with the op, its place, the index and the bound."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

import graphopt


def onnx_model(node: onnx.NodeProto, **inputs: tuple[int, list[int | str]]) -> onnx.ModelProto:
    given = [helper.make_tensor_value_info(n, t, s) for n, (t, s) in inputs.items()]
    graph = helper.make_graph([node], "g", given, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


F, I = TensorProto.FLOAT, TensorProto.INT64
X = np.arange(12, dtype=np.float32).reshape(3, 4)
CASES = {
    "Gather": (helper.make_node("Gather", ["x", "i"], ["y"], axis=1, name="pick"), [0, -4, 3], 4, lambda x, i: x[:, i]),
    "GatherElements": (helper.make_node("GatherElements", ["x", "i"], ["y"], axis=0, name="pick"), [[0, 2, -3, 1]], 3,
                       lambda x, i: np.take_along_axis(x, i, 0)),
    "GatherND": (helper.make_node("GatherND", ["x", "i"], ["y"], name="pick"), [[0, 3], [-3, -4]], 3, lambda x, i: x[tuple(i.T)]),
    "ScatterElements": (helper.make_node("ScatterElements", ["x", "i", "u"], ["y"], axis=1, name="pick"),
                        [[1, -1], [0, 2]], 4, None),
    "ScatterND": (helper.make_node("ScatterND", ["x", "i", "u"], ["y"], name="pick"), [[0, 3], [-3, 1]], 3, None),
}


@pytest.mark.parametrize("name", CASES)
def test_indices_out_of_range_are_named(name: str) -> None:
    node, good, bound, reference = CASES[name]
    good = np.array(good, np.int64)
    updates = {} if reference else {"u": np.ones(good.shape if name == "ScatterElements" else good.shape[:1], np.float32)}
    inputs = {"x": (F, [3, 4]), "i": (I, list(good.shape)), **{n: (F, list(u.shape)) for n, u in updates.items()}}
    model = onnx_model(node, **inputs)
    plain, checked = graphopt.compile(model), graphopt.compile(model, check_indices=True)
    given = {"x": X, **updates}
    y = checked.run({**given, "i": good})["y"]
    np.testing.assert_array_equal(y, plain.run({**given, "i": good})["y"])
    if reference:
        np.testing.assert_array_equal(y, reference(X, good))
    for wrong in (bound, -bound - 1, 2**40, -2**62):
        bad = good.copy()
        bad.flat[0] = wrong
        with pytest.raises(graphopt.IndexRangeError, match=rf"pick.*: index {wrong}.* is out of range for an axis of {bound}"):
            checked.run({**given, "i": bad})
        assert np.isin(plain.run({**given, "i": bad})["y"], [*X.flat, 1]).all(), "held at the border, within memory"
    np.testing.assert_array_equal(checked.run({**given, "i": good})["y"], y)


def test_embeddings_of_any_batch(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Embedding(7, 3), nn.Linear(3, 2)).eval()
    batch = torch.export.Dim("batch", min=2, max=64)
    model = graphopt.compile(net, (torch.tensor([1, 2, 3]),), dynamic_shapes=({0: batch},), check_indices=True)
    for ids in ([0, 6], [1, 2, 3, 4]):
        for _ in range(2):  # the second call is the short one
            torch.testing.assert_close(model(torch.tensor(ids)), net(torch.tensor(ids)))
    for _ in range(2):
        with pytest.raises(IndexError, match=r"embedding.*: index 7 is out of range for an axis of 7\. Give indices from -7 to"):
            model(torch.tensor([0, 7]))
    with pytest.raises(graphopt.ArtifactError, match="a model that checks its indices cannot be saved"):
        model.save(tmp_path / "net.gopt")


def test_several_outputs_and_computed_indices() -> None:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor, i: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x[i + 1], torch.gather(x, 0, i[:, None] * 2)

    x, i = torch.randn(5, 1), torch.tensor([0, 1, 2])
    model = graphopt.compile(Net(), (x, i), check_indices=True)
    torch.testing.assert_close(model(x, i), Net()(x, i))
    with pytest.raises(graphopt.IndexRangeError, match="index 6 is out of range for an axis of 5"):
        model(x, torch.tensor([0, 1, 3]))


def test_what_cannot_be_checked_is_refused() -> None:
    constant = onnx_model(helper.make_node("Gather", ["x", "i"], ["y"], name="pick"), x=(F, [3]))
    constant.graph.initializer.append(onnx.numpy_helper.from_array(np.array([5]), "i"))
    with pytest.raises(graphopt.GraphOptError, match="index 5 is out of range for an axis of 3"):
        graphopt.compile(constant, check_indices=True)
    net, x = nn.Embedding(7, 3), (torch.tensor([1]),)
    with pytest.raises(graphopt.InputError, match="does not check indices"):
        graphopt.compile(net, x, target="cuda:sm_90", check_indices=True)
    with pytest.raises(graphopt.InputError, match="must be True or False"):
        graphopt.compile(net, x, check_indices="yes")
