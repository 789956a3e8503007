"""Matmul and convolution through the register-blocked template: every remainder, layout, dtype and epilogue."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.codegen.lower.tuning import best_of
from graphopt.codegen.x86.kernels.tile import Tile, columns_of, result_tiles
from graphopt.ir import Value
from graphopt.targets.x86 import X86
from tests.codegen.lower.lowering import random
from tests.codegen.x86.compiling import Batch, made_by

TARGETS = ["x86", "x86:haswell", "x86:x86-64"]
RNG = np.random.default_rng(6)


def wide(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float64) if x.dtype.kind not in "iub" else x.astype(np.int64)


def tolerance(x: np.ndarray, depth: int) -> float | None:
    """Rounding of a sum of `depth` products, generously; None for the dtype's own where one rounding dominates."""
    return {np.dtype(np.float32): 2e-6 * max(depth, 8), np.dtype(np.float64): 1e-13 * max(depth, 8)}.get(x.dtype)


def matmul(batch: Batch, a: np.ndarray, b: np.ndarray, constant: bool) -> Value:
    right = batch.b.const(b) if constant else batch.input(b)
    y = batch.b.matmul(batch.input(a), right)
    batch.give(y, wide(a) @ wide(b), f"{a.shape} @ {b.shape}{' constant' if constant else ''}", tolerance(a, a.shape[-1]))
    return y


def conv(batch: Batch, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None = None, *, stride=1, pad=0, dilation=1, groups=1,
         constant: bool = True) -> Value:
    """A convolution held against torch's in f64; `pad` an int, or [before..., after...]."""
    n = x.ndim - 2
    stride, dilation = ([s] * n if isinstance(s, int) else s for s in (stride, dilation))
    pad = [pad] * (2 * n) if isinstance(pad, int) else pad
    wrap = batch.b.const if constant else batch.input
    y = batch.b.conv(batch.input(x), wrap(w), None if bias is None else wrap(bias), stride=stride, pad=pad, dilation=dilation,
                     groups=groups)
    tensors = [torch.from_numpy(wide(t)).double() if t is not None else None for t in (x, w, bias)]
    ends = [p for k in reversed(range(n)) for p in (pad[k], pad[n + k])]
    function = (torch.conv1d, torch.conv2d, torch.conv3d)[n - 1]
    want = function(torch.nn.functional.pad(tensors[0], ends), *tensors[1:], stride=stride, dilation=dilation, groups=groups)
    batch.give(y, want.numpy(), f"conv {x.shape} by {w.shape}, {stride} {pad} {dilation} {groups}", tolerance(x, w[0].size))
    return y


def of(*shape: int, dtype: str = "f32") -> np.ndarray:
    return random(RNG, dtype, *shape)


# Tiles
@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([4, 8, 16]), st.sampled_from(["avx2", "avx512f"]))
def test_tiles_fit_the_registers(m: int, n: int, lanes: int, feature: str) -> None:
    machine = X86("x86", "x86:a", "a", frozenset((feature,)))
    tile = best_of(result_tiles(m, n, lanes, machine))[1]
    assert tile.rows <= m and tile.rows * tile.vectors + tile.vectors + 1 <= max(machine.registers, 3)


