"""Forms of operators that few files have, against onnxruntime without optimisation, and the specification in float64."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt.capture.onnx import capture_onnx
from graphopt.errors import CaptureError, InputError
from graphopt.ir.evaluate import evaluate

RNG = np.random.default_rng(5)
FAR = 2**62


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def model(nodes, inputs, outputs, constants=None, opset=17, ir=8):
    """`inputs` gives shapes, with names for free dims; `constants` arrays."""
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()]
    graph = helper.make_graph([helper.make_node(k, i, o, **a) for k, i, o, a in nodes], "g", info,
                              [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs],
                              [numpy_helper.from_array(np.asarray(v), n) for n, v in (constants or {}).items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def theirs(m, feeds):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(m.SerializeToString(), options).run(None, feeds)


def agrees(m, feeds, compiled=False, tolerance=5e-5):  # onnxruntime has coordinates in f32
    expected = theirs(m, feeds)
    if compiled:
        got = list(graphopt.compile(m, threads=1).run(feeds).values())
    else:
        got = evaluate(capture_onnx(m, shapes={n: a.shape for n, a in feeds.items()}), list(feeds.values()))
    for a, b in zip(got, expected, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


# Slice ------------------------------------------------------------------------------------------
def sliced(start, end, step, shape, axis=0):
    bounds = {k: np.array([v], np.int64) for k, v in (("s", start), ("e", end), ("a", axis), ("t", step))}
    return model([("Slice", ["x", "s", "e", "a", "t"], ["y"], {})], {"x": shape}, ["y"], bounds)


@pytest.mark.parametrize("start", [-FAR, -9, -5, -4, -1, 0, 2, 3, 4, 9, FAR])
@pytest.mark.parametrize("end", [-FAR, -20, -5, -4, -1, 0, 3, 4, 20, FAR])
def test_bounds_of_slices_are_clamped_as_opset_13_says(start, end):
    for step in (1, 2, -1, -2, -3):
        agrees(sliced(start, end, step, [4]), {"x": normal(4)})


@pytest.mark.parametrize("start", [-FAR, -5, -2, 1, FAR])
def test_bounds_of_slices_along_free_dims_are_clamped_too(start):
    m = sliced(start, -FAR, -2, ["n"])
    for n in (1, 3, 6):
        agrees(m, {"x": normal(n)}, compiled=n == 3)


# Resize -----------------------------------------------------------------------------------------
def resized(scale, width, **options):
    return model([("Resize", ["x", "", "s"], ["y"], options)], {"x": [1, 1, 2, width]}, ["y"],
                 {"s": np.array([1, 1, 1, scale], np.float32)}, opset=options.pop("opset", 19))


@pytest.mark.parametrize("scale", [0.6, 1.4, 7 / 3, 13 / 11, 19 / 7, 1.1, 1.5, 0.3])
@pytest.mark.parametrize("free", [False, True])
def test_the_size_of_what_is_resized_by_scales_is_a_product_in_f32(scale, free):
    for width in (5, 11, 21, 27, 30, 54, 90):
        agrees(resized(scale, "w" if free else width, mode="linear"), {"x": normal(1, 1, 2, width)})


@pytest.mark.parametrize("coordinates", ["align_corners", "half_pixel", "pytorch_half_pixel", "asymmetric"])
@pytest.mark.parametrize("mode", ["linear", "cubic", "nearest"])
def test_resizing_by_fractions(coordinates, mode):
    for scale in (0.2, 0.4, 0.6, 1.4, 2.3):
        m = resized(scale, "w", mode=mode, coordinate_transformation_mode=coordinates)
        agrees(m, {"x": normal(1, 1, 2, 9)}, compiled=scale == 0.4)


@pytest.mark.parametrize("scales", [(0.4, 1.4), (1.4, 0.7), (2, 0.6)])
def test_before_opset_11_the_nearest_is_the_next_where_an_axis_shrinks(scales):
    m = model([("Resize", ["x", "s"], ["y"], {})], {"x": [1, 1, 5, 9]}, ["y"],
              {"s": np.array([1, 1, *scales], np.float32)}, opset=10, ir=5)
    agrees(m, {"x": normal(1, 1, 5, 9)})


@pytest.mark.parametrize("scales", [(0.4, 1.4), (2, 0.6)])
def test_before_opset_11_linear_resizing_is_one_op_whatever_the_axes_do(scales):
    m = model([("Resize", ["x", "s"], ["y"], {"mode": "linear"})], {"x": [1, 1, 5, 9]}, ["y"],
              {"s": np.array([1, 1, *scales], np.float32)}, opset=10, ir=5)
    agrees(m, {"x": normal(1, 1, 5, 9)})
    assert [op.name for op in capture_onnx(m).ops if op.name != "const"] == ["resize"]


def test_what_is_resized_joins_what_has_the_declared_size():
    m = model([("Resize", ["x", "", "s"], ["a"], {"mode": "linear"}), ("Concat", ["a", "b"], ["y"], {"axis": 1})],
              {"x": [1, 1, 1, "w"], "b": [1, 1, 1, "v"]}, ["y"], {"s": np.array([1, 1, 1, 1.4], np.float32)})
    agrees(m, {"x": normal(1, 1, 1, 5), "b": normal(1, 1, 1, 7)}, compiled=True)


# Normalisation ----------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(5,), (1,), (), (2, 5), (1, 5), (2, 1), (5, 1, 1), (3, 2, 1), (1, 1, 5), (5, 2, 5)])
@pytest.mark.parametrize("axis", [-1, 1, 0])
def test_scale_and_bias_of_a_layer_norm_broadcast_to_x(shape, axis):
    rows = max(shape[0] if len(shape) == 3 else 5, 1) if shape[:1] != (1,) else 5
    x, scale, bias = normal(rows, 2, 5), np.asarray(normal(*shape)), np.asarray(normal(*shape))
    m = model([("LayerNormalization", ["x", "s", "b"], ["y", "mean", "inv"], {"axis": axis})], {"x": ["n", 2, 5]},
              ["y", "mean", "inv"], {"s": scale, "b": bias})
    wide, axes = x.astype(np.float64), tuple(range(axis % 3, 3))
    mean, inv = wide.mean(axes, keepdims=True), 1 / np.sqrt(wide.var(axes, keepdims=True) + 1e-5)
    for got, want in zip(evaluate(capture_onnx(m, shapes={"x": x.shape}), [x]), ((wide - mean) * inv * scale + bias, mean, inv)):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_a_scale_that_makes_x_larger_is_refused():
    m = model([("LayerNormalization", ["x", "s"], ["y"], {})], {"x": [5, 1, 5]}, ["y"], {"s": normal(5, 2, 5)})
    with pytest.raises(CaptureError, match="does not broadcast"):
        capture_onnx(m)


@pytest.mark.parametrize("shape", [(5,), (2, 1), (1, 1, 5), ()])
def test_the_scale_of_an_rms_norm_broadcasts_to_x(shape):
    x, scale = normal(3, 2, 5), np.asarray(normal(*shape))
    m = model([("RMSNormalization", ["x", "s"], ["y"], {})], {"x": [3, 2, 5]}, ["y"], {"s": scale}, opset=23, ir=10)
    want = x / np.sqrt((x.astype(np.float64)**2).mean(-1, keepdims=True) + 1e-5) * scale
    np.testing.assert_allclose(evaluate(capture_onnx(m), [x])[0], want, rtol=1e-5, atol=1e-5)


def test_before_opset_9_a_batch_norm_may_have_statistics_for_every_element():
    x, scale, bias, mean, var = normal(2, 3, 4, 5), normal(3, 4, 5), normal(3, 4, 5), normal(3, 4, 5), np.abs(normal(3, 4, 5))
    m = model([("BatchNormalization", list("xsbmv"), ["y"], {"spatial": 0})], {"x": [2, 3, 4, 5]}, ["y"],
              {"s": scale, "b": bias, "m": mean, "v": var}, opset=7, ir=5)
    agrees(m, {"x": x}, compiled=True)


def test_a_transposed_convolution_does_not_spread_an_infinite_weight():
    """Each result is a sum over the pixels that reach it: there is no padding that would be multiplied by infinity."""
    w = normal(2, 3, 3, 3)
    w[0, 1, 0, 2] = np.inf
    for strides in ([1, 1], [2, 2], [2, 1]):
        m = model([("ConvTranspose", ["x", "w"], ["y"], {"strides": strides})], {"x": [1, 2, 4, 5]}, ["y"], {"w": w})
        agrees(m, {"x": np.abs(normal(1, 2, 4, 5)) + 0.1}, compiled=True)


# Inputs with a default --------------------------------------------------------------------------
@pytest.mark.parametrize("ir", [3, 8])
def test_an_initialiser_that_is_an_input_has_a_default_and_can_be_given(ir, tmp_path):
    w = normal(3)
    m = model([("Mul", ["x", "w"], ["y"], {})], {"x": ["n", 3], "w": [3]}, ["y"], {"w": w}, opset=9, ir=ir)
    path = tmp_path / "m.onnx"
    path.write_bytes(m.SerializeToString())
    x = normal(2, 3)
    for compiled in (graphopt.compile(m), graphopt.compile(path), graphopt.compile(path)):  # the last one from the cache
        assert [s.name for s in compiled.inputs] == ["x"]
        np.testing.assert_array_equal(compiled.run({"x": x})["y"], x * w)
        for k in (2, 3):
            np.testing.assert_array_equal(compiled.run({"x": x, "w": w * k})["y"], x * (w * k))
        with pytest.raises(InputError, match=r"input w: expected shape \[3\], got \[2\]"):
            compiled.run({"x": x, "w": w[:2]})
        with pytest.raises(InputError, match="no input is named 'v'"):
            compiled.run({"x": x, "v": w})


def test_a_size_of_nothing_that_a_known_mask_leaves_is_known_where_a_shape_copies_it():
    """A 0 in the shape of a Reshape is the size of x there, whatever it was made from."""
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [3, 7]), ("z", [5, 7]))]
    nodes = [helper.make_node("Compress", ["x", "mask"], ["c"], axis=0), helper.make_node("Shape", ["c"], ["d"], start=0, end=1),
             helper.make_node("Concat", ["d", "rest"], ["s"], axis=0), helper.make_node("Reshape", ["z", "s"], ["y"])]
    graph = helper.make_graph(nodes, "g", info, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
                              [numpy_helper.from_array(np.zeros(2, bool), "mask"),
                               numpy_helper.from_array(np.array([-1, 1]), "rest")])
    m = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    agrees(m, {"x": normal(3, 7), "z": normal(5, 7)}, compiled=True)
