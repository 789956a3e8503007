"""Reductions and scans against numpy in float64, torch, and Python's integers."""

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.errors import EvaluationError, IRError
from graphopt.ir import DTYPES, Builder, Graph, evaluate, tensor, verify
from graphopt.ir.table import DECOMPOSITIONS
from tests.ir.one_op import graph_of, run_op, same

RNG = np.random.default_rng(0)
FLOATS = {"sum": np.sum, "mean": np.mean, "prod": np.prod, "max": np.max, "min": np.min}
INTS = [d for d in DTYPES.values() if d.is_integer]


def wrap(v: int, of) -> int:
    v &= 2**of.bits - 1
    return v - 2**of.bits if of.kind == "int" and v >> (of.bits - 1) else v


@st.composite
def cases(draw):
    shape = draw(st.lists(st.integers(1, 4), max_size=4))
    axes = draw(st.lists(st.sampled_from(range(len(shape))), unique=True)) if shape else []
    return tuple(shape), axes, draw(st.booleans())


# Reductions ---------------------------------------------------------------------------------
@pytest.mark.parametrize("name", FLOATS)
@settings(max_examples=40)
@given(case=cases())
def test_float_reductions_agree_with_numpy_in_float64(name, case):
    shape, axes, keepdims = case
    x = RNG.normal(size=shape).astype(np.float32)
    wanted = FLOATS[name](x.astype(np.float64), axis=tuple(axes), keepdims=keepdims).astype(np.float32)
    same(run_op(f"reduce_{name}", x, axes=axes, keepdims=keepdims), wanted)


@pytest.mark.parametrize("half", [np.float16, ml_dtypes.bfloat16], ids=["f16", "bf16"])
def test_half_sums_are_rounded_once(half):
    x = np.full((4097,), 0.1).astype(half)
    wide = x.astype(np.float64)
    same(run_op("reduce_sum", x, axes=[0]), np.array(wide.sum(), np.float32).astype(half))
    same(run_op("reduce_mean", x, axes=[0]), np.array(wide.mean(), np.float32).astype(half))


def test_a_long_f32_sum_keeps_its_small_terms():
    x = np.concatenate([[1e8], np.full(10000, 1e-1)]).astype(np.float32)
    assert run_op("reduce_sum", x, axes=[0]) == np.float32(x.astype(np.float64).sum())


@pytest.mark.parametrize("of", INTS, ids=str)
@pytest.mark.parametrize("name, f", [("sum", sum), ("max", max), ("min", min)])
def test_integer_reductions_are_exact_and_wrap(of, name, f):
    bits = RNG.integers(0, 2**63, 23, dtype=np.uint64) & np.uint64(2**min(of.bits, 63) - 1)
    x = bits.astype(f"u{of.itemsize}").view(of.numpy) if of.bits >= 8 else bits.astype(np.int8).astype(of.numpy)
    assert int(run_op(f"reduce_{name}", x, axes=[0])) == wrap(f(int(v) for v in x), of)


def test_integer_products_wrap_and_means_truncate():
    assert int(run_op("reduce_prod", np.array([3, 100, -7], np.int8), axes=[0])) == wrap(-2100, DTYPES["i8"])
    assert int(run_op("reduce_mean", np.array([-3, 0, -4, 0], np.int32), axes=[0])) == -1
    assert int(run_op("reduce_mean", np.array([127, 127, 126], np.int8), axes=[0])) == 126
    assert int(run_op("reduce_mean", np.array([255, 255], np.uint8), axes=[0])) == 255
    assert int(run_op("reduce_mean", np.array([2**53 + 2, 2**53 + 4], np.uint64), axes=[0])) == 2**53 + 3


@pytest.mark.parametrize("name, f", [("max", np.max), ("min", np.min)])
def test_nan_comes_through_max_and_min(name, f):
    x = np.array([[1, np.nan, 3], [-np.inf, np.inf, 0]])
    for of in (np.float64, np.float32, np.float16, ml_dtypes.bfloat16):
        same(run_op(f"reduce_{name}", x.astype(of), axes=[1]), f(x, axis=1).astype(of))


def test_reductions_of_nothing():
    x = np.zeros((0, 2), np.float32)
    wanted = {"sum": 0, "prod": 1, "max": -np.inf, "min": np.inf, "mean": np.nan, "logsumexp": -np.inf}
    for name, v in wanted.items():
        same(run_op(f"reduce_{name}", x, axes=[0]), np.full(2, v, np.float32))
    same(run_op("reduce_max", x.astype(np.int8), axes=[0]), np.full(2, -128, np.int8))
    same(run_op("reduce_min", x.astype(np.uint16), axes=[0]), np.full(2, 65535, np.uint16))
    assert [int(v) for v in run_op("reduce_max", x.astype(ml_dtypes.int4), axes=[0])] == [-8, -8]
    same(run_op("reduce_any", x.astype(bool), axes=[0]), np.array([False, False]))
    same(run_op("reduce_all", x.astype(bool), axes=[0]), np.array([True, True]))


@settings(max_examples=20)
@given(case=cases())
def test_any_and_all(case):
    shape, axes, keepdims = case
    x = RNG.random(shape) < 0.5
    for name, f in (("any", np.any), ("all", np.all)):
        same(run_op(f"reduce_{name}", x, axes=axes, keepdims=keepdims), np.asarray(f(x, axis=tuple(axes), keepdims=keepdims)))


LOGSUMEXP = np.array([[1e3, 1e3, -1e3], [-np.inf, -np.inf, -np.inf], [np.inf, 0, 1], [np.nan, 0, 0], [0.1, -0.2, 0.3]])