@given(st.integers(1, 400), st.integers(1, 4), st.sampled_from([4, 8, 16]))
def test_panels_cover_every_column(n: int, vectors: int, lanes: int) -> None:
    tile = Tile(1, min(vectors, -(-n // lanes)), lanes)
    columns = columns_of(n, tile)
    assert set(columns[columns >= 0].tolist()) == set(range(n)) and columns.max() < n


# Matmul
@settings(max_examples=8)
@given(st.lists(st.tuples(*[st.integers(1, 70)] * 3, st.booleans()), min_size=6, max_size=6), st.sampled_from(TARGETS))
def test_matmul_of_any_sizes(sizes: list[tuple[int, int, int, bool]], target: str) -> None:
    batch = Batch()
    for m, n, k, constant in sizes:
        matmul(batch, of(m, k), of(k, n), constant)
    batch.check(target=target, threads=1)


@pytest.mark.parametrize("target", TARGETS)
def test_matmul_at_the_borders_of_tiles(target: str) -> None:
    batch = Batch()
    for m, n, k in [(1, 1, 1), (1, 1, 100), (1, 64, 33), (7, 16, 1), (6, 17, 3), (13, 63, 5), (14, 64, 8), (15, 65, 9),
                    (3, 3, 50), (33, 2, 40), (2, 129, 7)]:
        for constant in (True, False):
            matmul(batch, of(m, k), of(k, n), constant)
    batch.check("matmul", beside=["generic"], target=target)


@pytest.mark.parametrize("target", TARGETS)
def test_matmul_of_one_row_by_every_number_of_vectors(target: str) -> None:
    """Their loops take several steps at once, in sums of their own: depths around those, and infinities that meet none."""
    batch = Batch()
    for n in (5, 16, 40, 72, 100, 127, 129):
        for k in (1, 2, 3, 4, 11, 12, 13, 23, 24, 25, 47, 49, 130):
            matmul(batch, of(1, k), of(k, n), True)
    wide = of(1, 50)
    wide[0, ::7] = [np.inf, 1, -1, np.nan, 2, 3, -np.inf, 4]
    for n in (9, 33, 128):
        b = of(50, n)
        b[0, : n // 2] = 0
        with np.errstate(invalid="ignore"):
            matmul(batch, wide[:, ::-1].copy(), b, True)
    batch.check("matmul", beside=["generic"], target=target, threads=1)


def test_matmul_broadcasts_batches() -> None:
    batch = Batch()
    for a, b in [((3, 4, 5, 9), (9, 20)), ((5, 9), (3, 9, 20)), ((3, 1, 5, 9), (4, 9, 17)), ((1, 5, 9), (3, 9, 33)),
                 ((2, 3, 1, 9), (9, 18)), ((2, 3, 5, 9), (2, 1, 9, 16)), ((4, 5, 9), (4, 9, 1))]:
        for constant in (True, False):
            matmul(batch, of(*a), of(*b), constant)
    batch.check("matmul", beside=["generic"], threads=2)


@pytest.mark.parametrize("dtype", ["f64", "f16", "bf16", "i8", "i32", "i64", "u8"])
def test_matmul_in_other_dtypes(dtype: str) -> None:
    batch = Batch()
    for m, n, k in [(5, 33, 19), (1, 17, 40), (20, 3, 8)]:
        for constant in (True, False):
            matmul(batch, of(m, k, dtype=dtype), of(k, n, dtype=dtype), constant)
    batch.check("generic" if dtype in ("i8", "u8") else "matmul", beside=["generic"])  # few columns are no vectors


def test_large_matmul_is_shared_between_threads() -> None:
    for threads in (2, 3):
        batch = Batch()
        for m, n, k in [(100, 200, 300), (1, 1000, 300), (500, 33, 70)]:
            matmul(batch, of(m, k), of(k, n), True)
            matmul(batch, of(m, k), of(k, n), False)
        batch.check("matmul", threads=threads)


def test_matmul_of_transposed_operands() -> None:
    batch = Batch()
    a, b = of(19, 6), of(33, 19)
    y = batch.b.matmul(batch.b.transpose(batch.input(a), perm=[1, 0]), batch.b.transpose(batch.input(b), perm=[1, 0]))
    batch.give(y, wide(a).T @ wide(b).T)
    y = batch.b.matmul(batch.b.transpose(batch.input(a), perm=[1, 0]), batch.b.transpose(batch.b.const(b), perm=[1, 0]))
    batch.give(y, wide(a).T @ wide(b).T)
    batch.check("matmul", beside=["transpose"])


def test_infinities_and_nan_stay_where_they_are() -> None:
    batch = Batch()
    a, b = of(5, 9), of(9, 40)
    a[2, 3] = np.inf
    b[1, 7] = np.nan
    for constant in (True, False):
        matmul(batch, a, b, constant)
    batch.check("matmul", beside=["generic"])


# Epilogues
def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + torch.erf(torch.from_numpy(x / np.sqrt(2))).numpy())


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def test_epilogues_of_matmul() -> None:
    batch = Batch()
    b = batch.b
    for m, n, k in [(7, 50, 20), (1, 10, 33), (14, 64, 16)]:
        a, w, bias, residual, scale = of(m, k), of(k, n), of(n), of(m, n), of(m, 1)
        x, y = batch.input(a), batch.b.const(w)
        product, want = b.matmul(x, y), wide(a) @ wide(w)
        batch.give(b.gelu(b.add(product, b.const(bias))), gelu(want + bias))
        product = b.matmul(x, y)
        batch.give(b.silu(b.add(b.mul(product, batch.input(scale)), batch.input(residual))), silu(want * scale + residual))
        product = b.matmul(x, y)
        batch.give(b.relu(b.sub(b.const(np.float32(1)), product)), np.maximum(1 - want, 0))
        product = b.matmul(x, batch.input(w))
        batch.give(b.cast(b.maximum(b.minimum(product, 2.0), -2.0), to="f16"), np.clip(want, -2, 2))
        product = b.matmul(x, y)  # used twice, inside and outside
        batch.give(product, want)
        batch.give(b.tanh(product), np.tanh(want))
    batch.check("matmul", beside=["generic"])


def test_epilogues_of_convolution() -> None:
    batch = Batch()
    b = batch.b
    for co, size, pad in [(10, 9, 1), (3, 5, 0), (33, 3, 1)]:
        x, w = of(2, 6, size, size), of(co, 6, 3, 3)
        want = torch.conv2d(*(torch.from_numpy(t).double() for t in (x, w)), padding=pad).numpy()
        per_channel, residual, per_column = of(co, 1, 1), of(*want.shape), of(want.shape[-1])
        make = partial(b.conv, batch.input(x), b.const(w), stride=[1, 1], pad=[pad] * 4, dilation=[1, 1], groups=1)
        batch.give(b.relu(b.add(make(), batch.input(residual))), np.maximum(want + residual, 0))
        batch.give(b.silu(b.mul(make(), batch.input(per_channel))), silu(want * per_channel))
        batch.give(b.add(b.gelu(make()), batch.input(per_column)), gelu(want) + per_column)
        batch.give(b.hard_swish(b.add(make(), make())), 2 * want * np.clip(2 * want / 6 + 0.5, 0, 1))
    batch.check()


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_narrow_floats_round_between_ops_of_an_epilogue(dtype: str) -> None:
    batch = Batch()
    a, w, c = of(5, 20, dtype=dtype), of(20, 33, dtype=dtype), of(33, dtype=dtype)
    batch.give(batch.b.relu(batch.b.add(batch.b.matmul(batch.input(a), batch.b.const(w)), batch.b.const(c))))
    batch.check("matmul", beside=["generic"])


# Convolution
@settings(max_examples=8)
@given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 40), st.integers(1, 12), st.integers(1, 18), st.integers(1, 3),
                          st.integers(1, 2), st.booleans()), min_size=5, max_size=5), st.sampled_from(TARGETS))
