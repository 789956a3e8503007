"""Schedules through the whole compiler: loops over every kind of shape give what the reference gives."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest

from graphopt.codegen.kernel.expr import Apply, postorder
from graphopt.codegen.kernel.loops import Store, statements
from graphopt.codegen.lower.kernels import lower
from graphopt.codegen.lower.schedule import Style
from tests.codegen.lower.lowering import make, random
from tests.codegen.x86.compiling import Batch

RNG = np.random.default_rng(5)
SIZES = (1, 7, 15, 16, 17, 33, 100)
FLOATS = ("f32", "f64", "f16", "bf16")
DTYPES = (*FLOATS, "i8", "i32", "i64", "u8", "bool")


# Elementwise
def broadcasting_patterns(rank: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Pairs of shapes: each axis whole on both sides, one on the left, one on the right, or one on both."""
    full = (3, 5, 17)[3 - rank:]
    pairs = []
    for marks in itertools.product("=<>1", repeat=rank):
        a = tuple(1 if m in "<1" else n for m, n in zip(marks, full))
        b = tuple(1 if m in ">1" else n for m, n in zip(marks, full))
        pairs.append((a, b))
    return pairs


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_every_broadcasting_pattern(rank: int) -> None:
    batch = Batch()
    for a, b in broadcasting_patterns(rank):
        x, y = random(RNG, "f32", *a), random(RNG, "f32", *b)
        batch.give(batch.b.sub(batch.input(x), batch.input(y)), x - y, f"{a} - {b}")
    batch.check()


def test_broadcasting_of_different_ranks_and_of_three_operands() -> None:
    batch = Batch()
    shapes = [((), (4, 17)), ((17,), (3, 4, 17)), ((4, 1), (3, 1, 17)), ((), ()), ((2, 1, 1, 5), (3, 1))]
    for a, b in shapes:
        x, y = random(RNG, "f32", *a), random(RNG, "f32", *b)
        batch.give(batch.b.mul(batch.input(x), batch.input(y)), x * y, f"{a} * {b}")
    c, x, y = RNG.random((5, 1)) < 0.5, random(RNG, "f32", 3, 1, 9), random(RNG, "f32", 9)
    batch.give(batch.b.where(batch.input(c), batch.input(x), batch.input(y)), np.where(c, x, y))
    batch.check()


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("of", DTYPES)
def test_elementwise_of_every_size_and_dtype(of: str) -> None:
    batch = Batch()
    for n in (*SIZES, 0):
        x, y = random(RNG, of, n, special=True), random(RNG, of, n)
        a, b = batch.input(x), batch.input(y)
        if of == "bool":
            batch.give(batch.b.xor(a, b), x ^ y)
            batch.give(batch.b.not_(a), ~x)
        else:
            batch.give(batch.b.maximum(batch.b.add(a, b), b))
            batch.give(batch.b.less(a, b), x < y)
        batch.give(batch.b.where(batch.b.equal(a, b), a, b), np.where(x == y, x, y))
    batch.check()


def test_large_arrays_are_shared_between_threads() -> None:
    x, y = random(RNG, "f32", 3, 70001), random(RNG, "f32", 40, 300, 17)
    for threads in (1, 2, 3):
        batch = Batch()
        a, b = batch.input(x), batch.input(y)
        batch.give(batch.b.tanh(a), np.tanh(x.astype(np.float64)))
        batch.give(batch.b.relu(batch.b.neg(b)), np.maximum(-y, 0))
        batch.give(batch.b.reduce_sum(b, axes=[0]), y.astype(np.float64).sum(0), tolerance=1e-4)
        batch.give(batch.b.reduce_mean(a, axes=[1]), x.astype(np.float64).mean(1), tolerance=1e-5)
        batch.give(batch.b.softmax(b, axis=1))
        batch.check(threads=threads)


def test_zero_size_dims() -> None:
    batch = Batch()
    x = np.zeros((3, 0, 5), np.float32)
    a = batch.input(x)
    batch.give(batch.b.exp(a), np.exp(x))
    batch.give(batch.b.reduce_sum(a, axes=[1]), np.zeros((3, 5)))
    batch.give(batch.b.reduce_max(a, axes=[1]), np.full((3, 5), -np.inf))
    batch.give(batch.b.reduce_min(a, axes=[1]), np.full((3, 5), np.inf))
    batch.give(batch.b.reduce_prod(a, axes=[1, 2]), np.ones(3))
    batch.give(batch.b.reduce_sum(a, axes=[0]), np.zeros((0, 5)))
    batch.give(batch.b.softmax(a, axis=1), x)
    batch.give(batch.b.concat(a, batch.input(np.ones((3, 2, 5), np.float32)), axis=1), np.ones((3, 2, 5)))
    left, right = batch.input(np.ones((4, 0), np.float32)), batch.input(np.ones((0, 6), np.float32))
    batch.give(batch.b.matmul(left, right), np.zeros((4, 6)))
    batch.give(batch.b.add(a, batch.input(np.ones((1, 5), np.float32))), x)
    batch.check()