@pytest.mark.parametrize("keepdims", [False, True])
def test_logsumexp(keepdims):
    wanted = torch.logsumexp(torch.from_numpy(LOGSUMEXP), 1, keepdim=keepdims).numpy()
    np.testing.assert_allclose(run_op("reduce_logsumexp", LOGSUMEXP, axes=[1], keepdims=keepdims), wanted, rtol=1e-14)


@pytest.mark.parametrize("of", ["f64", "f32", "f16", "bf16"])
@pytest.mark.parametrize("axes", [[], [1], [0, 1]])
@pytest.mark.parametrize("keepdims", [False, True])
def test_logsumexp_is_what_its_decomposition_says(of, axes, keepdims):
    x = LOGSUMEXP.astype(DTYPES[of].numpy)
    graph = Graph()
    value = graph.add_input(tensor(of, "N", 3))
    op = graph.add("reduce_logsumexp", [value], {"axes": axes, "keepdims": keepdims})
    graph.outputs = [op.result]
    before = evaluate(graph, [x])[0].astype(np.float64)
    op.replace_with(DECOMPOSITIONS["reduce_logsumexp"](Builder(graph, op), op))
    verify(graph)
    assert not any(o.name == "reduce_logsumexp" for o in graph.ops)
    np.testing.assert_allclose(evaluate(graph, [x])[0].astype(np.float64), before, rtol={"bf16": 1e-2, "f16": 1e-3}.get(of, 1e-6))


def test_bad_axes_are_refused():
    for axes in ([2], [-1], [0, 0]):
        with pytest.raises(IRError, match=r"^reduce_sum: axes .* within 0\.\.1"):
            graph_of("reduce_sum", (np.zeros((2, 3)),), {"axes": axes})


# argmax, argmin -----------------------------------------------------------------------------
@settings(max_examples=60)
@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=3), data=st.data())
def test_argmax_takes_the_first_of_equals_or_the_last(shape, data):
    axis, keepdims, last = data.draw(st.integers(0, len(shape) - 1)), data.draw(st.booleans()), data.draw(st.booleans())
    x = RNG.integers(0, 3, shape).astype(np.float32)
    for name, best in (("argmax", max), ("argmin", min)):
        def pick(row, best=best):
            row = row.tolist()
            return len(row) - 1 - row[::-1].index(best(row)) if last else row.index(best(row))
        wanted = np.apply_along_axis(pick, axis, x).astype(np.int64)
        wanted = np.expand_dims(wanted, axis) if keepdims else wanted
        same(run_op(name, x, axis=axis, keepdims=keepdims, select_last=last), wanted)


def test_argmax_of_nan_and_of_narrow_dtypes():
    x = torch.tensor([[1.0, float("nan"), 3, float("nan")], [0, 1, 1, -1]])
    for of in (np.float32, np.float16, ml_dtypes.bfloat16):
        same(run_op("argmax", x.numpy().astype(of), axis=1), x.argmax(1).numpy())
        same(run_op("argmin", x.numpy().astype(of), axis=1), x.argmin(1).numpy())
    same(run_op("argmax", np.array([-8, 7, 3]).astype(np.int8).astype(ml_dtypes.int4), axis=0), np.array(1))


def test_argmax_of_nothing_is_refused():
    with pytest.raises(IRError, match=r"^argmax: .*empty"):
        graph_of("argmax", (np.zeros((2, 0)),), {"axis": 1})
    assert run_op("argmax", np.zeros((0, 2)), axis=1).shape == (0,)
    graph = Graph()
    graph.outputs = [graph.add("argmax", [graph.add_input(tensor("f32", "N"))], {"axis": 0}).result]
    with pytest.raises(EvaluationError, match=r"^argmax"):
        evaluate(graph, [np.zeros(0, np.float32)])


# Scans --------------------------------------------------------------------------------------
@settings(max_examples=60)
@given(shape=st.lists(st.integers(0, 4), min_size=1, max_size=3), data=st.data())
def test_scans(shape, data):
    axis, exclusive, reverse = data.draw(st.integers(0, len(shape) - 1)), data.draw(st.booleans()), data.draw(st.booleans())
    x = RNG.integers(-3, 4, shape)
    for name in ("cumsum", "cumprod"):
        wanted = np.zeros(shape, np.int64)
        for i in range(shape[axis]):
            part = range(i + (not exclusive)) if not reverse else range(i + exclusive, shape[axis])
            taken = np.moveaxis(np.take(x, part, axis), axis, 0)
            row = np.full(taken.shape[1:], int(name == "cumprod"))
            for v in taken:
                row = row + v if name == "cumsum" else row * v
            wanted[(slice(None),) * axis + (i,)] = row
        for of in (np.int64, np.float32, np.float64):
            same(run_op(name, x.astype(of), axis=axis, exclusive=exclusive, reverse=reverse), wanted.astype(of))


def test_scans_of_integers_wrap_and_of_halves_round_once():
    x = np.full(40, 100, np.int8)
    same(run_op("cumsum", x, axis=0), torch.cumsum(torch.from_numpy(x), 0, dtype=torch.int8).numpy())
    y = np.full(3000, 0.1).astype(np.float16)
    same(run_op("cumsum", y, axis=0), np.cumsum(y.astype(np.float64)).astype(np.float16))
    assert run_op("cumprod", np.array([2, 3, 2]).astype(np.int8).astype(ml_dtypes.int4), axis=0).tolist() == [2, 6, -4]
    with pytest.raises(IRError, match=r"^cumsum: axis 1"):
        graph_of("cumsum", (x,), {"axis": 1})
