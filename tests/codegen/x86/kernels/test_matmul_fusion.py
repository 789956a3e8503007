"""What is fused into matrix products: computed while rows are packed, stored at other places than the result's own."""

from __future__ import annotations

import numpy as np
import pytest

from tests.codegen.lower.lowering import random
from tests.codegen.x86.compiling import Batch

RNG = np.random.default_rng(17)
TARGETS = ["x86", "x86:haswell", "x86:x86-64"]


def of(*shape: int, dtype: str = "f32", special: bool = False) -> np.ndarray:
    return random(RNG, dtype, *shape, special=special)


def kernels(model: object) -> list[list[str]]:
    """The ops of each kernel of a compiled model, weights aside."""
    ops = [op for op in model.graph.ops if op.name != "const" and op.name != "reshape"]  # type: ignore[attr-defined]
    return [[o.name for o in op.regions[0].ops if o.name != "const"] if op.regions else [op.name] for op in ops]


def wide(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float64)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_elementwise_producers_are_computed_once_while_rows_are_packed(target: str, threads: int) -> None:
    batch = Batch()
    b = batch.b
    for m, k, n in [(1, 30, 40), (7, 33, 19), (40, 100, 50), (29, 512, 300), (130, 64, 200)]:
        x, scale, shift, w = of(m, k), of(k), of(k), of(k, n)
        y = b.relu(b.add(b.mul(batch.input(x), b.const(scale)), b.const(shift)))
        want = np.maximum(wide(x) * scale + shift, 0) @ wide(w)
        batch.give(b.matmul(y, b.const(w)), want, f"{m} {k} {n}", 1e-4 * k)
    model = batch.check("matmul", target=target, threads=threads)
    assert all(kernel == ["mul", "add", "relu", "matmul"] for kernel in kernels(model))


def test_a_producer_that_others_read_stays_a_kernel() -> None:
    batch = Batch()
    y = batch.b.exp(batch.input(of(5, 20)))
    batch.give(y)
    batch.give(batch.b.matmul(y, batch.b.const(of(20, 30))), tolerance=1e-3)
    assert ["exp"] in kernels(batch.check("matmul", beside=["generic"]))


def test_both_operands_from_one_producer() -> None:
    batch = Batch()
    y = batch.b.tanh(batch.input(of(20, 20)))
    batch.give(batch.b.matmul(y, y), tolerance=1e-4)
    batch.check("matmul", beside=["generic"])


@pytest.mark.parametrize("target", TARGETS)
def test_heads_are_merged_and_split_on_the_way(target: str) -> None:
    batch = Batch()
    b = batch.b
    for heads, length, width, n in [(4, 37, 16, 64), (3, 5, 7, 21), (2, 40, 33, 66), (1, 9, 8, 16)]:
        x, w, bias = of(2, heads, length, width), of(heads * width, n), of(n)
        rows = b.reshape(b.transpose(batch.input(x), perm=[0, 2, 1, 3]), shape=[2, length, heads * width])
        y = b.add(b.matmul(rows, b.const(w)), b.const(bias))
        per = n // heads
        split = b.transpose(b.reshape(y, shape=[2, length, heads, per]), perm=[0, 2, 1, 3])
        want = wide(x).transpose(0, 2, 1, 3).reshape(2, length, -1) @ wide(w) + bias
        batch.give(split, want.reshape(2, length, heads, per).transpose(0, 2, 1, 3), f"{heads} {length}", 1e-3)
    model = batch.check("matmul", target=target)
    assert all(k == ["transpose", "reshape", "matmul", "add", "reshape", "transpose"] for k in kernels(model)[:3])


@pytest.mark.parametrize("threads", [1, 2])
def test_results_are_stored_through_a_transpose_with_a_residual_behind_it(threads: int) -> None:
    batch = Batch()
    b = batch.b
    for h, w, k, c in [(5, 7, 20, 24), (9, 9, 33, 17), (14, 14, 64, 96)]:
        x, weight, bias, scale, residual = of(2, h, w, k), of(k, c), of(c), of(c, 1, 1), of(2, c, h, w)
        y = b.transpose(b.add(b.matmul(batch.input(x), b.const(weight)), b.const(bias)), perm=[0, 3, 1, 2])
        batch.give(b.add(b.mul(y, b.const(scale)), batch.input(residual)),
                   (wide(x) @ wide(weight) + bias).transpose(0, 3, 1, 2) * scale + residual, f"{h} {w} {k} {c}", 1e-3)
        back = b.transpose(b.tanh(y), perm=[0, 2, 3, 1])
        batch.give(back, np.tanh(wide(x) @ wide(weight) + bias), "", 1e-3)
    batch.check("matmul", beside=["generic", "transpose"], threads=threads)


