"""Activations, normalisations, products, rotary embeddings and vision of com.microsoft against onnxruntime's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt.errors import CaptureError, UnsupportedOperators
from tests.capture.contrib import Case, Fixed, captured, check, check_compiled, model

RNG = np.random.default_rng(9)
f32 = np.float32


def r(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(f32)


X, SKIP, WIDTH = r(2, 5, 16), r(2, 5, 16), 16
GAMMA, BETA, BIAS = Fixed(r(16)), Fixed(r(16)), Fixed(r(16))
IMAGE = r(2, 4, 9, 8)

ACTIVATIONS = {
    "gelu": Case("Gelu", [X]),
    "bias gelu": Case("BiasGelu", [X, BIAS]),
    "fast gelu": Case("FastGelu", [X]),
    "fast gelu, bias": Case("FastGelu", [X, BIAS]),
    "quick gelu": Case("QuickGelu", [X], {"alpha": 1.3}),
    "quick gelu, default": Case("QuickGelu", [X]),
}
IDS, SEGMENTS, MASK = (np.array(a, np.int32) for a in ([[3, 1, 4], [1, 5, 0]], [[0, 0, 1], [1, 1, 0]], [[1, 1, 0], [1, 1, 1]]))
WORDS, POSITIONS, TYPES = Fixed(r(6, 16)), Fixed(r(7, 16)), Fixed(r(2, 16))
NORMS = {
    "skip": Case("SkipLayerNormalization", [X, SKIP, GAMMA, BETA, BIAS], {"epsilon": 1e-5}, [True, False, False, True]),
    "skip, no bias": Case("SkipLayerNormalization", [X, SKIP, GAMMA, BETA]),
    "skip, no beta": Case("SkipLayerNormalization", [X, SKIP, GAMMA, None, BIAS], {"epsilon": 1e-3}),
    "skip of all batches": Case("SkipLayerNormalization", [X, r(1, 5, 16), GAMMA, BETA], {}, [True, False, False, True]),
    "skip of two axes": Case("SkipLayerNormalization", [X, r(5, 16), GAMMA, BETA]),
    "skip, f16": Case("SkipLayerNormalization", [X.astype(np.float16), SKIP.astype(np.float16), Fixed(r(16).astype(np.float16)),
                                                 Fixed(r(16).astype(np.float16))], rtol=5e-3, atol=5e-3),
    "rms skip": Case("SkipSimplifiedLayerNormalization", [X, SKIP, GAMMA, BIAS], {"epsilon": 1e-5}, [True, False, False, True]),
    "rms skip, two axes": Case("SkipSimplifiedLayerNormalization", [X[0], SKIP[0], GAMMA]),
    "rms": Case("SimplifiedLayerNormalization", [X, GAMMA], {"axis": -1, "epsilon": 1e-6}, domain=""),
    "rms, axis 1": Case("SimplifiedLayerNormalization", [X, Fixed(r(5, 16))], {"axis": 1}, [True, True], domain=""),
    "embed": Case("EmbedLayerNormalization", [IDS, SEGMENTS, WORDS, POSITIONS, TYPES, GAMMA, BETA, MASK], {"epsilon": 1e-5},
                  [True, True]),
    "embed, sum": Case("EmbedLayerNormalization", [IDS, SEGMENTS, WORDS, POSITIONS, TYPES, GAMMA, BETA], {}, [True, True, True]),
    "embed, no segments, positions": Case("EmbedLayerNormalization", [IDS, None, WORDS, POSITIONS, None, GAMMA, BETA, MASK,
                                                                      np.array([[6, 0, 2]], np.int32)], {}, [True, True]),
}


def image_norm(skip: np.ndarray | None, last: bool, activation: int) -> Case:
    """No kernel in onnxruntime for CPUs: from its documentation, in numpy."""
    x, gamma, beta, bias = r(2, 3, 4, 8), r(8), r(8), r(8)
    total = x if skip is None else x + (skip if skip.ndim == 4 else skip[:, None, None]) + bias
    groups = total.astype(np.float64).reshape(2, 12, 2, 4)
    y = (groups - groups.mean((1, 3), keepdims=True)) / np.sqrt(groups.var((1, 3), keepdims=True) + 1e-5)
    y = y.reshape(x.shape) * gamma + beta
    y = y / (1 + np.exp(-y)) if activation else y

    def laid(v: np.ndarray) -> np.ndarray:
        return v if last or v.ndim != 4 else np.ascontiguousarray(v.transpose(0, 3, 1, 2))

    attrs = {"groups": 2, "activation": activation, "channels_last": int(last), "epsilon": 1e-5}
    if skip is None:
        return Case("GroupNorm", [laid(x), Fixed(gamma), Fixed(beta)], attrs, expected=[laid(y.astype(f32))])
    return Case("SkipGroupNorm", [laid(x), Fixed(gamma), Fixed(beta), laid(skip), Fixed(bias)], attrs, [True, True],
                expected=[laid(y.astype(f32)), laid(total)])


IMAGE_NORMS = {
    "group norm": image_norm(None, True, 1),
    "group norm, channels first": image_norm(None, False, 0),
    "skip group norm": image_norm(r(2, 3, 4, 8), True, 0),
    "skip group norm, channels first": image_norm(r(2, 3, 4, 8), False, 1),
    "skip group norm, skip of channels": image_norm(r(2, 8), True, 1),
}


def fused(activation: str, params: list[float], z: bool = False, **attrs: Any) -> Case:
    operands: list[Any] = [IMAGE, Fixed(r(6, 4 // attrs.get("group", 1), 3, 3)), Fixed(r(6))]
    given = {"activation": activation} | ({"activation_params": params} if params else {}) if activation else {}
    height = 9 if attrs.get("pads") else 7
    return Case("FusedConv", [*operands, r(2, 6, height, height - 1)] if z else operands, {**given, **attrs})


PRODUCTS = {
    "matmul": Case("FusedMatMul", [r(2, 3, 4, 5), r(5, 6)], {"alpha": 0.5}),
    "matmul, transposed": Case("FusedMatMul", [r(2, 3, 5, 4), r(2, 3, 6, 5)], {"transA": 1, "transB": 1}),
    "matmul, batches behind": Case("FusedMatMul", [r(4, 3, 5), r(3, 5, 6)], {"transBatchA": 1}),
    "matmul, batches of four axes": Case("FusedMatMul", [r(4, 2, 3, 5), r(6, 2, 3, 5)],
                                         {"transBatchA": 1, "transBatchB": 1, "transB": 1, "alpha": 2.0}),
    "matmul, batches and transposed": Case("FusedMatMul", [r(5, 3, 4), r(5, 3, 6)],
                                           {"transBatchA": 1, "transA": 1, "transBatchB": 1}),
    "matmul of a vector": Case("FusedMatMul", [r(5), r(5, 6)], {"transA": 1, "alpha": 3.0}),
    "transpose matmul": Case("TransposeMatMul", [r(2, 5, 4), r(2, 6, 5)], {"transA": 1, "transB": 1, "alpha": 0.3}),
    "gemm": Case("FusedGemm", [r(4, 5), Fixed(r(6, 5)), Fixed(r(6))],
                 {"transB": 1, "activation": "Relu", "alpha": .5, "beta": 2.0}),
    "gemm, leaky": Case("FusedGemm", [r(4, 5), Fixed(r(5, 6))], {"activation": "LeakyRelu", "activation_alpha": 0.3}),
    "gemm, hard sigmoid": Case("FusedGemm", [r(4, 5), Fixed(r(5, 6)), Fixed(r(6))],
                               {"activation": "HardSigmoid", "activation_alpha": 0.3, "activation_beta": 0.4}),
    "conv": fused("Relu", []),
    "conv, sum": fused("Relu", [], z=True),
    "conv, sum alone": fused("", [], z=True, pads=[1, 1, 1, 1]),
    "conv, clip": fused("Clip", [-0.5, 2.0], group=2),
    "conv, leaky": fused("LeakyRelu", [0.2], pads=[1, 1, 1, 1]),
    "conv, hard sigmoid": fused("HardSigmoid", [0.2, 0.6], strides=[2, 2]),
    "conv, sigmoid": fused("Sigmoid", []),
    "conv, tanh": fused("Tanh", [], auto_pad="SAME_UPPER"),
}
COS, SIN = (Fixed(f(np.outer(np.arange(20), 1 / 100 ** (np.arange(4) / 4))).astype(f32)) for f in (np.cos, np.sin))
WHERE = np.array([[0, 3, 2], [7, 8, 19]])


def rotary(x: np.ndarray, positions: Any, **attrs: int) -> Case:
    return Case("RotaryEmbedding", [x, positions, COS, SIN], attrs)


ROTARY = {
    "rotary": rotary(r(2, 3, 32), WHERE),
    "rotary, from one position on": rotary(r(2, 3, 32), np.array([5])),
    "rotary, interleaved": rotary(r(2, 3, 32), WHERE, interleaved=1),
    "rotary, four axes": rotary(r(2, 4, 3, 8), WHERE),
    "rotary, part of the heads": rotary(r(2, 3, 48), WHERE, num_heads=4, rotary_embedding_dim=8),
    "rotary, part, interleaved": rotary(r(2, 4, 3, 12), WHERE, num_heads=4, rotary_embedding_dim=8, interleaved=1),
}
ROIS = f32([[0, 0, 1, 1], [0.1, 0.2, 0.7, 0.9], [0.8, 0.9, 0.2, 0.1], [-0.3, 0.1, 0.5, 1.4]])
VISION = {
    "crop": Case("CropAndResize", [IMAGE, ROIS, np.array([0, 1, 1, 0], np.int32), Fixed(np.array([5, 4], np.int32))]),
    "crop, nearest": Case("CropAndResize", [IMAGE, ROIS, np.array([0, 1, 1, 0], np.int32), Fixed(np.array([3, 4], np.int32))],
                          {"mode": "nearest", "extrapolation_value": 7.0}),
    "crop of one point": Case("CropAndResize", [IMAGE, ROIS, np.array([0, 1, 1, 0], np.int32),
                                                Fixed(np.array([1, 2], np.int32))], {"extrapolation_value": -2.0}),
    "inverse": Case("Inverse", [r(3, 2, 4, 4) + 3 * np.eye(4, dtype=f32)]),
    "inverse, f64": Case("Inverse", [RNG.standard_normal((5, 5))], rtol=1e-6),
    "max pool, u8": Case("NhwcMaxPool", [RNG.integers(0, 256, (2, 9, 8, 3)).astype(np.uint8)],
                         {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}),
    "max pool, i8": Case("NhwcMaxPool", [RNG.integers(-128, 128, (2, 9, 8, 3)).astype(np.int8)],
                         {"kernel_shape": [2, 2], "dilations": [2, 1], "ceil_mode": 1, "strides": [2, 2]}),
    "grid": Case("GridSample", [IMAGE, RNG.uniform(-1.2, 1.2, (2, 3, 4, 2)).astype(f32)], {"padding_mode": "border"}),
    "triangle": Case("Trilu", [r(2, 4, 5)], {"upper": 0}),
    "triangle above": Case("Trilu", [r(4, 5), Fixed(np.array(1))]),
    "gather": Case("GatherND", [r(3, 4), np.array([[1, 2], [0, 3]])]),
    "range": Case("Range", [Fixed(np.float32(1)), Fixed(np.float32(5)), Fixed(np.float32(1.5))]),
    "pad": Case("Pad", [r(3, 4), Fixed(np.array([1, 0, 0, 2])), Fixed(np.float32([9]))]),
    "distances": Case("CDist", [r(5, 3), r(4, 3)], {"metric": "euclidean"}),
    "squared distances": Case("CDist", [r(5, 3), r(4, 3)], {"metric": "sqeuclidean"}),
    "dims": Case("ExpandDims", [r(3, 4), Fixed(np.array(-1, np.int32))]),
}
ALL = ACTIVATIONS | NORMS | IMAGE_NORMS | PRODUCTS | ROTARY | VISION


@pytest.mark.parametrize("name", ALL)
def test_equals_onnxruntime(name: str) -> None:
    check(ALL[name])


def test_runs_in_kernels() -> None:
    kinds = {case.op: name for name, case in ALL.items() if name != "range"}
    check_compiled({name: ALL[name] for name in kinds.values()})


def test_saved_statistics() -> None:
    """onnxruntime's kernels for CPUs leave them out: those of ONNX's LayerNormalization, from the definition."""
    total = (X + SKIP).astype(np.float64)
    mean = total.mean(-1, keepdims=True)
    layer = 1 / np.sqrt(total.var(-1, keepdims=True) + 1e-5)
    square = 1 / np.sqrt((total**2).mean(-1, keepdims=True) + 1e-5)
    check(Case("SkipLayerNormalization", [X, SKIP, GAMMA, BETA], {"epsilon": 1e-5}, [False, True, True],
               expected=[mean.astype(f32), layer.astype(f32)]))
    check(Case("SkipSimplifiedLayerNormalization", [X, SKIP, GAMMA], {"epsilon": 1e-5}, [False, False, True],
               expected=[square.astype(f32)]))


@pytest.mark.parametrize("case, words", [
    (Case("RotaryEmbedding", [r(2, 3, 32), WHERE, COS, SIN], {"is_packed_batching": 1}), "is_packed_batching=1"),
    (Case("QuickGelu", [X], {"beta": 2.0}), "attribute beta=2.0"),
    (Case("Gelu", [X, BIAS]), "operand 1, "),
    (Case("FusedConv", [IMAGE, Fixed(r(6, 4, 3, 3))], {"activation": "Cos"}), "activation='Cos'"),
    (Case("SkipSimplifiedLayerNormalization", [X, SKIP, GAMMA], {}, [True, True]), "output 1"),
])
def test_what_is_left_out_is_named(case: Case, words: str) -> None:
    with pytest.raises(CaptureError, match=words) as e:
        captured(model({"case": case}))
    assert case.op in str(e.value)


def test_unknown_operators_are_named_at_once() -> None:
    cases = {"a": Case("Tokenizer", [X]), "b": Case("Gelu", [X]), "c": Case("LongformerAttention", [X]),
             "d": Case("Conv", [IMAGE], domain="com.microsoft.nchwc")}
    with pytest.raises(UnsupportedOperators) as e:
        captured(model(cases))
    assert {name for name, _ in e.value.operators} == {"com.microsoft.Tokenizer", "com.microsoft.LongformerAttention",
                                                       "com.microsoft.nchwc.Conv"}
    assert "ORT_ENABLE_EXTENDED" in str(e.value)
