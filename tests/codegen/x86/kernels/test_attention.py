"""Attention as one kernel, against torch in f64 and the definition in numpy: every remainder, mask, grouping and dtype."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import graphopt
from graphopt.codegen.lower.kernels import lower
from graphopt.codegen.lower.tuning import best_of
from graphopt.codegen.x86.costs import GENERIC
from graphopt.codegen.x86.kernels.attention.cut import MAX_KEYS, Problem, cuts
from graphopt.codegen.x86.kernels.blocking import tiles
from graphopt.codegen.x86.templates import style_of, templates_of
from graphopt.ir import Graph, Value, tensor
from graphopt.targets import parse_target
from graphopt.targets.x86 import X86
from tests.codegen.lower.lowering import random
from tests.codegen.x86.compiling import Batch, made_by

TARGETS = ["x86", "x86:haswell", "x86:x86-64"]
RNG = np.random.default_rng(11)


def of(*shape: int, dtype: str = "f32") -> np.ndarray:
    return random(RNG, dtype, *shape)


def expected(q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray | None, scale: float, causal: bool, softcap: float,
             empty: str) -> np.ndarray:
    """The definition, in f64."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    group = q.shape[1] // k.shape[1]
    k, v = (np.repeat(x, group, axis=1) for x in (k, v))
    with np.errstate(invalid="ignore"):
        scores = q @ k.swapaxes(-1, -2) * scale
    if softcap:
        scores = softcap * np.tanh(scores / softcap)
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask.astype(np.float64)
    if causal:
        scores = np.where(np.tri(*scores.shape[-2:]) > 0, scores, -np.inf)
    with np.errstate(invalid="ignore"):
        e = np.exp(scores - scores.max(axis=-1, keepdims=True))
        blind = (scores == -np.inf).all(axis=-1, keepdims=True)
        weights = np.where(blind, math.nan if empty == "nan" else 0, e / e.sum(axis=-1, keepdims=True))
    return weights @ v


def attend(batch: Batch, q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray | None = None, *, causal: bool = False,
           softcap: float = 0.0, empty: str = "zero", tolerance: float | None = None) -> Value:
    scale = 1 / math.sqrt(q.shape[-1])
    attrs: dict[str, Any] = {"scale": scale, "causal": causal, "softcap": softcap, "empty": empty}
    operands = [batch.input(x) for x in (q, k, v)] + [None if mask is None else batch.input(mask)]
    y = batch.b.op("attention", operands, attrs).result
    batch.give(y, expected(q, k, v, mask, **attrs), f"{q.shape} {k.shape} {v.shape} {mask is not None} {causal} {softcap}",
               tolerance)
    return y


SIZES = [(1, 1, 1, 1, 1, 1, 1), (1, 2, 2, 3, 7, 5, 3), (2, 3, 3, 17, 33, 64, 64), (1, 4, 2, 1, 100, 80, 16),
         (1, 6, 2, 5, 70, 33, 20), (1, 2, 1, 40, 41, 128, 48), (1, 1, 1, 200, 9, 20, 65)]


@pytest.mark.parametrize("target", TARGETS)
def test_sizes_that_divide_by_nothing(target: str) -> None:
    batch = Batch()
    for b, h, shared, s, length, d, dv in SIZES:
        attend(batch, of(b, h, s, d), of(b, shared, length, d), of(b, shared, length, dv))
    batch.check("attention", target=target, threads=2)


@pytest.mark.parametrize("target", TARGETS)
def test_several_blocks_of_keys(target: str) -> None:
    batch = Batch()
    length = MAX_KEYS + 37
    q, k, v = of(1, 2, 30, 24), of(1, 1, length, 24), of(1, 1, length, 40)
    seen = RNG.random((30, length)) < 0.5
    seen[:, :MAX_KEYS] &= np.arange(30)[:, None] % 2 == 0  # odd queries see nothing before the last block
    seen[4] = False
    attend(batch, q, k, v)
    attend(batch, q * 30, k, v, tolerance=1e-3)  # maxima that later blocks exceed by far; their rounding counts
    attend(batch, q, k, v, seen)
    attend(batch, q, k, v, np.where(seen, of(30, length), -np.inf).astype(np.float32), softcap=2.0)
    attend(batch, of(1, 2, length, 24), k, v, causal=True)
    batch.check("attention", target=target, threads=2)


