"""cast and bitcast against ONNX's reference, its tables, torch, and Python's struct."""

import struct

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from graphopt.errors import EvaluationError, IRError
from graphopt.ir import DTYPES, dtype
from tests.ir.one_op import graph_of, run_op, same

pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered in cast")
ONNX = {
    "bool": "BOOL", "i2": "INT2", "i4": "INT4", "i8": "INT8", "i16": "INT16", "i32": "INT32", "i64": "INT64", "u2": "UINT2",
    "u4": "UINT4", "u8": "UINT8", "u16": "UINT16", "u32": "UINT32", "u64": "UINT64", "f4e2m1": "FLOAT4E2M1",
    "f8e4m3fn": "FLOAT8E4M3FN", "f8e4m3fnuz": "FLOAT8E4M3FNUZ", "f8e5m2": "FLOAT8E5M2", "f8e5m2fnuz": "FLOAT8E5M2FNUZ",
    "f8e8m0": "FLOAT8E8M0", "f16": "FLOAT16", "bf16": "BFLOAT16", "f32": "FLOAT", "f64": "DOUBLE",
}
F8 = ["f8e4m3fn", "f8e4m3fnuz", "f8e5m2", "f8e5m2fnuz"]


def onnx_cast(x: np.ndarray, to: str) -> np.ndarray:
    of, to_type = (getattr(onnx.TensorProto, ONNX[str(d)]) for d in (dtype(x.dtype), to))
    node = onnx.helper.make_node("Cast", ["x"], ["y"], to=to_type)
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph([node], "g", [info("x", of, None)], [info("y", to_type, None)])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 25)])
    return ReferenceEvaluator(model).run(None, {"x": x})[0]


def of_dtype(values, d) -> np.ndarray:
    wide = np.array(values, np.float32)
    return wide.astype(np.int8).astype(d.numpy) if d.is_integer and d.bits < 8 else wide.astype(d.numpy)


@pytest.mark.parametrize("of", ONNX)
@pytest.mark.parametrize("to", ONNX)
def test_values_that_both_have_convert_as_in_onnx(of, to):
    values = [0, 1] if {"u2", "i2"} & {of, to} else [0, 1, 2, 3, 6, 4]
    x = of_dtype([v for v in values if v or of != "f8e8m0"], DTYPES[of])  # which has no zero
    narrow = max(DTYPES[of].bits, DTYPES[to].bits) <= 8  # onnx's reference converts few of these into each other
    same(run_op("cast", x, to=to), onnx_cast(onnx_cast(x, "f32") if narrow and of != to else x, to))


@pytest.mark.parametrize("to", [d for d in DTYPES.values() if d.is_integer], ids=str)
def test_integers_keep_their_low_bits(to):
    values = [0, 1, -1, 127, 128, 255, 256, -129, 2**31, 2**62 + 5, -(2**63)]
    got = run_op("cast", np.array(values, np.int64), to=to)
    mask = 2**to.bits - 1
    assert [int(v) & mask for v in got] == [v & mask for v in values]
    assert all(int(v) <= mask >> (to.kind == "int") for v in got)


def test_floats_truncate_towards_zero():
    x = np.array([0.9, -0.9, 1.5, -1.5, 2.5, 6.99, -6.99])
    for of in (np.float64, np.float32, np.float16, ml_dtypes.bfloat16):
        for to in ("i4", "i8", "i32", "i64"):
            assert [int(v) for v in run_op("cast", x.astype(of), to=to)] == [int(float(v)) for v in x.astype(of)]


def test_to_bool_asks_whether_it_is_zero():
    x = np.float32([0, -0.0, 0.3, np.nan, -np.inf, 1e-45])
    np.testing.assert_array_equal(run_op("cast", x, to="bool"), [0, 0, 1, 1, 1, 1])
    np.testing.assert_array_equal(run_op("cast", np.array([0, 256, -1]), to="bool"), [0, 1, 1])


def test_floats_round_to_even_and_overflow_to_infinity():
    x = np.float32([1 + 2**-11, 1 + 3 * 2**-11, 65519, 65520, -1e30, np.nan])
    same(run_op("cast", x, to="f16"), torch.from_numpy(x).half().numpy())
    wanted = torch.from_numpy(x).bfloat16().view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    same(run_op("cast", x, to="bf16"), wanted)
    np.testing.assert_array_equal(run_op("cast", np.array([1e300, -1e300]), to="f32"), [np.inf, -np.inf])


@pytest.mark.parametrize("to", F8)
def test_f8_rounds_as_torch_does_in_range(to):
    limit = float(ml_dtypes.finfo(DTYPES[to].numpy).max)
    x = np.random.default_rng(0).uniform(-1, 1, 5000).astype(np.float32) * limit ** np.random.default_rng(1).uniform(-1, 1, 5000)
    x = np.clip(x, -limit, limit).astype(np.float32)
    wanted = torch.from_numpy(x).to(getattr(torch, f"float8_{to[2:]}")).float().numpy()
    np.testing.assert_array_equal(run_op("cast", x, to=to).astype(np.float32), wanted)
    same(run_op("cast", x, to=to, saturate=False), run_op("cast", x, to=to))


# The two tables of ONNX Cast for what lies outside; `max` stands for the largest finite value.
OUTSIDE = np.float32([np.nan, np.inf, -np.inf, 1e9, -1e9])
UNSATURATED = {"f8e4m3fn": ["nan"] * 5, "f8e4m3fnuz": ["nan"] * 5, "f8e5m2": ["nan", "inf", "-inf", "inf", "-inf"],
               "f8e5m2fnuz": ["nan"] * 5}


