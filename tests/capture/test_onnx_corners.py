"""Where the specification is silent or onnxruntime reads it otherwise: what is said instead, and by whom."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt.errors import CaptureError
from graphopt.ir import evaluate
from tests.capture.onnx_models import captured, check, run_ort, same

RNG = np.random.default_rng(7)
NAN, INF = np.nan, np.inf


def one_node(kind: str, given: dict[str, np.ndarray], opset: int, fixed: dict[str, np.ndarray] | None = None, to: int = 1,
             **attrs: object) -> onnx.ModelProto:
    """A model of one node; operands are those of `given`, then those of `fixed`, which are initializers."""
    constants = fixed or {}
    node = helper.make_node(kind, [*given, *constants], ["y"], **attrs)
    infos = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in given.items()]
    graph = helper.make_graph([node], "g", infos, [helper.make_tensor_value_info("y", to, None)],
                              [numpy_helper.from_array(a, n) for n, a in constants.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def compiled_too(model: onnx.ModelProto, given: dict[str, np.ndarray]) -> None:
    """The reference evaluator and the compiled program give what onnxruntime does."""
    check(captured(model), model, given)
    [got] = graphopt.compile(model, threads=1).run(given).values()
    same(got, run_ort(model, given)[0])


STATISTICS = {"scale": [INF, -INF, INF, 1, NAN, 0, 2, 2, -INF, 1], "bias": [1, 2, 0, INF, 1, NAN, 1, -1, 0.5, 3],
              "mean": [0.5, -0.5, 0, 1, 1, 1, INF, NAN, INF, -2], "var": [1, 0.3, 1, 2, 1, 1, 1, 1, INF, INF]}


@pytest.mark.parametrize("fixed", [True, False])
def test_batch_norm_by_what_is_not_finite(fixed: bool) -> None:
    """The statistics become a factor and a shift, whose product and sum are NaN where infinities meet."""
    x = np.stack([np.full(10, v, np.float32) for v in (0, -3, 0.25, INF, -INF, NAN)])[..., None]
    statistics = {k: np.array(v, np.float32) for k, v in STATISTICS.items()}
    model = one_node("BatchNormalization", {"x": x} | ({} if fixed else statistics), 15, statistics if fixed else None)
    compiled_too(model, {"x": x} | ({} if fixed else statistics))


def test_batch_norm_of_each_element_by_what_is_not_finite() -> None:
    """`spatial` 0: onnxruntime no longer reads such files, so by the factors and shifts that it has for channels."""
    x = RNG.standard_normal((2, 10, 1)).astype(np.float32)
    statistics = {k: np.array(v, np.float32) for k, v in STATISTICS.items()}
    by_element = one_node("BatchNormalization", {"x": x}, 7, {k: a[:, None] for k, a in statistics.items()}, spatial=0)
    by_channel = one_node("BatchNormalization", {"x": x}, 15, statistics)
    [want] = run_ort(by_channel, {"x": x})
    same(graphopt.compile(by_element, threads=1).run({"x": x})["y"], want)


@pytest.mark.parametrize("kind, opset", [("MaxPool", 12), ("AveragePool", 19), ("LpPool", 18)])
def test_a_dilated_pool_is_padded_as_if_it_were_not_dilated(kind: str, opset: int) -> None:
    compared = 0
    for n, k, s, d, auto in itertools.product((5, 6, 7, 12), (2, 3), (1, 2), (1, 2, 3), ("SAME_UPPER", "SAME_LOWER", "VALID")):
        x = RNG.standard_normal((1, 2, n)).astype(np.float32)
        model = one_node(kind, {"x": x}, opset, kernel_shape=[k], strides=[s], dilations=[d], auto_pad=auto)
        try:
            graph = captured(model)
        except CaptureError:
            assert d * (k - 1) + 1 > n + k - 1 or auto == "VALID"  # the window exceeds the padded image
            continue
        check(graph, model, {"x": x})
        compared += 1
    assert compared > 120
    x = RNG.standard_normal((1, 2, 9, 12)).astype(np.float32)
    compiled_too(one_node(kind, {"x": x}, opset, kernel_shape=[3, 2], strides=[2, 1], dilations=[2, 3], auto_pad="SAME_LOWER"),
                 {"x": x})


@pytest.mark.parametrize("auto", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("of", [np.float32, np.float64])
def test_padding_is_never_less_than_nothing(auto: str, of: type) -> None:
    """Windows start at the first element, however far apart they are, as in TensorFlow; onnxruntime has it so in f32 (where it
    does not refuse), but crops the image in f64."""
    for n, stride in itertools.product((5, 6, 9), (3, 4, 5)):
        x = RNG.standard_normal((1, 1, n)).astype(of)
        model = one_node("MaxPool", {"x": x}, 12, to=helper.np_dtype_to_tensor_dtype(np.dtype(of)), kernel_shape=[1],
                         strides=[stride], auto_pad=auto)
        np.testing.assert_array_equal(evaluate(captured(model), [x])[0], x[..., ::stride])


@pytest.mark.parametrize("kind", ["ScatterElements", "ScatterND"])
@pytest.mark.parametrize("how", ["max", "min"])
def test_scattering_maxima_of_nan(kind: str, how: str) -> None:
    """A NaN stays, as in PyTorch: onnxruntime keeps it or not by the order of the updates, ONNX's reference by another."""
    x, at = torch.tensor([1, NAN, -2, 3, INF, -INF]), torch.tensor([0, 0, 1, 2, 2, 3, 4, 5, 5, 0])
    updates = torch.tensor([NAN, 2, 7, -5, 4, NAN, NAN, NAN, 1, 3])
    want = x.scatter_reduce(0, at, updates, "amax" if how == "max" else "amin")
    given = {"x": x.numpy(), "i": at.numpy() if kind == "ScatterElements" else at.numpy()[:, None], "u": updates.numpy()}
    model = one_node(kind, given, 18, reduction=how)
    [got] = graphopt.compile(model, threads=1).run(given).values()
    np.testing.assert_array_equal(got, want.numpy())
    np.testing.assert_array_equal(evaluate(captured(model), list(given.values()))[0], want.numpy())


