"""The backend interface: prepare, run_model, run_node, supports_device."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import helper

import graphopt.interop.onnx_backend as backend
from graphopt.errors import InputError, TargetError
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


def test_what_is_prepared_is_compiled_unless_said() -> None:
    assert backend.prepare(MODEL).target == "x86" and backend.prepare(MODEL).compiled is not None
    assert backend.prepare(MODEL, target="evaluator").compiled is None


@pytest.mark.parametrize("target", ["evaluator", "x86"])
def test_results_are_in_kind(target: str) -> None:
    got = backend.run_model(MODEL, [torch.from_numpy(X), torch.from_numpy(B)], target=target)
    assert isinstance(got.y, torch.Tensor) and torch.equal(got.z, torch.tensor([[2.0, 0.0, 4.0]]))


def test_options_are_keywords() -> None:
    rep = backend.prepare(MODEL, "CPU", target="x86", threads=1, winograd=False)
    assert rep.compiled.target.threads == 1
    np.testing.assert_array_equal(rep.run([X, B]).y, [[2, -1, 4]])
    with pytest.raises(InputError, match=r"no option 'thread'.*target, threads"):
        backend.prepare(MODEL, thread=1)
    with pytest.raises(InputError, match="option threads: is not for the reference evaluator"):
        backend.prepare(MODEL, target="evaluator", threads=1)
    with pytest.raises(InputError, match="given to prepare"):
        rep.run([X, B], threads=1)
    with pytest.raises(TargetError, match="x87"):
        backend.is_compatible(MODEL, target="x87")


def test_compatibility_is_told_without_compiling() -> None:
    unknown = parse("g (float[N] x) => (float[N] y) { y = com.example.Sparkle(x) }")
    assert backend.is_compatible(MODEL) and backend.is_compatible(MODEL, "CPU", target="evaluator")
    assert not backend.is_compatible(unknown) and not backend.is_compatible(MODEL, "CUDA")


def test_prepared_models_run_again_with_other_shapes() -> None:
    rep = backend.prepare(MODEL)
    for n in (1, 4, 0):
        assert rep.run([np.zeros((n, 3), np.float32), B]).y.shape == (n, 3)


def test_run_node() -> None:
    node = helper.make_node("Gemm", ["a", "b"], ["y"], transB=1)
    a, b = np.float32([[1, 2]]), np.float32([[3, 4], [5, 6]])
    for inputs in ([a, b], (a, b), {"b": b, "a": a}):
        np.testing.assert_array_equal(backend.run_node(node, inputs, outputs_info=[(np.float32, (1, 2))])[0], a @ b.T)
    with pytest.raises(InputError, match=r"outputs_info says float64\[1, 2\], the result is float32\[1, 2\]"):
        backend.run_node(node, [a, b], outputs_info=[(np.float64, (1, 2))])
    with pytest.raises(InputError, match="Gemm: the node takes 2 inputs, got 1"):
        backend.run_node(node, [a])
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