@pytest.mark.parametrize("to", F8)
@pytest.mark.parametrize("of", ["f32", "f16", "bf16", "f64"])
def test_f8_outside_its_range(to, of):
    limit = float(ml_dtypes.finfo(DTYPES[to].numpy).max)
    x = OUTSIDE.astype(DTYPES[of].numpy)
    np.testing.assert_array_equal(run_op("cast", x, to=to).astype(np.float64), [np.nan, limit, -limit, limit, -limit])
    wanted = [float(v) for v in UNSATURATED[to]]
    np.testing.assert_array_equal(run_op("cast", x, to=to, saturate=False).astype(np.float64), wanted)


def test_f4_clamps():
    x = np.float32([0.2, 0.3, 5, 5.1, 100, -np.inf, np.inf, np.nan])
    np.testing.assert_array_equal(run_op("cast", x, to="f4e2m1").astype(np.float32), [0, 0.5, 4, 6, 6, -6, 6, 0])


E8M0 = [  # x, nearest, up, down
    (1.0, 1, 1, 1), (1.4, 1, 2, 1), (1.5, 2, 2, 1), (1.6, 2, 2, 1), (0.124, 0.125, 0.125, 0.0625),
    (3e38, 2.0**127, 2.0**127, 2.0**127),
    (0.0, 2.0**-127, 2.0**-127, 2.0**-127), (np.inf, 2.0**127, 2.0**127, 2.0**127), (np.nan, np.nan, np.nan, np.nan),
]


def test_f8e8m0_rounds_as_asked():
    x = np.float32([row[0] for row in E8M0])
    for column, rounding in enumerate(("nearest", "up", "down"), 1):
        got = run_op("cast", x, to="f8e8m0", rounding=rounding).astype(np.float64)
        np.testing.assert_array_equal(got, [row[column] for row in E8M0], rounding)


def test_f8e8m0_without_saturation_gives_nan():
    got = run_op("cast", np.float32([0, np.inf, 3e38, 2.0**127]), to="f8e8m0", saturate=False).astype(np.float64)
    np.testing.assert_array_equal(got, [np.nan, np.nan, np.nan, 2.0**127])


def test_numbers_become_strings_and_come_back():
    x = np.float32([0.1, -3.5, 1e10, np.inf, -np.inf, np.nan])
    text = run_op("cast", x, to="str")
    assert list(text) == ["0.1", "-3.5", "1e+10", "inf", "-inf", "nan"]
    same(run_op("cast", text, to="f32"), x)
    big = np.array([[2**63 - 1, -(2**63)]])
    assert run_op("cast", big, to="str").tolist() == [["9223372036854775807", "-9223372036854775808"]]
    same(run_op("cast", run_op("cast", big, to="str"), to="i64"), big)


def test_strings_are_read_in_every_notation():
    x = np.array(["3.14", "1e-5", "+INF", "-inf", "NaN", " 1000 ", "-0"], object)
    np.testing.assert_array_equal(run_op("cast", x, to="f64"), [3.14, 1e-5, np.inf, -np.inf, np.nan, 1000, 0])
    np.testing.assert_array_equal(run_op("cast", np.array(["100.5", "-7"], object), to="i32"), [100, -7])
    np.testing.assert_array_equal(run_op("cast", np.array(["0", "2"], object), to="bool"), [False, True])
    with pytest.raises(EvaluationError, match=r"^cast.*: cannot cast a string to i64: .*'one'"):
        run_op("cast", np.array("one", object), to="i64")


def test_shapes_are_kept():
    for shape in [(), (1,), (0, 3), (2, 3, 5)]:
        for to in ("i4", "bf16", "str", "f8e8m0", "bool"):
            assert run_op("cast", np.ones(shape, np.float32), to=to).shape == shape


def test_rounding_must_have_a_name_that_is_known():
    with pytest.raises(IRError, match=r"^cast: rounding must be one of nearest, up, down, got 'even'"):
        graph_of("cast", (np.zeros(1),), {"to": "f32", "rounding": "even"})


@given(st.lists(st.integers(0, 2**32 - 1), max_size=5))
def test_bitcast_reads_the_same_bytes(bits):
    raw = struct.pack(f"<{len(bits)}I", *bits)
    x = np.array(bits, np.uint32)
    for to, code in (("i32", "i"), ("f32", "f")):
        got = run_op("bitcast", x, to=to)
        assert got.tobytes() == raw
        same(got, np.array(struct.unpack(f"<{len(bits)}{code}", raw), got.dtype) if to == "i32" else got)
        same(run_op("bitcast", got, to="u32"), x)


def test_bitcast_of_narrow_dtypes():
    x = np.arange(-8, 8).astype(np.int8).astype(ml_dtypes.int4)
    assert [int(v) for v in run_op("bitcast", x, to="u4")] == [v & 15 for v in range(-8, 8)]
    same(run_op("bitcast", run_op("bitcast", x, to="u4"), to="i4"), x)
    assert run_op("bitcast", np.float16(1.5), to="bf16").shape == ()


def test_bitcast_to_another_width_is_refused():
    with pytest.raises(IRError, match=r"^bitcast: f32 and f16 differ in width"):
        graph_of("bitcast", (np.zeros(1, np.float32),), {"to": "f16"})
