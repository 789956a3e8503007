"""Integer products, quantisation and weights of few bits of com.microsoft against onnxruntime's."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.capture.contrib import Case, Fixed, check, check_compiled

RNG = np.random.default_rng(8)
f32, u8, i8 = np.float32, np.uint8, np.int8


def q(*shape: int, dtype: Any = u8, most: int | None = None) -> np.ndarray:
    info = np.iinfo(dtype)
    return RNG.integers(info.min, (info.max if most is None else most) + 1, shape).astype(dtype)


def r(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(f32)


A, B, BI = q(5, 16), q(16, 6), q(16, 6, dtype=i8)
SCALES, ZEROS = f32([.01, .02, .03, .04, .05, .06]), i8([0, 1, -2, 3, -4, 5])
C = RNG.integers(-5000, 5000, 6).astype(np.int32)
X = r(2, 5, 16)

PRODUCTS = {
    "qgemm": Case("QGemm", [A, f32(.02), u8(7), Fixed(B), f32(.03), u8(130), C, f32(.9), u8(120)], {"alpha": 1.0}, steps=1),
    "qgemm, transposed, per column": Case("QGemm", [A.T.copy(), f32(.02), u8(7), Fixed(BI.T.copy()), Fixed(SCALES), Fixed(ZEROS),
                                                    None, f32(.9), u8(120)], {"transA": 1, "transB": 1, "alpha": 0.5}, steps=1),
    "qgemm to f32": Case("QGemm", [A, f32(.02), u8(7), Fixed(BI), f32(.03), i8(3), C], {}),
    "qgemm, signed": Case("QGemm", [A.view(i8), f32(.02), i8(7), Fixed(BI), f32(.03), i8(3), C, f32(.8), i8(-3)], {}, steps=1),
    "to float": Case("MatMulIntegerToFloat", [q(2, 5, 16), Fixed(BI), f32(.02), f32(.03), u8(120), i8(4)]),
    "to float, per column, bias": Case("MatMulIntegerToFloat", [A, Fixed(BI), f32(.02), Fixed(SCALES), u8(120), Fixed(ZEROS),
                                                                Fixed(r(6))]),
    "to float, no zero points": Case("MatMulIntegerToFloat", [A.view(i8), BI, f32(.02), f32(.03)]),
    "to float, scales of rows": Case("MatMulIntegerToFloat", [A, Fixed(B), Fixed(f32([[.1], [.2], [.3], [.4], [.5]])), f32(.03)]),
    "dynamic": Case("DynamicQuantizeMatMul", [X, Fixed(BI), f32(.03), i8(2), Fixed(r(6))]),
    "dynamic, per column": Case("DynamicQuantizeMatMul", [X, Fixed(BI), Fixed(SCALES), Fixed(ZEROS)]),
    "dynamic, no zero point": Case("DynamicQuantizeMatMul", [X, Fixed(BI), Fixed(f32([.03]))]),
    "16 bits": Case("MatMulInteger16", [q(3, 4, dtype=np.int16, most=200), q(4, 2, dtype=np.int16)]),
    "mul": Case("MulInteger", [A, u8(3), q(16), u8(200)]),
    "sum": Case("ReduceSumInteger", [q(2, 3, 4, dtype=i8)], {"axes": [1], "keepdims": 0}),
}
PRODUCTS["mul"].expected = [(A.astype(np.int32) - 3) * (PRODUCTS["mul"].operands[2].astype(np.int32) - 200)]  # no kernel in ort
PRODUCTS["sum"].expected = [PRODUCTS["sum"].operands[0].astype(np.int32).sum(1, dtype=np.int32)]

QUANTISED = {
    "to u16": Case("QuantizeLinear", [r(3, 4) * 3, f32(.001), np.uint16(30000)]),
    "to i16": Case("QuantizeLinear", [r(3, 4) * 3, f32(.001), np.int16(-5)]),
    "to u8, no zero point": Case("QuantizeLinear", [r(3, 4), f32(.01)]),
    "to i8, along an axis": Case("QuantizeLinear", [r(3, 4), Fixed(f32([.1, .01, .02, .03])), Fixed(i8([1, 2, 3, 4]))],
                                 {"axis": 1}),
    "to i8, along axis 0": Case("QuantizeLinear", [r(3, 4), Fixed(f32([.1, .01, .02])), Fixed(i8([1, 2, 3]))], {"axis": 0}),
    "saturated": Case("QuantizeLinear", [f32([-1e9, 1e9, 0.5, 1.5, 2.5, -0.5, 300]), f32(1), i8(3)]),
    "from i16": Case("DequantizeLinear", [q(3, 4, dtype=np.int16), f32(.001), np.int16(-5)]),
    "from u16": Case("DequantizeLinear", [q(3, 4, dtype=np.uint16), f32(.001), np.uint16(40000)]),
    "from i32": Case("DequantizeLinear", [q(3, 4, dtype=np.int32), f32(.001)]),
    "from u8, along an axis": Case("DequantizeLinear", [q(3, 4), Fixed(f32([.1, .01, .02, .03])), Fixed(u8([1, 2, 3, 4]))],
                                   {"axis": -1}),
}


def nbits(bits: int, depth: int, columns: int, block: int, zeros: str = "", bias: bool = False, groups: bool = False,
          x: np.ndarray | None = None) -> Case:
    blocks = -(-depth // block)
    width = -(-blocks * bits // 8)
    operands: list[Any] = [r(2, 3, depth) if x is None else x, Fixed(q(columns, blocks, block * bits // 8)),
                           Fixed(RNG.random(columns * blocks).astype(f32) * .1), None, None, None]
    if zeros:
        operands[3] = Fixed(q(columns * width)) if zeros == "packed" else Fixed(r(columns, blocks) + 7)
    if groups:
        operands[4] = Fixed(np.repeat(np.arange(blocks), block)[:depth][::-1].astype(np.int32).copy())
    if bias:
        operands[5] = Fixed(r(columns))
    return Case("MatMulNBits", operands, {"K": depth, "N": columns, "bits": bits, "block_size": block}, rtol=1e-3, atol=1e-3)


def gathered(data: Any, indices: np.ndarray, scales: np.ndarray, zeros: Any = None, **attrs: int) -> Case:
    return Case("GatherBlockQuantized", [Fixed(data), indices, Fixed(scales), zeros], attrs)


BLOCKS = {
    "4 bits": nbits(4, 32, 6, 16),
    "4 bits, ragged, zero points": nbits(4, 40, 5, 16, "packed"),
    "4 bits, float zero points, bias": nbits(4, 64, 5, 32, "float", bias=True),
    "8 bits": nbits(8, 48, 5, 16, "packed"),
    "2 bits": nbits(2, 64, 4, 16, "packed"),
    "4 bits, groups": nbits(4, 32, 6, 16, groups=True),
    "bytes of embeddings": gathered(q(10, 32), np.array([[1, 9, -1], [0, 3, 3]]), np.abs(r(10, 2)), Fixed(q(10, 2)), bits=8,
                                    block_size=16, gather_axis=0, quantize_axis=1),
    "nibbles of embeddings": gathered(q(10, 16), np.array([1, 9, 0], np.int32), np.abs(r(10, 2)), Fixed(q(10, 1)), bits=4,
                                      block_size=16, gather_axis=0, quantize_axis=1),
    "nibbles, no zero points": gathered(q(10, 16), np.array(4), np.abs(r(10, 2)), bits=4, block_size=16, gather_axis=0,
                                        quantize_axis=1),
}
BLOCKS |= {
    "4 bits of embeddings": gathered(q(10, 32).view(i8).astype(ml_dtypes.int4), np.array([1, 9, -1]), np.abs(r(10, 2)),
                                     Fixed(q(10, 2).astype(ml_dtypes.int4)), block_size=16, gather_axis=0, quantize_axis=1),
    "4 bits, unsigned, along another axis": gathered(q(32, 6).astype(ml_dtypes.uint4), np.array([[1, 5]]), np.abs(r(2, 6)),
                                                     block_size=16, gather_axis=1, quantize_axis=0),
}


@pytest.mark.parametrize("name", PRODUCTS | QUANTISED | BLOCKS)
def test_equals_onnxruntime(name: str) -> None:
    check((PRODUCTS | QUANTISED | BLOCKS)[name])


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("shape", [(16, 4), (20, 6)])
def test_bitsandbytes_weights(kind: int, shape: tuple[int, int]) -> None:
    depth, columns = shape
    case = Case("MatMulBnb4", [r(3, depth), Fixed(q(depth * columns // 2)), Fixed(np.abs(r(-(-depth * columns // 16))))],
                {"K": depth, "N": columns, "block_size": 16, "quant_type": kind})
    check(case)


def test_runs_in_kernels() -> None:
    kinds = {case.op: name for name, case in PRODUCTS.items()}
    some = {name: PRODUCTS[name] for name in kinds.values()}
    check_compiled(some | {k: QUANTISED[k] for k in ("to u16", "from i16")} |
                   {k: BLOCKS[k] for k in ("4 bits, ragged, zero points", "nibbles of embeddings", "4 bits of embeddings")})
