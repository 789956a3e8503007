"""Files as onnxruntime itself writes them: its optimiser, its quantizer, its fusion of transformers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

import graphopt
from graphopt.ir import evaluate
from tests.capture.contrib import MS
from tests.capture.onnx_models import captured, parse, run_ort

RNG = np.random.default_rng(13)
FEEDS = {"transformer": {"ids": np.array([[3, 1, 4, 1], [5, 9, 2, 6]])},
         "cnn": {"x": RNG.standard_normal((2, 3, 12, 12)).astype(np.float32)},
         "lstm": {"x": RNG.standard_normal((5, 1, 8)).astype(np.float32)}}


def weights(**shapes: tuple[int, ...]) -> list[onnx.TensorProto]:
    rng = np.random.default_rng(14)
    return [numpy_helper.from_array((rng.standard_normal(s) * (0.3 if len(s) > 1 else 0.5)).astype(np.float32), k)
            for k, s in shapes.items()]


def with_weights(text: str, tensors: list[onnx.TensorProto]) -> onnx.ModelProto:
    m = parse(text, opset=17)
    m.graph.initializer.extend(tensors)
    return m


def transformer() -> onnx.ModelProto:
    """One layer: embeddings, attention of 4 heads written out, a feed-forward part with GELU, norms after both."""
    ints = {"heads": [0, 0, 4, 8], "flat": [0, 0, 32]}
    text = """g (int64[2, 4] ids) => (float[2, 4, 32] y) {
        x = Gather(words, ids)
        e = LayerNormalization<axis = -1, epsilon = 1e-5>(x, g0, b0)
        q0 = MatMul(e, wq)  q1 = Add(q0, bq)  q2 = Reshape(q1, heads)  q = Transpose<perm = [0, 2, 1, 3]>(q2)
        k0 = MatMul(e, wk)  k1 = Add(k0, bk)  k2 = Reshape(k1, heads)  k = Transpose<perm = [0, 2, 3, 1]>(k2)
        v0 = MatMul(e, wv)  v1 = Add(v0, bv)  v2 = Reshape(v1, heads)  v = Transpose<perm = [0, 2, 1, 3]>(v2)
        s0 = MatMul(q, k)  s1 = Div(s0, scale)  p = Softmax<axis = -1>(s1)
        a0 = MatMul(p, v)  a1 = Transpose<perm = [0, 2, 1, 3]>(a0)  a2 = Reshape(a1, flat)
        a3 = MatMul(a2, wo)  a4 = Add(a3, bo)  r0 = Add(e, a4)
        m = LayerNormalization<axis = -1, epsilon = 1e-5>(r0, g1, b1)
        f0 = MatMul(m, w1)  f1 = Add(f0, c1)
        t0 = Div(f1, root)  t1 = Erf(t0)  t2 = Add(t1, one)  t3 = Mul(f1, t2)  t4 = Mul(t3, half)
        f2 = MatMul(t4, w2)  f3 = Add(f2, c2)  r1 = Add(m, f3)
        y = LayerNormalization<axis = -1, epsilon = 1e-5>(r1, g2, b2)
    }"""
    given = weights(words=(10, 32), wq=(32, 32), wk=(32, 32), wv=(32, 32), wo=(32, 32), w1=(32, 64), w2=(64, 32), bq=(32,),
                    bk=(32,), bv=(32,), bo=(32,), c1=(64,), c2=(32,), g0=(32,), b0=(32,), g1=(32,), b1=(32,), g2=(32,), b2=(32,))
    scalars = {"scale": 8**0.5, "root": 2**0.5, "one": 1.0, "half": 0.5}
    return with_weights(text, [
        *given, *(numpy_helper.from_array(np.array(v), k) for k, v in ints.items()),
        *(numpy_helper.from_array(np.float32(v), k) for k, v in scalars.items())])


def cnn() -> onnx.ModelProto:
    return with_weights("""g (float[2, 3, 12, 12] x) => (float[2, 5] y) {
        c0 = Conv<pads = [1, 1, 1, 1]>(x, w0, b0)
        r0 = Relu(c0)
        c1 = Conv<pads = [1, 1, 1, 1]>(r0, w1, b1)
        s = Add(c1, r0)
        r1 = Relu(s)
        p0 = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(r1)
        p1 = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(r1)
        j = Concat<axis = 1>(p0, p1)
        c2 = Conv(j, w2, b2)
        l = LeakyRelu<alpha = 0.1>(c2)
        h = Sigmoid(l)
        m = Mul(l, h)
        a = GlobalAveragePool(m)
        f = Flatten(a)
        z = Gemm(f, w3, b3)
        y = Softmax<axis = -1>(z)
    }""", weights(w0=(8, 3, 3, 3), b0=(8,), w1=(8, 8, 3, 3), b1=(8,), w2=(8, 16, 1, 1), b2=(8,), w3=(8, 5), b3=(5,)))


def lstm() -> onnx.ModelProto:
    return with_weights("""g (float[5, 1, 8] x) => (float[5, 2, 1, 6] y) {
        y, h, c = LSTM<hidden_size = 6, direction = "bidirectional">(x, w, r, b)
    }""", weights(w=(2, 24, 8), r=(2, 24, 6), b=(2, 48)))


MODELS = {"transformer": transformer, "cnn": cnn, "lstm": lstm}


class Reader:
    """Calibration data: one batch."""

    def __init__(self, feeds: dict[str, np.ndarray]) -> None:
        self.batches: Iterator[dict[str, np.ndarray]] = iter([feeds])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


def optimised(source: Path, target: Path, level: Any = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED) -> None:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level, options.optimized_model_filepath, options.log_severity_level = level, str(target), 4
    onnxruntime.InferenceSession(str(source), options)


def static(source: Path, target: Path, feeds: dict[str, np.ndarray], form: str, **options: Any) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization")
    quantization.quantize_static(source, target, Reader(feeds), quant_format=quantization.QuantFormat[form], **options)


def write(route: str, source: Path, target: Path, feeds: dict[str, np.ndarray]) -> None:
    middle = target.with_suffix(".middle.onnx")
    match route:
        case "optimised":
            optimised(source, target)
        case "static, operators":
            static(source, target, feeds, "QOperator")
        case "static, pairs of 16 bits":
            kinds = pytest.importorskip("onnxruntime.quantization").QuantType
            static(source, target, feeds, "QDQ", activation_type=kinds.QUInt16, extra_options={"UseQDQContribOps": True})
        case "static, pairs, optimised":
            static(source, middle, feeds, "QDQ", per_channel=True)
            optimised(middle, target)
        case "dynamic":
            pytest.importorskip("onnxruntime.quantization").quantize_dynamic(source, target)
        case "dynamic, optimised":
            pytest.importorskip("onnxruntime.quantization").quantize_dynamic(source, middle)
            optimised(middle, target)
        case "4 bits":
            module = pytest.importorskip("onnxruntime.quantization.matmul_nbits_quantizer", exc_type=ImportError)
            quantizer = module.MatMulNBitsQuantizer(onnx.load(source), bits=4, block_size=16, is_symmetric=False)
            quantizer.process()
            quantizer.model.save_model_to_file(str(target), False)
        case "fused":
            module = pytest.importorskip("onnxruntime.transformers.optimizer", exc_type=ImportError)
            fused = module.optimize_model(str(source), model_type="bert", num_heads=4, hidden_size=32, opt_level=0)
            fused.save_model_to_file(str(target))


CASES = [
    ("transformer", "optimised", {"SkipLayerNormalization", "Gelu"}),
    ("transformer", "static, operators", {"QLinearAdd", "QLinearMul"}),
    ("transformer", "static, pairs of 16 bits", {"QuantizeLinear", "DequantizeLinear"}),
    ("transformer", "dynamic, optimised", {"DynamicQuantizeMatMul", "MatMulIntegerToFloat"}),
    ("transformer", "4 bits", {"MatMulNBits"}),
    ("transformer", "fused", {"Attention", "SkipLayerNormalization", "BiasGelu"}),
    ("cnn", "optimised", {"FusedConv"}),
    ("cnn", "static, operators", {"QLinearAdd", "QLinearAveragePool", "QLinearConcat", "QLinearLeakyRelu", "QLinearMul",
                                  "QLinearSigmoid", "QLinearGlobalAveragePool", "QGemm", "QLinearSoftmax"}),
    ("cnn", "static, pairs, optimised", {"QLinearConcat", "QGemm"}),
    ("lstm", "dynamic", {"DynamicQuantizeLSTM"}),
]


@pytest.mark.parametrize("name, route, operators", CASES, ids=[f"{name}, {route}" for name, route, _ in CASES])
def test_what_onnxruntime_writes(name: str, route: str, operators: set[str], tmp_path: Path) -> None:
    """The file holds what the test is for, and gives onnxruntime's own values without optimisation."""
    onnx.save(MODELS[name](), tmp_path / "source.onnx")
    write(route, tmp_path / "source.onnx", tmp_path / "target.onnx", FEEDS[name])
    written = onnx.load(tmp_path / "target.onnx")
    assert operators <= {node.op_type for node in written.graph.node if node.domain == MS}
    graph = captured(tmp_path / "target.onnx")
    got = evaluate(graph, [FEEDS[name][k] for k in graph.input_names])
    for mine, expected in zip(got, run_ort(written, FEEDS[name]), strict=True):
        steps = 2 / 255 if "static" in route else 1e-5  # a tie that goes the other way is a step of the last scale
        np.testing.assert_allclose(mine, expected, rtol=0, atol=max(np.abs(expected).max(), 1) * steps)


