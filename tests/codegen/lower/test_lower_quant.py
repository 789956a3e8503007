"""Quantize and dequantize: the same integers as the reference, always."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.ir.types import dtype
from tests.codegen.lower.lowering import check, random

RNG = np.random.default_rng(61)


@pytest.mark.parametrize("of", ["f32", "f16", "bf16", "f64", "i32"])
@pytest.mark.parametrize("to", ["i8", "u8", "i16", "u16"])
def test_quantize(of: str, to: str) -> None:
    x = random(RNG, of, 4, 6, low=-60, high=60, special=of != "i32")
    scale_of = "f32" if of == "i32" else of
    scale = np.array(0.3, dtype(scale_of).numpy)
    zero = np.array(3, dtype(to).numpy)
    check("quantize", [x, scale], axis=0, to=to)
    check("quantize", [x, scale.reshape(1), zero.reshape(1)], axis=1, to=to)
    scales = random(RNG, scale_of, 6, low=0.1, high=2)
    check("quantize", [x, scales, random(RNG, to, 6, low=0)], axis=1, to=to)
    blocks = random(RNG, scale_of, 4, 2, low=0.1, high=2)
    check("quantize", [x, blocks, random(RNG, to, 4, 2, low=0)], axis=1, block=3, to=to)
    check("quantize", [x, blocks], axis=1, block=4, to=to)


def test_halves_go_to_even() -> None:
    x = np.arange(-9, 10, dtype=np.float32) / 2
    check("quantize", [x, np.float32(1)], axis=0, to="i8")
    check("quantize", [x, np.float16(1), np.uint8(7)], axis=0, to="u8")


@pytest.mark.parametrize("of", ["i8", "u8", "i16", "u16", "i32"])
@pytest.mark.parametrize("to", ["f32", "f16", "bf16", "f64"])
def test_dequantize(of: str, to: str) -> None:
    x = random(RNG, of, 4, 6, special=True)
    check("dequantize", [x, np.float32(0.3)], axis=0, to=to)
    scales = random(RNG, to, 6, low=0.1, high=2)
    check("dequantize", [x, scales, random(RNG, of, 6)], axis=1, to=to)
    check("dequantize", [x, random(RNG, to, 2, 6), random(RNG, of, 2, 6)], axis=0, block=2, to=to)
