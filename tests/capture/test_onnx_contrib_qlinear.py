"""Quantised operators of com.microsoft against onnxruntime's: exact up to ties, where it has tables or another order."""

from __future__ import annotations

import numpy as np
import pytest

from tests.capture.contrib import Case, Fixed, check, check_compiled

RNG = np.random.default_rng(7)
f32, u8, i8 = np.float32, np.uint8, np.int8


def q(*shape: int, dtype: type = u8) -> np.ndarray:
    info = np.iinfo(dtype)
    return RNG.integers(info.min, info.max + 1, shape).astype(dtype)


X, XI, Y, YI = q(2, 3, 7, 6), q(2, 3, 7, 6, dtype=i8), q(3, 1, 6), q(3, 1, 6, dtype=i8)
IN, INI, OUT, OUTI = (f32(0.021), u8(131)), (f32(0.021), i8(-9)), (f32(0.037), u8(77)), (f32(0.037), i8(5))
SMALL = (f32(1 / 256), u8(0))

CASES = {
    "add": Case("QLinearAdd", [X, *IN, Y, f32(0.03), u8(99), *OUT], steps=1),
    "add, signed": Case("QLinearAdd", [XI, *INI, YI, f32(0.03), i8(9), *OUTI], steps=1),
    "add, no zero points": Case("QLinearAdd", [X, f32(0.02), None, Y, f32(0.03), None, f32(0.05)], steps=1,  # refused by ort
                                expected=[np.clip(np.rint((X * 0.02 + Y * 0.03) / 0.05), 0, 255).astype(u8)]),
    "add, scales of one element": Case("QLinearAdd", [X, Fixed(f32([0.02])), Fixed(u8([3])), Y, Fixed(f32([0.03])),
                                                      Fixed(u8([4])), Fixed(f32([0.05])), Fixed(u8([5]))], steps=1,
                                       expected=[np.clip(np.rint((X * .02 + Y * .03 - .18) / .05) + 5, 0, 255).astype(u8)]),
    "mul": Case("QLinearMul", [X, *IN, Y, f32(0.03), u8(99), *OUT], steps=1),
    "mul, signed": Case("QLinearMul", [XI, *INI, YI, f32(0.03), i8(9), *OUTI], steps=1),
    "sigmoid": Case("QLinearSigmoid", [X, *IN, *SMALL]),
    "sigmoid, signed": Case("QLinearSigmoid", [XI, *INI, f32(1 / 256), i8(-128)]),
    "leaky relu": Case("QLinearLeakyRelu", [X, *IN, *OUT], {"alpha": 0.2}),
    "leaky relu, signed": Case("QLinearLeakyRelu", [XI, *INI, *OUTI]),
    "softmax": Case("QLinearSoftmax", [X, *IN, *SMALL], {"opset": 13, "axis": -1}, steps=1),
    "softmax, signed": Case("QLinearSoftmax", [XI, *INI, f32(1 / 256), i8(-128)], {"opset": 13, "axis": 1}, steps=1),
    "softmax, flat": Case("QLinearSoftmax", [X, *IN, *SMALL], {"opset": 11, "axis": 2}, steps=1),
    "softmax, flat, last axis": Case("QLinearSoftmax", [X, *IN, *SMALL], {"opset": 11}, steps=1),
    "average pool": Case("QLinearAveragePool", [X, *IN, *OUT], {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]},
                         steps=1),
    "average pool, padding counts": Case("QLinearAveragePool", [XI, *INI, *OUTI],
                                         {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}, steps=1),
    "average pool, ceil": Case("QLinearAveragePool", [X, *IN, *OUT], {"kernel_shape": [2, 4], "strides": [2, 3], "ceil_mode": 1},
                               steps=1),
    "average pool, channels last": Case("QLinearAveragePool", [X, *IN, *OUT], {"kernel_shape": [2, 2], "channels_last": 1},
                                        steps=1),
    "average pool, same": Case("QLinearAveragePool", [X, *IN, *OUT], {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER"}, steps=1),
    "global average pool": Case("QLinearGlobalAveragePool", [X, *IN, *OUT], steps=1),
    "global average pool, channels last": Case("QLinearGlobalAveragePool", [XI, *INI, *OUTI], {"channels_last": 1}, steps=1),
    "concat": Case("QLinearConcat", [*OUT, X, *IN, q(2, 2, 7, 6), f32(0.05), u8(7), q(2, 1, 7, 6), *OUT], {"axis": 1}, steps=1),
    "concat, signed": Case("QLinearConcat", [*OUTI, XI, *INI, q(2, 3, 7, 2, dtype=i8), f32(0.05), i8(7)], {"axis": -1}, steps=1),
    "where": Case("QLinearWhere", [X[0] > 100, X, *IN, Y, f32(0.03), u8(9), *OUT], steps=1),
    "where, signed": Case("QLinearWhere", [Y > 100, XI, *INI, YI, f32(0.03), i8(9), *OUTI], steps=1),
    "conv, channels last": Case("QLinearConv", [X, *IN, Fixed(q(4, 6, 3, 3, dtype=i8)), Fixed(f32([.01, .02, .03, .04])),
                                                Fixed(i8([0, 0, 0, 0])), f32(2.0), u8(128), Fixed(np.arange(4, dtype=np.int32))],
                                {"channels_last": 1, "pads": [1, 1, 1, 1]}, steps=1),
}
IDS = np.array([[3, 1, 4], [1, 5, 0]], np.int32)


def embedding(segments: bool, mask: bool) -> Case:
    tables = [q(6, 8), q(5, 8), q(2, 8) if segments else None, q(8), q(8)]
    scales = [f32(.01), f32(.02), f32(.03) if segments else None, f32(.04), f32(.05)]
    zeros = [u8(120), u8(130), u8(9) if segments else None, u8(128), u8(100)]
    return Case("QEmbedLayerNormalization", [
        IDS, IDS % 2 if segments else None, *(t if t is None else Fixed(t) for t in tables),
        np.array([[1, 1, 0], [1, 1, 1]], np.int32) if mask else None, *scales, *zeros], {"epsilon": 1e-5}, [True, True])


CASES |= {"embedding": embedding(True, True), "embedding, no segments, no mask": embedding(False, False)}


@pytest.mark.parametrize("name", CASES)
def test_equals_onnxruntime(name: str) -> None:
    check(CASES[name])


def test_runs_in_kernels() -> None:
    kinds = {case.op: name for name, case in CASES.items()}
    check_compiled({name: CASES[name] for name in kinds.values()})
