"""Models of both captures, compiled and called as their sources are, against PyTorch's own results."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import graphopt


class Net(nn.Module):
    """Two inputs, one optional by keyword, structured outputs, tied weights."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Sequential(nn.Conv2d(3, 10, 3, stride=2, padding=1), nn.BatchNorm2d(10), nn.SiLU(), nn.MaxPool2d(2))
        self.embed = nn.Embedding(33, 10)
        self.recurrent = nn.LSTM(10, 7, batch_first=True, bidirectional=True)
        self.norm = nn.LayerNorm(14)
        self.head = nn.Linear(14, 10)
        self.out = nn.Linear(10, 33, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, image: torch.Tensor, tokens: torch.Tensor, scale: torch.Tensor) -> dict[str, Any]:
        features = self.convolution(image).flatten(2).transpose(1, 2)
        steps = torch.cat([features, self.embed(tokens)], 1)
        states, (h, _) = self.recurrent(steps)
        y = self.head(self.norm(states)) * scale
        return {"logits": self.out(y), "state": (h, y.softmax(-1))}


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    net = Net().eval()
    net.convolution[1].running_mean.uniform_(-1, 1)
    net.convolution[1].running_var.uniform_(0.5, 2)
    return net


def example(batch: int, length: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.randn(batch, 3, 18, 18), torch.randint(0, 33, (batch, length)), torch.randn(10)


def close(got: dict[str, Any], want: dict[str, Any]) -> None:
    torch.testing.assert_close(got["logits"], want["logits"], rtol=1e-4, atol=1e-4)
    for g, w in zip(got["state"], want["state"], strict=True):
        torch.testing.assert_close(g, w, rtol=1e-4, atol=1e-4)


def test_a_module_is_called_as_its_source(net: Net) -> None:
    inputs = example(2, 5)
    model = graphopt.compile(net, inputs)
    with torch.no_grad():
        close(model(*inputs), net(*inputs))
        close(model(inputs[0], inputs[1], scale=inputs[2]), net(*inputs))
    assert model.stats["host_ops"] == 0
    arrays = [t.numpy() for t in inputs]
    assert isinstance(model(*arrays)["logits"], np.ndarray)
    assert any("recurrent" in loc for r in model.profile(*inputs, repeats=1) for loc in r["loc"])


def test_dims_that_vary(net: Net) -> None:
    batch = torch.export.Dim("batch", min=1, max=8)
    model = graphopt.compile(net, example(2, 5), dynamic_shapes=({0: batch}, {0: batch}, None))
    for n in (1, 3, 8):
        inputs = example(n, 5)
        with torch.no_grad():
            close(model(*inputs), net(*inputs))
    with pytest.raises(graphopt.InputError, match="range"):
        model(*example(9, 5))
    image, _, scale = example(2, 5)
    with pytest.raises(graphopt.InputError, match="input tokens"):
        model(image, example(3, 5)[1], scale)


def test_threads_that_race_on_a_module(net: Net) -> None:
    batch = torch.export.Dim("batch", min=1, max=8)
    model = graphopt.compile(net, example(2, 5), dynamic_shapes=({0: batch}, {0: batch}, None))
    cases = [example(1 + k % 2, 5) for k in range(4)]
    with torch.no_grad():
        wanted = [net(*c) for c in cases]
    failed: list[Exception] = []

    def work(k: int) -> None:
        try:
            for _ in range(10):
                close(model(*cases[k]), wanted[k])
        except Exception as e:
            failed.append(e)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failed


def test_onnx_names_are_the_models_own(tmp_path) -> None:
    rng = np.random.default_rng(0)
    w, bias = rng.standard_normal((5, 7)).astype(np.float32), rng.standard_normal(7).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["input:0", "w"], ["h"], name="dense"), helper.make_node("Add", ["h", "b"], ["pre act"]),
             helper.make_node("Relu", ["pre act"], ["output/1"]), helper.make_node("Shape", ["input:0"], ["size"])]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("input:0", TensorProto.FLOAT, ["N", 5])],
                              [helper.make_tensor_value_info("output/1", TensorProto.FLOAT, ["N", 7]),
                               helper.make_tensor_value_info("size", TensorProto.INT64, [2])],
                              [numpy_helper.from_array(w, "w"), numpy_helper.from_array(bias, "b")])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)
    for source in (proto, path, str(path), proto.SerializeToString()):
        model = graphopt.compile(source)
        for n in (1, 9):
            x = rng.standard_normal((n, 5)).astype(np.float32)
            got = model.run({"input:0": x})
            assert list(got) == ["output/1", "size"]
            np.testing.assert_allclose(got["output/1"], np.maximum(x @ w + bias, 0), rtol=1e-4, atol=1e-5)
            np.testing.assert_array_equal(got["size"], [n, 5])
    with pytest.raises(graphopt.InputError, match="no input is named 'input'"):
        model.run({"input": x})
