"""Elementwise ops: every one, in every dtype it takes, specials included."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from graphopt.ir.table import TABLE, Trait
from graphopt.ir.types import DTYPES
from tests.codegen.lower.lowering import check, random

DTYPE_NAMES = ["f32", "f16", "bf16", "f64", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "bool"]
SPECIAL_CASES = {"cast", "bitcast", "where"}
PLAIN = [(name, of) for name, d in TABLE.items() for of in DTYPE_NAMES
         if d.has(Trait.ELEMENTWISE) and name not in SPECIAL_CASES and d.operands
         and {p.type for p in d.operands} == {"T"} and of in d.constraints["T"]]


@pytest.mark.parametrize("name,of", PLAIN)
def test_op(name: str, of: str) -> None:
    rng = np.random.default_rng(len(name))
    integer_counts = name in ("shift_left", "shift_right", "pow") and DTYPES[of].is_integer
    if len(TABLE[name].operands) == 1:
        attrs = {"celu": {"alpha": 0.7}, "polygamma": {"n": 2}}.get(name, {})
        check(name, [random(rng, of, 3, 17, special=True)], **attrs)
        check(name, [random(rng, of, 2, 3, low=0.1, high=1)], **attrs)
        check(name, [random(rng, of)], **attrs)
        check(name, [random(rng, of, 2, 0)], **attrs)
        return
    a = random(rng, of, 3, 1, 17, special=True)
    b = random(rng, of, 5, 17, special=True)
    if integer_counts:
        b = random(rng, of, 5, 17, low=0, high=4)
        b[:, 0] = 100
    if name == "pow" and of == "f16":
        a, b = random(rng, of, 3, 1, 17), random(rng, of, 5, 17)
    check(name, [a, b])
    check(name, [random(rng, of, 4), random(rng, of, low=0, high=2) if integer_counts else random(rng, of)])
    check(name, [random(rng, of, 0, 3), random(rng, of, 1)])


@pytest.mark.parametrize("attrs", [{"approximate": "none"}, {"approximate": "tanh"}], ids=str)
def test_gelu(attrs: dict) -> None:
    check("gelu", [random(np.random.default_rng(0), "f32", 64, special=True)], **attrs)


def test_attributes() -> None:
    x = random(np.random.default_rng(0), "f32", 3, 20, special=True)
    check("softplus", [x], beta=2.5, threshold=3.0)
    check("softplus", [x], threshold=np.inf)
    check("isinf", [x], positive=False)
    check("isinf", [x], negative=False)
    check("isinf", [x], positive=False, negative=False)
    check("elu", [x], alpha=0.3)
    check("hard_sigmoid", [x], alpha=1 / 6, beta=0.5)


@pytest.mark.parametrize("of", ["f32", "f64"])
def test_floor_division_rounds_as_numpy(of: str) -> None:
    a = np.array([0.3, 1.0, 7.0, -7.0, 7.0, -7.0, 6.0, 0.0, 5.0, -5.0, 1e-3], of.replace("f", "float"))
    b = np.array([0.1, 0.1, 2.0, 2.0, -2.0, -2.0, 3.0, 3.0, np.inf, np.inf, -1.0], a.dtype)
    for name in ("floor_div", "mod", "fmod", "div"):
        check(name, [a, b])


@pytest.mark.parametrize("of", ["i8", "i32", "i64"])
def test_integer_division_never_traps(of: str) -> None:
    info = np.iinfo(DTYPES[of].numpy)
    a = np.array([info.min, info.min, 5, -5, 7, -7, 0], DTYPES[of].numpy)[:, None]
    b = np.array([0, -1, 1, 2, -2, info.min, info.max], DTYPES[of].numpy)
    for name in ("div", "floor_div", "mod", "fmod"):
        check(name, [a, b])


@pytest.mark.parametrize("to", DTYPE_NAMES)
@pytest.mark.parametrize("of", DTYPE_NAMES)
def test_cast(of: str, to: str) -> None:
    x = random(np.random.default_rng(7), of, 4, 9)
    if DTYPES[to].kind == "uint" and to == "u64":
        x = np.abs(x)
    check("cast", [x], to=to)
    if DTYPES[of].is_integer and not DTYPES[to].is_float:
        check("cast", [random(np.random.default_rng(7), of, 20, special=True)], to=to)


def test_cast_rounds_once_to_narrow_floats() -> None:
    x = np.array([1 + 2**-9, 1 + 3 * 2**-9, 65519.9, 65520, 1e-8, np.inf, np.nan, 3.0e38], np.float32)
    for to in ("f16", "bf16"):
        check("cast", [x], to=to)


@pytest.mark.parametrize("of", ["f32", "f16", "bf16", "f64"])
def test_nan_is_true(of: str) -> None:
    check("cast", [np.array([np.nan, 0, -0.0, np.inf, 1e-7]).astype(DTYPES[of].numpy)], to="bool")


@pytest.mark.parametrize("of,to", [("f32", "i32"), ("i32", "f32"), ("f16", "u16"), ("u16", "bf16"), ("i64", "f64"), ("i8", "u8"),
                                   ("f16", "bf16"), ("bool", "u8")])
def test_bitcast(of: str, to: str) -> None:
    check("bitcast", [random(np.random.default_rng(8), of, 3, 5)], to=to)


@pytest.mark.parametrize("of", DTYPE_NAMES)
def test_where(of: str) -> None:
    rng = np.random.default_rng(9)
    check("where", [rng.random((3, 1)) < 0.5, random(rng, of, 4), random(rng, of, 2, 1, 1)])


@pytest.mark.parametrize("exponent", [0.0, 0.5, -0.5, 1.0, 2.0, 3.0, 4.0, -1.0, 2.5])
def test_constant_exponents_keep_the_specials(exponent: float) -> None:
    from graphopt.codegen.lower.interpret import evaluate
    from graphopt.ir.evaluate import evaluate_op
    from graphopt.ir.graph import Graph
    from graphopt.ir.types import tensor

    x = random(np.random.default_rng(1), "f32", 40, special=True)
    graph = Graph()
    op = graph.add("pow", [graph.add_input(tensor("f32", 40)), graph.constant(np.float32(exponent))])
    got, want = evaluate(op, [x, None])[0], evaluate_op(op, [x, np.float32(exponent)])[0]
    np.testing.assert_allclose(got, want, rtol=3e-6)
    number = ~np.isnan(want)
    np.testing.assert_array_equal(np.signbit(got[number]), np.signbit(want[number]))


def test_narrow_floats_round_once_per_op() -> None:
    a = np.array([1.0, 256.0], ml_dtypes.bfloat16)
    check("add", [a, np.array([2**-9, 1.0], ml_dtypes.bfloat16)])
