"""Reductions along an outer axis, whose results every element of a column wants."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.codegen.kernel.expr import Apply, postorder
from graphopt.codegen.kernel.loops import For, Store, statements
from graphopt.codegen.lower.kernels import lower
from graphopt.codegen.lower.schedule import Style
from tests.codegen.lower.lowering import make, random
from tests.codegen.x86.compiling import Batch

RNG = np.random.default_rng(17)


@pytest.mark.parametrize("target", ["x86", "x86:haswell", "x86:x86-64"])
@pytest.mark.parametrize("threads", [1, 3])
def test_columns_of_every_remainder(target: str, threads: int) -> None:
    batch = Batch()
    b = batch.b
    for n in (1, 2, 3, 5, 8, 15, 16, 17, 33, 65, 131):
        x = random(RNG, "f32", 3, 37, n)
        wide = x.astype(np.float64)
        a, bias = batch.input(x), random(RNG, "f32", n)
        e = np.exp(wide - wide.max(1, keepdims=True))
        soft = e / e.sum(1, keepdims=True)
        batch.give(b.softmax(a, axis=1), soft, f"softmax, {n} columns")
        batch.give(b.log_softmax(a, axis=1), np.log(soft), f"log_softmax, {n} columns")
        batch.give(b.softmax(a, axis=0), np.exp(wide) / np.exp(wide).sum(0, keepdims=True), f"softmax over 0, {n} columns")
        batch.give(b.mul(b.softmax(b.add(a, batch.input(bias)), axis=1), 3.0), what="shifted and scaled")
        centred = wide - wide.mean(1, keepdims=True)
        batch.give(b.sub(a, b.reduce_mean(a, axes=[1], keepdims=True)), centred, f"centred, {n} columns")
        batch.give(b.sub(a, b.reduce_max(a, axes=[0, 1], keepdims=True)), wide - wide.max((0, 1)), f"below the largest, {n}")
    batch.check("columns", beside=["generic"], target=target, threads=threads)


def test_columns_of_other_dtypes_and_values() -> None:
    batch = Batch()
    b = batch.b
    for dtype in ("f64", "f16", "bf16"):
        batch.give(b.softmax(batch.input(random(RNG, dtype, 5, 19, 21)), axis=1), what=dtype)
    ints = random(RNG, "i32", 6, 33)
    batch.give(b.sub(batch.input(ints), b.reduce_sum(batch.input(ints), axes=[0], keepdims=True)), what="integers")
    odd = random(RNG, "f32", 7, 40)
    odd[2, 3], odd[3, 4], odd[:, 5] = np.nan, -np.inf, -np.inf
    batch.give(b.softmax(batch.input(odd), axis=0), what="NaN and infinities")
    batch.give(b.softmax(batch.input(np.zeros((0, 40), np.float32)), axis=0), what="nothing")
    batch.check("columns", beside=["generic"])


@pytest.mark.parametrize("shape", [(40, 64), (40, 49), (4, 40, 3, 5)])
def test_each_exponential_of_a_column_is_taken_once(shape: tuple[int, ...]) -> None:
    """No reduction is within a loop over elements of its own column, and none computes again what another one did."""
    axis = shape.index(40)
    kernel = lower(make("softmax", [np.zeros(shape, np.float32)], axis=axis), "softmax", Style(lanes=16)).kernel
    assert kernel.template == "columns"

    def deepest(s: object, depth: int = 0) -> int:
        if isinstance(s, For):
            long = getattr(s.extent, "value", 0) == 40
            return deepest(s.body, depth + long)
        inside = [c for c in statements(s) if c is not s] if not isinstance(s, Store) else []  # type: ignore[arg-type]
        return max([depth, *(deepest(c, depth) for c in inside)])

    assert deepest(kernel.body) == 1
    for s in statements(kernel.body):
        if isinstance(s, Store) and any(isinstance(node, Apply) and node.kind == "exp" for node in postorder(s.value)):
            assert s.buffer is kernel.params[-1]  # not into a sum: that takes what was stored