def test_transposed_operands() -> None:
    batch = Batch()
    b = batch.b
    for m, k, n in [(20, 33, 40), (64, 16, 100), (17, 9, 16)]:
        x, y = of(3, m, k), of(3, n, k)
        turned = b.transpose(batch.input(y), perm=[0, 2, 1])
        batch.give(b.matmul(batch.input(x), turned), wide(x) @ wide(y).transpose(0, 2, 1), "", 1e-3)
        x, y = of(k, m), of(k, n)
        batch.give(b.matmul(b.transpose(batch.input(x), perm=[1, 0]), b.const(y)), wide(x).T @ wide(y), "", 1e-3)
    model = batch.check("matmul", beside=["generic"])
    assert all(k == ["transpose", "matmul"] for k in kernels(model))


def test_a_square_result_and_its_transpose_are_no_one_walk() -> None:
    batch = Batch()
    b = batch.b
    product = b.matmul(batch.input(of(20, 20)), b.const(of(20, 20)))
    batch.give(b.add(product, b.transpose(product, perm=[1, 0])), tolerance=1e-3)
    product = b.matmul(batch.input(of(20, 20)), b.const(of(20, 20)))
    turned = b.transpose(product, perm=[1, 0])
    batch.give(b.mul(b.add(turned, batch.input(of(20, 20))), turned), tolerance=1e-3)
    batch.check("matmul", beside=["generic", "tiled"])


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f64", "i32"])
def test_other_dtypes(dtype: str) -> None:
    batch = Batch()
    b = batch.b
    x, w = of(2, 3, 19, 8, dtype=dtype), of(24, 40, dtype=dtype)
    rows = b.reshape(b.transpose(b.relu(batch.input(x)), perm=[0, 2, 1, 3]), shape=[2, 19, 24])
    batch.give(b.transpose(b.matmul(rows, b.const(w)), perm=[0, 2, 1]), tolerance={"f16": 2e-2, "bf16": 0.2}.get(dtype))
    batch.check("matmul", beside=["generic"])


def test_nan_and_infinities_pass_through_packed_rows() -> None:
    batch = Batch()
    x = of(18, 40, special=True)
    batch.give(batch.b.matmul(batch.b.relu(batch.input(x)), batch.b.const(np.abs(of(40, 33)) + 1)), tolerance=1e-3)
    batch.check("matmul", beside=["generic"])


def test_nothing_to_multiply() -> None:
    batch = Batch()
    b = batch.b
    batch.give(b.matmul(b.relu(batch.input(np.zeros((0, 5), np.float32))), b.const(of(5, 20))))
    empty = b.matmul(batch.input(np.zeros((3, 0), np.float32)), b.const(np.zeros((0, 20), np.float32)))
    batch.give(b.transpose(empty, perm=[1, 0]))
    batch.check()


@pytest.mark.parametrize("k", [512, 1024, 3072])
def test_rows_at_aliasing_strides(k: int) -> None:
    batch = Batch()
    for m, n in [(14, 70), (27, 33), (60, 200)]:
        x, w = of(m, k), of(k, n)
        batch.give(batch.b.matmul(batch.input(x), batch.b.const(w)), wide(x) @ wide(w), f"{m} {k} {n}", 1e-5 * k)
    batch.check("matmul", threads=2)




@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("threads", [1, 2])
def test_long_sums_wait_in_memory_between_blocks(target: str, threads: int) -> None:
    batch = Batch()
    b = batch.b
    for m, k, n in [(200, 3072, 90), (100, 6000, 65), (131, 2590, 100)]:
        x, w, bias = of(m, k), of(k, n), of(n)
        y = b.add(b.matmul(batch.input(x), b.const(w)), b.const(bias))
        want = wide(x) @ wide(w) + bias
        batch.give(y, want, f"{m} {k} {n}", 1e-5 * k)
        batch.give(b.gelu(b.mul(b.matmul(batch.input(x), b.const(w)), 1e-3)), None, "", 1e-5 * k)
    batch.check("matmul", target=target, threads=threads)
