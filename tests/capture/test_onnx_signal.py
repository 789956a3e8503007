"""DFT and STFT against ONNX's reference evaluator."""

import numpy as np
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from graphopt.capture import capture
from graphopt.ir.evaluate import evaluate

RNG = np.random.default_rng(0)


def check(node, x, opset=17, **constants):
    given = helper.np_dtype_to_tensor_dtype(x.dtype)
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("x", given, x.shape)],
                              [helper.make_tensor_value_info("y", given, None)],
                              [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    [expected] = ReferenceEvaluator(model).run(None, {"x": x})
    captured = capture(model)
    assert any(op.name in ("fft", "rfft", "irfft") for op in captured.ops)
    [got] = evaluate(captured, [x])
    assert got.shape == expected.shape and got.dtype == x.dtype
    tolerance = 2e-3 if x.dtype == np.float16 else 1e-5
    np.testing.assert_allclose(got, expected, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("n", [2, 5, 8, 600])
@pytest.mark.parametrize("parts, inverse, onesided", [(1, 0, 0), (1, 0, 1), (2, 0, 0), (2, 1, 0)])
def test_transforms(n, parts, inverse, onesided):
    x = RNG.standard_normal((2, n, 3, parts)).astype(np.float32)
    check(helper.make_node("DFT", ["x"], ["y"], axis=1, inverse=inverse, onesided=onesided), x)
    check(helper.make_node("DFT", ["x", "", "a"], ["y"], inverse=inverse, onesided=onesided), x, 20, a=np.int64(-3))
    check(helper.make_node("DFT", ["x", "n"], ["y"], axis=1, inverse=inverse, onesided=onesided), x, n=np.int64(n + 3))


def test_other_precisions():
    for dtype in (np.float16, np.float64):
        check(helper.make_node("DFT", ["x"], ["y"], axis=1), RNG.standard_normal((1, 9, 2)).astype(dtype))


def test_frames():
    x = RNG.standard_normal((2, 64, 1)).astype(np.float32)
    check(helper.make_node("STFT", ["x", "s", "w"], ["y"]), x, s=np.int64(8), w=np.hanning(16).astype(np.float32))
    check(helper.make_node("STFT", ["x", "s", "", "n"], ["y"], onesided=0), x, s=np.int64(10), n=np.int64(20))
