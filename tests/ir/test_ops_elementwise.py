"""Elementwise ops against torch in float64, Python's integers, and ONNX's reference."""

import ml_dtypes
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.errors import IRError
from graphopt.ir import DTYPES, TABLE, Trait, dtype
from graphopt.ir.ops.numeric import erf
from tests.ir.one_op import graph_of, run_op, same

RNG = np.random.default_rng(0)
SPECIAL = [0.0, -0.0, np.nan, np.inf, -np.inf, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 1e-30, -1e-30, 1e30, -1e30, 3.0, -3.0]
WIDE = np.concatenate([RNG.normal(size=200) * 3, RNG.uniform(-1, 1, 50), SPECIAL])
INTS = [d for d in DTYPES.values() if d.is_integer]
BYTES = [d for d in INTS if d.bits >= 8]
HALVES = [np.float16, ml_dtypes.bfloat16]

UNARY = {
    "neg": torch.neg, "abs": torch.abs, "reciprocal": torch.reciprocal, "floor": torch.floor, "ceil": torch.ceil,
    "round": torch.round, "trunc": torch.trunc, "sqrt": torch.sqrt, "rsqrt": torch.rsqrt, "exp": torch.exp, "log": torch.log,
    "log1p": torch.log1p, "expm1": torch.expm1, "sin": torch.sin, "cos": torch.cos, "tan": torch.tan, "asin": torch.asin,
    "acos": torch.acos, "atan": torch.atan, "sinh": torch.sinh, "cosh": torch.cosh, "tanh": torch.tanh, "asinh": torch.asinh,
    "acosh": torch.acosh, "atanh": torch.atanh, "erf": torch.erf, "sigmoid": torch.sigmoid, "relu": torch.relu,
    "silu": F.silu, "mish": F.mish, "softsign": F.softsign, "hard_swish": F.hardswish,
}
WITH_ATTRS = [
    ("gelu", {"approximate": "none"}, lambda x: F.gelu(x)),
    ("gelu", {"approximate": "tanh"}, lambda x: F.gelu(x, approximate="tanh")),
    ("softplus", {"beta": 1.0, "threshold": 20.0}, F.softplus),
    ("softplus", {"beta": 0.5, "threshold": 1.0}, lambda x: F.softplus(x, 0.5, 1.0)),
    ("elu", {"alpha": 0.7}, lambda x: F.elu(x, 0.7)),
    ("celu", {"alpha": 0.7}, lambda x: F.celu(x, 0.7)),
    ("selu", {}, F.selu),
    ("leaky_relu", {"alpha": 0.25}, lambda x: F.leaky_relu(x, 0.25)),
    ("hard_sigmoid", {"alpha": 1 / 6, "beta": 0.5}, F.hardsigmoid),
]


pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered in cast")


def eager(f, x: np.ndarray) -> np.ndarray:
    return f(torch.from_numpy(np.asarray(x, np.float64))).numpy()


