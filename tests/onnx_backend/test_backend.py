"""The backend interface: prepare, run_model, run_node, supports_device."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

import graphopt.onnx_backend as backend
from graphopt.errors import InputError
from tests.capture.onnx_models import parse

MODEL = parse("g (float[N, 3] x, float[3] b) => (float[N, 3] y, float[N, 3] z) { y = Add(x, b)  z = Relu(y) }")
X, B = np.float32([[1, -2, 3]]), np.float32([1, 1, 1])


@pytest.mark.parametrize("target", ["evaluator", "x86"])
def test_run_model_gives_named_outputs(target: str) -> None:
    got = backend.run_model(MODEL, [X, B], target=target)
    np.testing.assert_array_equal(got.y, [[2, -1, 4]])
    np.testing.assert_array_equal(got["z"], [[2, 0, 4]])
    by_name = backend.run_model(MODEL, {"b": B, "x": X}, target=target)
    np.testing.assert_array_equal(by_name[0], got[0])


def test_prepared_models_run_again_with_other_shapes() -> None:
    rep = backend.prepare(MODEL)
    for n in (1, 4, 0):
        assert rep.run([np.zeros((n, 3), np.float32), B]).y.shape == (n, 3)


def test_run_node() -> None:
    node = helper.make_node("Gemm", ["a", "b"], ["y"], transB=1)
    a, b = np.float32([[1, 2]]), np.float32([[3, 4], [5, 6]])
    np.testing.assert_array_equal(backend.run_node(node, [a, b])[0], a @ b.T)
    old = helper.make_node("Squeeze", ["a"], ["y"], axes=[0])
    np.testing.assert_array_equal(backend.run_node(old, [a], opset_version=11)[0], [1, 2])


def test_devices() -> None:
    assert backend.supports_device("CPU") and backend.supports_device("CPU:0") and not backend.supports_device("CUDA")
    with pytest.raises(InputError, match="CUDA"):
        backend.prepare(MODEL, "CUDA")


def test_wrong_inputs() -> None:
    with pytest.raises(InputError, match="takes 2 inputs, got 3"):
        backend.run_model(MODEL, [X, B, B])
    with pytest.raises(InputError, match="b are missing"):
        backend.run_model(MODEL, [X])
