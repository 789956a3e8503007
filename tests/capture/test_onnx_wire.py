"""Weights are found where they lie in the file: the same model as protobuf parses, without copies of its data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.capture.onnx.load import load
from graphopt.capture.onnx.wire import cut
from graphopt.errors import CaptureError

RNG = np.random.default_rng(4)
ARRAYS = {"large": RNG.standard_normal((70, 41)).astype(np.float32), "small": RNG.standard_normal(5).astype(np.float32),
          "whole": RNG.integers(-9, 9, (33, 50)), "half": RNG.standard_normal((64, 64)).astype(np.float16),
          "truth": RNG.integers(0, 2, 5000).astype(bool), "empty": np.zeros((0, 3), np.float32)}


def model(*tensors: TensorProto) -> onnx.ModelProto:
    tensors = tensors or tuple(numpy_helper.from_array(a, n) for n, a in ARRAYS.items())
    nodes = [helper.make_node("Identity", [t.name], [f"{t.name}_out"]) for t in tensors]
    graph = helper.make_graph(nodes, "g", [], [helper.make_empty_tensor_value_info(n.output[0]) for n in nodes], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.onnx"


def test_arrays_are_those_of_the_file(path: Path) -> None:
    onnx.save(model(), path)
    found = load(path).tensors
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        got = found[name].numpy()
        assert got.dtype == array.dtype and not got.flags.writeable
        np.testing.assert_array_equal(got, array)
    base = found["large"].numpy()
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert isinstance(base, np.memmap), "large data stays in the file"


def test_what_is_left_is_the_same_model() -> None:
    whole = model()
    lean = cut(memoryview(whole.SerializeToString()))
    assert lean is not None and len(lean.model) < 7000
    parsed = onnx.ModelProto.FromString(lean.model)
    assert [p is not None for p in lean.places] == [a.nbytes >= 4096 for a in ARRAYS.values()]
    for t, place in zip(whole.graph.initializer, lean.places):
        if place:
            t.ClearField("raw_data")
    assert parsed == whole


def test_nothing_is_cut_from_what_is_small_or_damaged() -> None:
    data = model().SerializeToString()
    assert cut(memoryview(b"")) is None
    assert cut(memoryview(model(numpy_helper.from_array(ARRAYS["small"], "s")).SerializeToString())) is None
    for end in (1, 100, len(data) // 2, len(data) - 1):
        assert cut(memoryview(data[:end])) is None
    assert cut(memoryview(bytes(RNG.integers(0, 256, 10000, np.uint8)))) is None


def test_data_of_another_size_is_refused_with_its_name(path: Path) -> None:
    t = numpy_helper.from_array(ARRAYS["large"], "large")
    t.raw_data = t.raw_data[:-4]
    onnx.save(model(t), path)
    with pytest.raises(CaptureError, match="initializer 'large'"):
        load(path)


def test_narrow_types_are_unpacked(path: Path) -> None:
    values = RNG.integers(0, 16, (100, 99)).astype(np.uint8)
    t = helper.make_tensor("narrow", TensorProto.UINT4, values.shape, values.reshape(-1))
    raw = numpy_helper.from_array(numpy_helper.to_array(t), "narrow")
    onnx.save(model(raw), path)
    np.testing.assert_array_equal(load(path).tensors["narrow"].numpy().astype(np.uint8), values)