# Unary --------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", UNARY)
def test_unary_agrees_with_torch(name):
    x = WIDE.astype(np.float32)
    np.testing.assert_allclose(run_op(name, WIDE), eager(UNARY[name], WIDE), rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(run_op(name, x), eager(UNARY[name], x).astype(np.float32), rtol=2.5e-7, atol=1e-44)


@pytest.mark.parametrize("name, attrs, f", WITH_ATTRS, ids=lambda p: p if isinstance(p, str) else "")
def test_unary_with_attributes_agrees_with_torch(name, attrs, f):
    x = WIDE.astype(np.float32)
    np.testing.assert_allclose(run_op(name, WIDE, **attrs), eager(f, WIDE), rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(run_op(name, x, **attrs), eager(f, x).astype(np.float32), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", [*UNARY, *dict.fromkeys(n for n, _, _ in WITH_ATTRS)])
@pytest.mark.parametrize("half", HALVES, ids=["f16", "bf16"])
def test_halves_round_once(name, half):
    x = WIDE.astype(half)
    attrs, f = next(((a, f) for n, a, f in WITH_ATTRS if n == name), ({}, UNARY.get(name)))
    wanted = eager(f, x.astype(np.float64)).astype(np.float32).astype(half)
    same(run_op(name, x, **attrs), wanted)


@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (17,), (3, 1, 5)])
def test_shapes_are_kept(shape):
    x = RNG.normal(size=shape).astype(np.float32)
    np.testing.assert_array_equal(run_op("exp", x), np.exp(x.astype(np.float64)).astype(np.float32))


def test_round_goes_to_even():
    np.testing.assert_array_equal(run_op("round", np.float32([0.5, 1.5, 2.5, -0.5, -1.5, 2.4999])), [0, 2, 2, -0.0, -2, 2])


def test_erf_is_odd_and_exact_near_zero():
    x = np.array([1e-300, 1e-20, 1e-8, 0.0078125, 0.5, 1, 2, 5.9, 6, 7, np.inf, np.nan])
    wanted = torch.erf(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(erf(x), wanted, rtol=1e-14)
    np.testing.assert_array_equal(erf(-x), -erf(x))
    assert np.signbit(erf(np.array(-0.0)))


def test_sign():
    np.testing.assert_array_equal(run_op("sign", np.float32([-3, -0.0, 0, 2, np.nan, -np.inf])), [-1, 0, 0, 1, np.nan, -1])
    np.testing.assert_array_equal(run_op("sign", np.int8([-128, 0, 5])), [-1, 0, 1])


def test_isnan_and_isinf():
    x = np.float32([0, np.nan, np.inf, -np.inf])
    np.testing.assert_array_equal(run_op("isnan", x), [False, True, False, False])
    np.testing.assert_array_equal(run_op("isinf", x), [False, False, True, True])
    np.testing.assert_array_equal(run_op("isinf", x, positive=False), [False, False, False, True])
    np.testing.assert_array_equal(run_op("isinf", x.astype(ml_dtypes.bfloat16), negative=False), [False, False, True, False])


@pytest.mark.parametrize("of", INTS, ids=str)
def test_integer_neg_abs_relu_and_bit_not(of):
    low, high = limits(of)
    values = [v for v in (low, low + 1, -1, 0, 1, high) if low <= v <= high]
    x = integers(values, of)
    for name, f in {"neg": lambda v: -v, "abs": abs, "relu": lambda v: max(v, 0), "bit_not": lambda v: ~v}.items():
        assert exact(run_op(name, x)) == [wrap(f(v), of) for v in values], name


# Integer arithmetic against Python's --------------------------------------------------------
def limits(of) -> tuple[int, int]:
    return (-(2 ** (of.bits - 1)), 2 ** (of.bits - 1) - 1) if of.kind == "int" else (0, 2**of.bits - 1)


def wrap(v: int, of) -> int:
    v &= 2**of.bits - 1
    return v - 2**of.bits if of.kind == "int" and v >> (of.bits - 1) else v


def integers(values, of) -> np.ndarray:
    if of.bits < 8:
        return np.array(values, np.int8).astype(of.numpy)
    return np.array(values, of.numpy)


def exact(x: np.ndarray) -> list[int]:
    return [int(v) for v in x]


def truncated(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


INTEGER_OPS = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b,
    "div": lambda a, b: truncated(a, b) if b else 0, "floor_div": lambda a, b: a // b if b else 0,
    "mod": lambda a, b: a % b if b else 0, "fmod": lambda a, b: a - b * truncated(a, b) if b else 0,
    "maximum": max, "minimum": min, "bit_and": lambda a, b: a & b, "bit_or": lambda a, b: a | b, "bit_xor": lambda a, b: a ^ b,
}


@pytest.mark.parametrize("name", INTEGER_OPS)
@settings(max_examples=40)
@given(data=st.data())
def test_integer_arithmetic_is_exact_and_wraps(name, data):
    of = data.draw(st.sampled_from(INTS))
    low, high = limits(of)
    pick = st.one_of(st.sampled_from([low, high, 0, 1, high // 2]), st.integers(low, high))
    pairs = data.draw(st.lists(st.tuples(pick, pick), min_size=1, max_size=6))
    a, b = (integers(v, of) for v in zip(*pairs))
    assert exact(run_op(name, a, b)) == [wrap(INTEGER_OPS[name](x, y), of) for x, y in pairs]


@settings(max_examples=60)
@given(of=st.sampled_from(BYTES), data=st.data())
def test_shifts(of, data):
    a = data.draw(st.integers(*limits(of)))
    b = data.draw(st.integers(0, min(of.bits + 3, limits(of)[1])))
    assert exact(run_op("shift_left", integers([a], of), integers([b], of))) == [wrap(a << b, of)]
    assert exact(run_op("shift_right", integers([a], of), integers([b], of))) == [a >> b]


@settings(max_examples=60)
@given(of=st.sampled_from(BYTES), data=st.data())
def test_integer_powers(of, data):
    a, b = data.draw(st.integers(*limits(of))), data.draw(st.integers(max(-3, limits(of)[0]), 9))
    wanted = a**b if b >= 0 else truncated(1, a**-b) if a else 0
    assert exact(run_op("pow", integers([a], of), integers([b], of))) == [wrap(wanted, of)]


# Binary on floats ---------------------------------------------------------------------------
FLOAT_OPS = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "pow": torch.pow, "maximum": torch.maximum,
    "minimum": torch.minimum, "atan2": torch.atan2, "fmod": torch.fmod,
}


@pytest.mark.parametrize("name", FLOAT_OPS)
@pytest.mark.parametrize("of", [np.float64, np.float32, *HALVES], ids=["f64", "f32", "f16", "bf16"])
def test_float_arithmetic_agrees_with_torch(name, of):
    a, b = (np.array(np.meshgrid(SPECIAL, SPECIAL)).reshape(2, -1)).astype(of)
    wanted = FLOAT_OPS[name](torch.from_numpy(a.astype(np.float64)), torch.from_numpy(b.astype(np.float64))).numpy()
    np.testing.assert_allclose(run_op(name, a, b).astype(np.float64), wanted.astype(np.float32).astype(of).astype(np.float64)
                               if of != np.float64 else wanted, rtol=1e-6)


FINITE = st.floats(-100, 100, width=32).map(np.float32)


@settings(max_examples=100)
@given(a=FINITE, b=FINITE.filter(lambda v: abs(v) > 1e-3))
def test_float_remainders_have_the_sign_they_say(a, b):
    mod, fmod, floor = (float(run_op(n, np.array([a]), np.array([b]))[0]) for n in ("mod", "fmod", "floor_div"))
    assert mod == 0 or (mod < 0) == (b < 0)
    assert fmod == 0 or (fmod < 0) == (a < 0)
    assert abs(mod) <= abs(b) and abs(fmod) < abs(b) and floor == np.floor(floor)
    assert floor * float(b) + mod == pytest.approx(float(a), abs=1e-3)
    assert fmod == float(np.float32(np.fmod(np.float64(a), np.float64(b))))


def test_nan_propagates_through_maximum_and_minimum():
    for of in (np.float32, *HALVES):
        a, b = np.array([1, np.nan, np.nan]).astype(of), np.array([np.nan, 2, np.nan]).astype(of)
        assert np.isnan(run_op("maximum", a, b).astype(np.float32)).all()
        assert np.isnan(run_op("minimum", a, b).astype(np.float32)).all()


@pytest.mark.parametrize("name, f", [("equal", torch.eq), ("not_equal", torch.ne), ("less", torch.lt), ("less_equal", torch.le),
                                     ("greater", torch.gt), ("greater_equal", torch.ge)])
def test_comparisons(name, f):
    a, b = np.array(np.meshgrid(SPECIAL, SPECIAL)).reshape(2, -1).astype(np.float32)
    wanted = f(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    np.testing.assert_array_equal(run_op(name, a, b), wanted)
    np.testing.assert_array_equal(run_op(name, a.astype(ml_dtypes.bfloat16), b.astype(ml_dtypes.bfloat16)), wanted)
    big = np.array([2**53, 2**53 + 1, -(2**63)], np.int64)
    np.testing.assert_array_equal(run_op(name, big, big[::-1].copy()),
                                  f(torch.from_numpy(big), torch.from_numpy(big[::-1].copy())).numpy())


def test_strings_and_bools_compare_for_equality():
    np.testing.assert_array_equal(run_op("equal", np.array(["a", "b", ""], object), np.array(["a", "B", ""], object)), [1, 0, 1])
    np.testing.assert_array_equal(run_op("not_equal", np.array([True, False]), np.array([True, True])), [False, True])
    assert run_op("equal", np.array("a", object), np.array("a", object)).shape == ()


@pytest.mark.parametrize("name, table", [("and", [0, 0, 0, 1]), ("or", [0, 1, 1, 1]), ("xor", [0, 1, 1, 0])])
def test_logic(name, table):
    a, b = np.array([False, False, True, True]), np.array([False, True, False, True])
    np.testing.assert_array_equal(run_op(name, a, b), np.array(table, bool))
    np.testing.assert_array_equal(run_op("not", a), ~a)


# Broadcasting and choice --------------------------------------------------------------------
SHAPES = [((3, 1, 5), (4, 1)), ((), (3,)), ((1,), (0,)), ((2, 1), (1, 7)), ((1, 1), (2, 3, 4)), ((5, 0, 1), (1, 3))]


@pytest.mark.parametrize("a, b", SHAPES)
def test_operands_broadcast(a, b):
    x, y = RNG.integers(-9, 9, a), RNG.integers(-9, 9, b)
    np.testing.assert_array_equal(run_op("sub", x, y), x - y)
    np.testing.assert_array_equal(run_op("sub", y, x), y - x)
    cond = RNG.random(a) < 0.5
    np.testing.assert_array_equal(run_op("where", cond, y, x), np.where(cond, y, x))


@pytest.mark.parametrize("of", DTYPES.values(), ids=str)
def test_where_takes_any_dtype(of):
    a, b = (np.array(v).astype(of.numpy) if of.kind != "str" else np.array([str(x) for x in v], object) for v in ([1, 0], [0, 1]))
    got = run_op("where", np.array([True, False]), a, b)
    assert got.dtype == of.numpy and list(got) == [a[0], b[1]]


def test_prelu():
    x, slope = RNG.normal(size=(2, 3, 5)).astype(np.float32), RNG.normal(size=(3, 1)).astype(np.float32)
    wanted = F.prelu(torch.from_numpy(x), torch.from_numpy(slope[:, 0])).numpy()
    np.testing.assert_array_equal(run_op("prelu", x, slope), wanted)


def test_what_does_not_fit_is_refused_with_the_op_named():
    with pytest.raises(IRError, match="do not broadcast"):
        graph_of("add", (np.zeros((2, 3)), np.zeros((2, 4))), {})
    with pytest.raises(IRError, match=r"^add: .*is f64, but T is f32"):
        graph_of("add", (np.zeros(3, np.float32), np.zeros(3)), {})
    with pytest.raises(IRError, match=r"^exp: operand x cannot be i64"):
        graph_of("exp", (np.zeros(3, np.int64),), {})
    with pytest.raises(IRError, match=r"^gelu: .*none.*tanh"):
        graph_of("gelu", (np.zeros(3),), {"approximate": "sigmoid"})


def test_commuting_ops_commute():
    pairs = {"bool": [True, False], "int": [6, -3], "float": [0.5, -3.25]}
    for name, definition in TABLE.items():
        if definition.has(Trait.COMMUTATIVE) and definition.evaluate.__module__.endswith("elementwise"):
            kinds = {DTYPES[d].kind for d in definition.constraints["T"]}
            a, b = (np.array([v]) for v in next(pairs[k] for k in ("float", "int", "bool") if k in kinds))
            np.testing.assert_array_equal(run_op(name, a, b), run_op(name, b, a), name)


def test_every_op_accepts_every_dtype_it_lists():
    for name, definition in TABLE.items():
        if not definition.evaluate.__module__.endswith("elementwise") or name == "where":
            continue
        for d in definition.constraints.get("T", ()):
            ones = np.array([1, 0, 1]).astype(dtype(d).numpy) if d != "str" else np.array(["1", "", "1"], object)
            run_op(name, *[ones] * len(definition.operands))