@settings(max_examples=6)
@given(st.lists(st.tuples(*[st.integers(1, n) for n in (3, 3, 3, 45, 90, 70, 70)], st.booleans()), min_size=4, max_size=4),
       st.sampled_from(TARGETS), st.integers(1, 3))
def test_any_sizes(sizes: list[tuple[int, int, int, int, int, int, int, bool]], target: str, threads: int) -> None:
    batch = Batch()
    for b, group, shared, s, length, d, dv, causal in sizes:
        attend(batch, of(b, group * shared, s, d), of(b, shared, length, d), of(b, shared, length, dv), causal=causal)
    batch.check("attention", target=target, threads=threads)


@pytest.mark.parametrize("shape", [(9, 21), (1, 21), (9, 1), (2, 1, 1, 21), (3, 9, 21), (2, 3, 9, 21), (21,), ()])
def test_masks_broadcast(shape: tuple[int, ...]) -> None:
    batch = Batch()
    q, k, v = of(2, 3, 9, 16), of(2, 3, 21, 16), of(2, 3, 21, 8)
    for dtype in ("bool", "f32", "f16"):
        attend(batch, q, k, v, of(*shape, dtype=dtype) if shape else np.array(True))
    attend(batch, q, k, v, of(*shape, dtype="bool"), causal=True, softcap=1.5)
    batch.check("attention")


@pytest.mark.parametrize("empty", ["zero", "nan"])
@pytest.mark.parametrize("length", [21, MAX_KEYS + 30])
def test_a_query_that_sees_no_key(empty: str, length: int) -> None:
    batch = Batch()
    q, k, v = of(1, 2, 9, 16), of(1, 2, length, 16), of(1, 2, length, 8)
    seen = RNG.random((9, length)) < 0.3
    seen[[0, 5]] = False
    attend(batch, q, k, v, seen, empty=empty)
    attend(batch, q, k, v, np.where(seen, 0, -np.inf).astype(np.float32), empty=empty)
    attend(batch, q, k, v, np.where(seen, 0, np.finfo(np.float32).min).astype(np.float32), empty=empty)  # uniform, not empty
    batch.check("attention")


@pytest.mark.parametrize("length", [21, MAX_KEYS + 30])
def test_nan_and_infinity_reach_the_queries_that_see_them(length: int) -> None:
    batch = Batch()
    q, k, v = of(1, 1, 4, 16), of(1, 1, length, 16), of(1, 1, length, 8)
    q[0, 0, 1, 3] = np.nan
    k[0, 0, 2] = np.inf
    attend(batch, q, k, v)
    model = batch.check("attention")
    assert np.isnan(np.asarray(model(q, k, v))).all()
    large = Batch()
    attend(large, of(1, 1, 4, 16) * 1e4, of(1, 1, length, 16) * 1e4, v)  # exp of anything but the maximum vanishes
    large.check("attention")


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f64"])
def test_other_dtypes(dtype: str) -> None:
    batch = Batch()
    for s, length, d, dv in [(1, 40, 64, 64), (20, 33, 20, 30), (5, MAX_KEYS + 5, 16, 16)]:
        q, k, v = of(1, 4, s, d, dtype=dtype), of(1, 2, length, d, dtype=dtype), of(1, 2, length, dv, dtype=dtype)
        attend(batch, q, k, v)
        attend(batch, q, k, v, of(s, length, dtype=dtype), softcap=2.0)
    batch.check("attention")


def test_no_keys_and_no_queries() -> None:
    batch = Batch()
    attend(batch, of(1, 2, 0, 8), of(1, 2, 5, 8), of(1, 2, 5, 8))
    attend(batch, of(0, 2, 3, 8), of(0, 2, 5, 8), of(0, 2, 5, 8))
    y = batch.b.op("attention", [batch.input(of(1, 2, 3, 8)), *[batch.input(of(1, 2, 0, 8))] * 2], {"scale": 1.0}).result
    batch.give(y, np.zeros((1, 2, 3, 8)))
    batch.check()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("keys", ["as they are", "transposed", "repeated"])