# Reductions
SUBSETS = [axes for k in range(5) for axes in itertools.combinations(range(4), k)]


@pytest.mark.parametrize("kind", ["sum", "max", "mean"])
def test_reductions_over_every_subset_of_axes(kind: str) -> None:
    batch = Batch()
    x = random(RNG, "f32", 2, 7, 3, 17)
    a = batch.input(x)
    for axes in SUBSETS:
        want = getattr(x.astype(np.float64), kind)(axis=axes) if axes else x
        batch.give(getattr(batch.b, f"reduce_{kind}")(a, axes=axes), want, f"{kind} over {axes}")
    batch.give(getattr(batch.b, f"reduce_{kind}")(a, axes=[1, 3], keepdims=True),
               getattr(x.astype(np.float64), kind)(axis=(1, 3), keepdims=True))
    batch.check()


@pytest.mark.parametrize("of", DTYPES)
def test_reductions_of_every_size_and_dtype(of: str) -> None:
    batch = Batch()
    for n in SIZES:
        a = batch.input(random(RNG, of, 3, n))
        if of == "bool":
            batch.give(batch.b.reduce_any(a, axes=[1]))
            batch.give(batch.b.reduce_all(a, axes=[0]))
            continue
        for kind in ("sum", "max", "min"):
            for axis in (0, 1):
                batch.give(getattr(batch.b, f"reduce_{kind}")(a, axes=[axis]), what=f"{kind} over {axis} of {n}")
        batch.give(batch.b.argmax(a, axis=1))
    batch.check()


@pytest.mark.parametrize("of", FLOATS)
def test_rows_of_every_size(of: str) -> None:
    """softmax and the norms: several passes over a row, one kernel."""
    batch = Batch()
    for n in SIZES:
        x = random(RNG, of, 3, n)
        a = batch.input(x)
        e = np.exp(x.astype(np.float64) - x.astype(np.float64).max(1, keepdims=True))
        batch.give(batch.b.softmax(a, axis=1), e / e.sum(1, keepdims=True))
        wide = x.astype(np.float64)
        centred = wide - wide.mean(1, keepdims=True)
        batch.give(batch.b.layer_norm(a, axis=1, eps=1e-2), centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-2))
    batch.check()


def test_softmax_and_norms_over_every_axis() -> None:
    batch = Batch()
    x = random(RNG, "f32", 2, 6, 5, 17)
    a = batch.input(x)
    wide = x.astype(np.float64)
    for axis in range(4):
        e = np.exp(wide)
        batch.give(batch.b.softmax(a, axis=axis), e / e.sum(axis, keepdims=True), f"softmax {axis}")
        batch.give(batch.b.log_softmax(a, axis=axis), np.log(e / e.sum(axis, keepdims=True)), f"log_softmax {axis}")
        rest = tuple(range(axis, 4))
        centred = wide - wide.mean(rest, keepdims=True)
        scale, bias = random(RNG, "f32", *x.shape[axis:]), random(RNG, "f32", *x.shape[axis:])
        norm = centred / np.sqrt((centred**2).mean(rest, keepdims=True) + 1e-5)
        batch.give(batch.b.layer_norm(a, batch.input(scale), batch.input(bias), axis=axis, eps=1e-5), norm * scale + bias)
        batch.give(batch.b.rms_norm(a, axis=axis, eps=1e-5), wide / np.sqrt((wide**2).mean(rest, keepdims=True) + 1e-5))
        batch.give(batch.b.cumsum(a, axis=axis), wide.cumsum(axis))
    for groups in (1, 2, 3, 6):
        g = wide.reshape(2, groups, -1)
        g = (g - g.mean(2, keepdims=True)) / np.sqrt(g.var(2, keepdims=True) + 1e-5)
        scale, bias = random(RNG, "f32", 6), random(RNG, "f32", 6)
        batch.give(batch.b.group_norm(a, batch.input(scale), batch.input(bias), groups=groups, eps=1e-5),
                   g.reshape(x.shape) * scale[:, None, None] + bias[:, None, None])
    batch.check()


def test_chains_are_fused_and_right() -> None:
    batch = Batch()
    x, r = random(RNG, "f32", 5, 33), random(RNG, "f32", 33)
    a, b = batch.input(x), batch.input(r)
    y = batch.b.mul(batch.b.sigmoid(batch.b.add(batch.b.mul(a, 2.0), b)), a)
    for _ in range(30):
        y = batch.b.add(batch.b.tanh(y), b)
    want = x.astype(np.float64)
    want = want / (1 + np.exp(-(want * 2 + r)))
    for _ in range(30):
        want = np.tanh(want) + r
    batch.give(y, want)
    model = batch.check()
    assert model.stats["calls"] == 1


