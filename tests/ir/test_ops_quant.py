"""quantize and dequantize against onnx's reference, onnxruntime and arithmetic by hand."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from graphopt.errors import IRError
from graphopt.ir import dtype
from tests.ir.one_op import run_op, same
from tests.ir.onnx_node import reference, runtime

RNG = np.random.default_rng(0)
INTEGERS = ["i8", "u8", "i16", "u16", "i4", "u4", "i2", "u2"]
FLOATS = ["f8e4m3fn", "f8e4m3fnuz", "f8e5m2", "f8e5m2fnuz", "f4e2m1"]


def integer_range(d):
    info = ml_dtypes.iinfo(d.numpy)
    return int(info.min), int(info.max)


def scale_of(shape, low=0.05, high=1.5, of=np.float32):
    return RNG.uniform(low, high, shape).astype(of)


def granularity(kind, shape):
    """(scale shape, axis, block)."""
    return {"tensor": ((), 1, 0), "one": ((1,), 1, 0), "axis": ((shape[1],), 1, 0),
            "block": ((shape[0], -(-shape[1] // 3), shape[2]), 1, 3)}[kind]


@pytest.mark.parametrize("to", INTEGERS + FLOATS)
@pytest.mark.parametrize("kind", ["tensor", "one", "axis", "block"])
@pytest.mark.parametrize("with_zero", [True, False])
def test_quantize_is_onnxs(to, kind, with_zero):
    shape = (2, 7, 3)
    x = (RNG.normal(size=shape) * 20).astype(np.float32)
    scale_shape, axis, block = granularity(kind, shape)
    scale = scale_of(scale_shape)
    d = dtype(to)
    zero = None
    if with_zero:
        zero = RNG.integers(*integer_range(d), scale_shape, endpoint=True).astype(d.numpy) if d.is_integer \
            else np.zeros(scale_shape, d.numpy)
    got = run_op("quantize", x, scale, zero, axis=axis, block=block, to=to)
    same(got, reference("QuantizeLinear", x, scale, zero, opset=25, axis=axis, block_size=block,
                        output_dtype=helper.np_dtype_to_tensor_dtype(d.numpy)))


@pytest.mark.parametrize("of", INTEGERS + FLOATS + ["i32"])
@pytest.mark.parametrize("kind", ["tensor", "one", "axis", "block"])
@pytest.mark.parametrize("to", ["f32", "f16", "bf16"])
def test_dequantize_is_onnxs(of, kind, to):
    shape = (2, 7, 3)
    d = dtype(of)
    low, high = integer_range(d) if d.is_integer else (-6, 6)
    x = RNG.integers(max(low, -40000), min(high, 40000), shape, endpoint=True).astype(d.numpy)
    scale_shape, axis, block = granularity(kind, shape)
    scale = scale_of(scale_shape)
    zero = RNG.integers(max(low, -99), min(high, 99), scale_shape, endpoint=True).astype(d.numpy) \
        if d.is_integer and of != "i32" else None
    got = run_op("dequantize", x, scale, zero, axis=axis, block=block, to=to)
    same(got, reference("DequantizeLinear", x, scale, zero, opset=25, axis=axis, block_size=block,
                        output_dtype=helper.np_dtype_to_tensor_dtype(dtype(to).numpy)))


@settings(max_examples=50)
@given(st.lists(st.floats(-300, 300, width=32), min_size=1, max_size=20), st.sampled_from([0.1, 0.5, 1.0, 3.0]),
       st.integers(-128, 127))
def test_quantize_is_onnxruntimes(values, scale, zero):
    x, s, z = np.array(values, np.float32), np.array(scale, np.float32), np.array(zero, np.int8)
    same(run_op("quantize", x, s, z, axis=0, to="i8", symbolic=False), runtime("QuantizeLinear", x, s, z, to=TensorProto.INT8))


def test_rounding_is_half_to_even_and_happens_before_the_zero_point():
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 126.5, 127.5], np.float32)
    same(run_op("quantize", x, np.float32(1), np.int8(1), axis=0, to="i8"), np.array([1, 3, 3, 1, -1, 127, 127], np.int8))


def test_what_is_not_finite_saturates_and_nan_is_the_zero_point():
    x = np.array([np.inf, -np.inf, np.nan, 1e30, -1e30], np.float32)
    same(run_op("quantize", x, np.float32(0.1), np.uint8(7), axis=0, to="u8"), np.array([255, 0, 7, 255, 0], np.uint8))


def test_a_float_target_saturates_or_overflows():
    x = np.array([1e6, -1e6, 1.0], np.float32)
    for saturate in (True, False):
        got = run_op("quantize", x, np.float32(1), axis=0, to="f8e5m2", saturate=saturate).astype(np.float32)
        same(got, np.array([57344, -57344, 1] if saturate else [np.inf, -np.inf, 1], np.float32))


def test_the_division_is_done_in_the_scales_precision():
    x, scale = np.array([2049.0], np.float32), np.array(1.0, np.float16)
    same(run_op("quantize", x, scale, axis=0, to="i16"), np.array([2048], np.int16))  # 2049 is no f16
    same(run_op("quantize", x, scale.astype(np.float32), axis=0, to="i16"), np.array([2049], np.int16))


def test_integer_input_and_power_of_two_scales():
    x = np.array([[6, -10, 100]], np.int32)
    same(run_op("quantize", x, np.float32(4), axis=1, to="i8"), np.array([[2, -2, 25]], np.int8))
    scale = np.array([0.5, 2, 4], np.float32).astype(ml_dtypes.float8_e8m0fnu)
    same(run_op("dequantize", x.astype(np.int8), scale, axis=1, to="f32"), np.array([[3, -20, 400]], np.float32))


@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (2, 0)])
def test_sizes_zero_and_one(shape):
    x = np.ones(shape, np.float32)
    scale = np.full(shape[1:], 0.5, np.float32)
    q = run_op("quantize", x, scale, axis=1, to="i8")
    same(q, np.full(shape, 2, np.int8))
    same(run_op("dequantize", q, scale, axis=1, to="f32"), x)


def test_scales_that_do_not_fit_are_refused():
    x = np.zeros((2, 6), np.float32)
    with pytest.raises(IRError, match=r"scale is f32\[5\].*scalar or \[6\]"):
        run_op("quantize", x, np.zeros(5, np.float32), axis=1, to="i8")
    with pytest.raises(IRError, match=r"scalar or \[2, 2\]"):
        run_op("quantize", x, np.zeros((2, 6), np.float32), axis=1, block=4, to="i8")
    with pytest.raises(IRError, match="zero_point is u8, but the result is i8"):
        run_op("quantize", x, np.float32(1), np.uint8(0), axis=1, to="i8")