def test_heads_of_a_projection_are_read_and_written_in_place(keys: str, target: str) -> None:
    """One kernel from [B, S, 3 H D] to [B, S, H D]."""
    b, s, h, d = 2, 37, 4, 24
    x = of(b, s, 3 * h * d)
    batch = Batch()
    build, given = batch.b, batch.input(x)
    parts = [build.slice(given, axes=[2], starts=[i * h * d], ends=[(i + 1) * h * d], steps=[1]) for i in range(3)]
    q, k, v = (build.transpose(build.reshape(p, shape=(b, s, h, d)), perm=(0, 2, 1, 3)) for p in parts)
    if keys == "transposed":
        given_keys = of(b, h, d, s)
        k = build.transpose(batch.input(given_keys), perm=(0, 1, 3, 2))
    if keys == "repeated":  # as transformers repeats the heads that a group shares
        pair = [build.reshape(build.slice(t, axes=[1], starts=[0], ends=[2], steps=[1]), shape=(b, 2, 1, s, d)) for t in (k, v)]
        k, v = (build.reshape(build.expand(t, shape=(b, 2, 2, s, d)), shape=(b, h, s, d)) for t in pair)
    y = build.op("attention", [q, k, v, None], {"scale": 0.3}).result
    merged = build.reshape(build.transpose(y, perm=(0, 2, 1, 3)), shape=(b, s, h * d))
    tq, tk, tv = (torch.from_numpy(p.reshape(b, s, h, d)).double().transpose(1, 2) for p in np.split(x, 3, axis=2))
    if keys == "transposed":
        tk = torch.from_numpy(given_keys).double().transpose(2, 3)
    if keys == "repeated":
        tk, tv = (t[:, :2].repeat_interleave(2, dim=1) for t in (tk, tv))
    want = torch.nn.functional.scaled_dot_product_attention(tq, tk, tv, scale=0.3).transpose(1, 2).reshape(b, s, h * d)
    batch.give(merged, want.numpy())
    model = batch.check("attention", target=target)
    assert model.stats["calls"] == 1 and not model.host_ops


def test_no_memory_for_the_scores() -> None:
    batch = Batch()
    attend(batch, of(1, 2, 1500, 16), of(1, 2, 1500, 16), of(1, 2, 1500, 16))
    model = batch.check("attention", threads=1)
    assert model.stats["arena_bytes"] < 1500 * 1500 * 4 // 8


def test_torchs_own_op() -> None:
    class Attend(torch.nn.Module):
        def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)

    q, k, v = (torch.randn(2, 3, 50, 40) for _ in range(3))
    model = graphopt.compile(Attend(), (q, k, v))
    assert made_by(model) == {"attention": 1}
    torch.testing.assert_close(model(q, k, v), Attend()(q.double(), k.double(), v.double()).float(), rtol=1e-5, atol=1e-5)


@given(st.integers(1, 300), st.integers(1, 3000), st.integers(1, 200), st.integers(1, 20), st.sampled_from(TARGETS),
       st.integers(1, 64))
@settings(max_examples=30)
def test_cuts_cover_everything(queries: int, keys: int, size: int, vectors: int, target: str, threads: int) -> None:
    machine = X86.named(target.partition(":")[2] or None)
    cut = best_of(cuts(Problem(12, queries, keys, size, vectors, 4), machine.lanes, machine, threads))[1]
    assert cut.keys % machine.lanes == 0 and cut.keys <= max(MAX_KEYS, machine.lanes)
    assert cut.queries % cut.tile == 0 and vectors % cut.value_vectors == 0 and cut.score_vectors * machine.lanes <= cut.keys
    assert any((t.rows, t.vectors) == (cut.tile, cut.value_vectors) for t in tiles(14, 400, machine.lanes, machine.registers))


def test_what_two_threads_write_lies_apart() -> None:
    g = Graph("g")
    q, k, v = (g.add_input(tensor("f32", 1, 4, 96, 64), n) for n in "qkv")
    g.outputs = [g.add("attention", [q, k, v, None], {"scale": 0.125, "causal": False, "softcap": 0.0, "empty": "zero"}).result]
    target = parse_target("x86", 2)
    low = lower(g.outputs[0].op, "k", style_of(target), templates_of(target))  # type: ignore[arg-type]
    transposed = next(b for b in low.scratch if b.name.startswith("keys"))
    assert transposed.size // 2 * 4 >= 96 * 64 * 4 + GENERIC.separate
    assert all(b.size // 2 * b.dtype.itemsize > GENERIC.separate for b in low.scratch)