DEFAULTS = [("LeakyRelu", 16), ("BatchNormalization", 15)]


@pytest.mark.parametrize("kind, opset", DEFAULTS, ids=[k for k, _ in DEFAULTS])
def test_defaults_have_32_bits_where_operands_have_64(kind: str, opset: int) -> None:
    x = RNG.standard_normal((2, 3, 5)) * (1e-3 if "Norm" in kind else 3)
    more = 4 if kind == "BatchNormalization" else 0
    given = {"x": x} | {f"p{i}": np.abs(RNG.standard_normal(3)) * 1e-6 for i in range(more)}
    model = one_node(kind, given, opset, to=TensorProto.DOUBLE)
    check(captured(model), model, given, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("nearest", ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"])
def test_nearest_elements_of_a_symmetric_resize(nearest: str) -> None:
    """Coordinates that lie on an element but for roundings: they are onnxruntime's, of f32 in the offset and f64 elsewhere."""
    for n, scale in itertools.product((5, 7, 12, 15, 33), (0.3, 0.6, 0.7, 1.2, 1.4, 1.7, 2.3, 2.5)):
        x = np.arange(n, dtype=np.float32).reshape(1, 1, n)
        model = one_node("Resize", {"x": x}, 19, {"": np.zeros(0), "s": np.array([1, 1, scale], np.float32)},
                         mode="nearest", nearest_mode=nearest, coordinate_transformation_mode="half_pixel_symmetric")
        del model.graph.initializer[0]
        model.graph.node[0].input[:] = ["x", "", "s"]
        check(captured(model), model, {"x": x})
    compiled_too(model, {"x": x})


def test_functions_of_f64_keep_their_digits_near_zero() -> None:
    functions = {"Tanh": np.tanh, "Sinh": np.sinh, "Cosh": np.cosh, "Tan": np.tan, "Asin": np.arcsin, "Acos": np.arccos,
                 "Atan": np.arctan, "Asinh": np.arcsinh, "Atanh": np.arctanh}
    x = np.array([3.27e-7, 1e-3, 0.01, 0.1, 0.3, 0.49, 0.6, 0.9, -3e-9, -0.2])
    graph = helper.make_graph([helper.make_node(k, ["x"], [k]) for k in functions], "g",
                              [helper.make_tensor_value_info("x", TensorProto.DOUBLE, x.shape)],
                              [helper.make_tensor_value_info(k, TensorProto.DOUBLE, None) for k in functions])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=8)
    got = graphopt.compile(model, threads=1).run({"x": x})
    for kind, f in functions.items():
        np.testing.assert_allclose(got[kind], f(x), rtol=1e-15, err_msg=kind)