def test_convolution_of_any_sizes(sizes: list[tuple[int, int, int, int, int, int, bool]], target: str) -> None:
    batch = Batch()
    for ci, co, h, w, k, s, constant in sizes:
        conv(batch, of(1, ci, h, w), of(co, ci, k, k), of(co), stride=s, pad=k // 2, constant=constant)
    batch.check(target=target, threads=1)


@pytest.mark.parametrize("target", TARGETS)
def test_convolutions(target: str) -> None:
    batch = Batch()
    conv(batch, of(2, 3, 11, 13), of(17, 3, 3, 3), of(17), pad=[1, 0, 2, 3])
    conv(batch, of(1, 4, 9, 9), of(6, 4, 3, 3), dilation=2, pad=2)
    conv(batch, of(1, 4, 12, 9), of(6, 4, 3, 2), dilation=[3, 1], stride=[2, 3], pad=[0, 1, 4, 0])
    conv(batch, of(2, 8, 7, 7), of(12, 2, 3, 3), of(12), groups=4, pad=1)
    conv(batch, of(1, 9, 10, 10), of(9, 1, 3, 3), of(9), groups=9, pad=1)
    conv(batch, of(1, 5, 10, 33), of(10, 1, 5, 3), groups=5, stride=2, pad=[2, 1, 2, 1])
    conv(batch, of(2, 33, 6, 6), of(20, 33, 1, 1), of(20))
    conv(batch, of(1, 20, 9, 9), of(7, 20, 1, 1), stride=2)
    conv(batch, of(1, 20, 1, 1), of(50, 20, 1, 1))
    conv(batch, of(1, 6, 2, 2), of(5, 6, 3, 3), pad=1)
    conv(batch, of(1, 16, 3, 3), of(1, 16, 3, 3))
    conv(batch, of(2, 3, 40), of(8, 3, 7), of(8), stride=2, pad=3)
    conv(batch, of(2, 4, 30), of(4, 1, 3), groups=4, dilation=4, pad=[8, 0])
    conv(batch, of(1, 3, 5, 6, 7), of(6, 3, 3, 1, 2), of(6), stride=[1, 2, 1], pad=[1, 0, 1, 1, 0, 0])
    conv(batch, of(1, 4, 4, 4, 4), of(8, 2, 2, 2, 2), groups=2)
    conv(batch, of(1, 5, 8, 8), of(9, 5, 3, 3), of(9), pad=1, constant=False)
    conv(batch, of(1, 6, 8, 8), of(4, 3, 3, 3), groups=2, constant=False)
    assert made_by(batch.check(target=target))["conv.row_major"] > 0


def test_deep_convolutions_are_blocked() -> None:
    """A panel of all channels would not fit the cache: partial sums are kept between blocks of them."""
    for threads in (1, 2, 3):
        batch = Batch()
        conv(batch, of(1, 700, 9, 9), of(19, 700, 3, 3), of(19), pad=1)
        conv(batch, of(1, 1100, 2, 2), of(40, 1100, 3, 3), pad=1)
        batch.check(threads=threads)


@pytest.mark.parametrize("dtype", ["f64", "f16", "bf16", "i8", "i32", "i64"])
def test_convolution_in_other_dtypes(dtype: str) -> None:
    batch = Batch()
    conv(batch, of(1, 5, 9, 9, dtype=dtype), of(11, 5, 3, 3, dtype=dtype), pad=1)
    conv(batch, of(1, 6, 9, 9, dtype=dtype), of(6, 1, 3, 3, dtype=dtype), groups=6)
    conv(batch, of(1, 16, 6, 6, dtype=dtype), of(20, 16, 1, 1, dtype=dtype))
    assert (made_by(batch.check())["conv.row_major"] > 0) == (dtype != "i8")


def test_negative_pads_crop() -> None:
    batch = Batch()
    conv(batch, of(1, 3, 12, 12), of(5, 3, 3, 3), pad=[-1, -2, 0, -1])
    batch.check()


def test_nothing_to_convolve() -> None:
    batch = Batch()
    conv(batch, np.zeros((0, 3, 5, 5), np.float32), of(4, 3, 3, 3))
    matmul(batch, np.zeros((0, 5), np.float32), of(5, 6), True)
    matmul(batch, of(3, 5), np.zeros((5, 0), np.float32), False)
    batch.check()