def test_values_used_often_are_computed_once() -> None:
    """x <- x * x + x, forty times: as a tree this is 2**40 operations."""
    batch = Batch()
    x = RNG.uniform(-0.5, 0, 17)
    y = batch.input(x)
    for _ in range(40):
        y = batch.b.add(batch.b.mul(y, y), y)
        x = x * x + x
    batch.give(y, x)
    batch.check()


def test_movement_around_arithmetic() -> None:
    batch = Batch()
    x = random(RNG, "f32", 4, 6, 17)
    a = batch.input(x)
    t = batch.b.transpose(a, perm=[2, 0, 1])
    batch.give(batch.b.relu(t), np.maximum(x.transpose(2, 0, 1), 0))
    batch.give(batch.b.add(batch.b.reshape(t, shape=[17, 24]), 1.0), x.transpose(2, 0, 1).reshape(17, 24) + 1)
    batch.give(batch.b.flip(batch.b.abs(a), axes=[0, 2]), np.abs(x)[::-1, :, ::-1])
    batch.give(batch.b.pad(batch.b.neg(a), pads=[0, 1, 2, 0, 0, 3]), np.pad(-x, ((0, 0), (1, 0), (2, 3))))
    batch.give(batch.b.slice(a, axes=[2], starts=[15], ends=[1], steps=[-3]), x[:, :, 15:1:-3])
    batch.give(batch.b.concat(batch.b.exp(a), a, axis=1), np.concatenate([np.exp(x), x], 1))
    batch.give(batch.b.reduce_sum(batch.b.mul(batch.b.transpose(a, perm=[1, 0, 2]), 2.0), axes=[1]), 2 * x.sum(0))
    batch.check()


# Special values
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_transpositions_of_every_size() -> None:
    """Their loops are tiled where both axes are long enough; tiles overlap where they do not divide."""
    batch = Batch()
    for n, m in itertools.product((1, 8, 16, 31, 33, 130, 200), (1, 3, 17, 32, 130)):
        x, y = random(RNG, "f32", 2, n, m), random(RNG, "f32", 2, m, n)
        turned = batch.b.transpose(batch.input(x), perm=[0, 2, 1])
        batch.give(batch.b.sub(batch.input(y), turned), y - x.transpose(0, 2, 1), f"{n} by {m}")
    x = random(RNG, "f64", 3, 40, 5, 70)
    for perm in itertools.permutations(range(4)):
        batch.give(batch.b.neg(batch.b.transpose(batch.input(x), perm=list(perm))), -x.transpose(perm), f"{perm}")
    batch.check()


@pytest.mark.parametrize(("shape", "way"), [
    ((130, 33), "tiled"), ((17, 200), "tiled"), ((130, 3), "generic"), ((1, 200), "generic")])
def test_long_rows_that_become_columns_are_tiled(shape: tuple[int, int], way: str) -> None:
    op = make("transpose", [np.zeros(shape, np.float32)], perm=[1, 0])
    assert lower(op, "k", Style(lanes=16)).kernel.template == way