def test_a_quantised_network_runs_in_kernels(tmp_path: Path) -> None:
    onnx.save(cnn(), tmp_path / "source.onnx")
    write("static, operators", tmp_path / "source.onnx", tmp_path / "target.onnx", FEEDS["cnn"])
    program = graphopt.compile(tmp_path / "target.onnx")
    [got] = program.run(FEEDS["cnn"]).values()
    [expected] = run_ort(onnx.load(tmp_path / "target.onnx"), FEEDS["cnn"])
    assert program.host_ops == []
    np.testing.assert_allclose(got, expected, rtol=0, atol=2 / 255)


def test_weights_blocked_for_a_machine_are_refused(tmp_path: Path) -> None:
    """ORT_ENABLE_ALL lays convolutions out by the machine's vectors, whose width is not in the file."""
    onnx.save(cnn(), tmp_path / "source.onnx")
    optimised(tmp_path / "source.onnx", tmp_path / "target.onnx", onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL)
    if not any(node.domain == "com.microsoft.nchwc" for node in onnx.load(tmp_path / "target.onnx").graph.node):
        pytest.skip("onnxruntime does not block convolutions on this machine")
    with pytest.raises(graphopt.errors.UnsupportedOperators, match="ORT_ENABLE_EXTENDED"):
        captured(tmp_path / "target.onnx")