@pytest.mark.parametrize("of", FLOATS)
def test_nan_and_infinities_propagate(of: str) -> None:
    from graphopt.ir import dtype

    batch = Batch()
    values = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, np.nan]
    x = np.array(values * 5, dtype(of).numpy)
    y = np.array(sorted(values * 5, key=repr), dtype(of).numpy)
    a, b = batch.input(x), batch.input(y)
    batch.give(batch.b.relu(a), np.where(np.isnan(x), x, np.maximum(x, 0)))
    batch.give(batch.b.maximum(a, b), np.maximum(x, y))
    batch.give(batch.b.minimum(a, b), np.minimum(x, y))
    half = np.asarray(0.5, x.dtype)
    batch.give(batch.b.minimum(batch.b.maximum(a, -0.5), 0.5), np.minimum(np.maximum(x, -half), half))
    batch.give(batch.b.maximum(batch.b.minimum(0.5, a), -0.5))
    for f in ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal"):
        batch.give(getattr(batch.b, f)(a, b), getattr(np, f)(x, y), f)
        batch.give(batch.b.not_(getattr(batch.b, f)(a, b)), ~getattr(np, f)(x, y), f"not {f}")
        batch.give(batch.b.where(getattr(batch.b, f)(a, b), a, b), np.where(getattr(np, f)(x, y), x, y), f"where {f}")
    batch.give(batch.b.isnan(a), np.isnan(x))
    batch.give(batch.b.not_(batch.b.isnan(batch.b.sub(a, b))), ~np.isnan(x - y))
    for name in ("abs", "neg", "sign", "sqrt", "exp", "sigmoid", "tanh", "silu", "erf", "floor", "round"):
        batch.give(getattr(batch.b, name)(a), what=name)
    batch.check()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_arithmetic_that_is_true_of_numbers_only_is_not_simplified() -> None:
    batch = Batch()
    b = batch.b
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.5, -2.5, 1e-40, 3e38] * 4, np.float32)
    a, zero, inf, padded = batch.input(x), np.float32(0), np.float32(np.inf), np.pad(x, 1)
    for y, want in [(b.sub(a, a), x - x), (b.div(a, a), x / x), (b.mul(a, 0.0), x * zero), (b.div(0.0, a), zero / x),
                    (b.div(a, 0.0), x / zero), (b.div(a, -0.0), x / -zero), (b.sub(b.add(a, a), a), x + x - x),
                    (b.sub(b.add(a, 1.0), 1.0), x + np.float32(1) - np.float32(1)), (b.equal(a, a), x == x),
                    (b.not_equal(a, a), x != x), (b.less_equal(a, a), x <= x), (b.add(a, inf), x + inf),
                    (b.div(b.pad(a, pads=[1, 1]), 0.0), padded / zero), (b.div(0.0, b.pad(a, pads=[1, 1])), zero / padded)]:
        batch.give(y, want)
    batch.check()


def test_one_nan_in_a_reduction_shows() -> None:
    batch = Batch()
    for n in SIZES:
        for at in {0, n // 2, n - 1}:
            x = random(RNG, "f32", 2, n)
            x[0, at] = np.nan
            a = batch.input(x)
            batch.give(batch.b.reduce_max(a, axes=[1]), x.max(1), f"max {n} at {at}")
            batch.give(batch.b.reduce_min(a, axes=[1]), x.min(1), f"min {n} at {at}")
            batch.give(batch.b.reduce_sum(a, axes=[1]), x.sum(1))
    batch.check()


def test_denormals_and_signed_zeros_survive() -> None:
    batch = Batch()
    tiny = np.array([1e-45, -1e-45, 1e-40, -0.0, 0.0, np.finfo(np.float32).tiny] * 6, np.float32)
    half = np.array([6e-8, -6e-8, 1e-6, -0.0], np.float16)
    brain = np.array([1e-40, -1e-40, -0.0], ml_dtypes.bfloat16)
    for x in (tiny, half, brain):
        a = batch.input(x)
        batch.give(batch.b.add(a, 0.0), x + np.zeros((), x.dtype), tolerance=0)
        batch.give(batch.b.mul(a, 1.0), x, tolerance=0)
        batch.give(batch.b.div(a, 1.0), x, tolerance=0)
    a = batch.input(tiny)
    batch.give(batch.b.mul(batch.b.mul(a, 0.5), 2.0), tiny * np.float32(0.5) * np.float32(2), tolerance=0)
    batch.give(batch.b.greater(a, 0.0), tiny > 0)
    batch.give(batch.b.reciprocal(batch.b.neg(a)), tolerance=0)
    batch.give(batch.b.reduce_sum(batch.b.reshape(a, shape=[6, 6]), axes=[0]), tiny.reshape(6, 6).sum(0), tolerance=0)
    batch.check()


# Rows whose sum needs what their elements need
@pytest.mark.parametrize("target", ["x86", "x86:haswell", "x86:x86-64"])
def test_softmax_rows_of_every_remainder(target: str) -> None:
    batch = Batch()
    b = batch.b
    for n in (*SIZES, 31, 65, 197):
        x, mask = batch.input(random(RNG, "f32", 5, n)), batch.input(random(RNG, "f32", n))
        batch.give(b.softmax(x, axis=1))
        batch.give(b.mul(b.softmax(b.add(x, mask), axis=1), 3.0), what="masked and scaled")
        batch.give(b.log_softmax(x, axis=1))
    for dtype in ("f64", "f16"):
        batch.give(b.softmax(batch.input(random(RNG, dtype, 5, 37)), axis=1))
    batch.give(b.softmax(batch.input(random(RNG, "f32", 3, 19, 21)), axis=1), what="along an outer axis")
    batch.check(target=target)


def test_softmax_takes_each_exponential_once() -> None:
    op = make("softmax", [np.zeros((4, 16), np.float32)], axis=1)
    kernel = lower(op, "softmax", Style(lanes=16)).kernel  # rows of one vector: every further one is written out again
    exps = [node for s in statements(kernel.body) if isinstance(s, Store) for node in postorder(s.value)
            if isinstance(node, Apply) and node.kind == "exp"]
    assert len(exps) == 1
