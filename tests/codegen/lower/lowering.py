"""Checking a lowering against the op table's reference semantics."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

import graphopt.codegen.lower
import graphopt.ir.ops  # noqa: F401
from graphopt.codegen.lower.interpret import evaluate
from graphopt.ir.evaluate import evaluate_op
from graphopt.ir.graph import Graph, Op
from graphopt.ir.types import dtype, tensor

TOLERANCE = {"f16": 2e-3, "bf16": 2e-2, "f32": 3e-5, "f64": 1e-12}
SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 20.0, -20.0, 3e4, np.inf, -np.inf, np.nan]


def random(rng: np.random.Generator, of: str, *shape: int, low: float = -3, high: float = 3, special: bool = False) -> np.ndarray:
    """Values of dtype `of`; with `special`, infinities, NaN, zeros of both signs and extreme integers among them."""
    d = dtype(of)
    if d.kind == "bool":
        return rng.random(shape) < 0.5
    if d.is_integer:
        info = np.iinfo(d.numpy)
        x = rng.integers(max(int(low * 5), info.min), min(int(high * 5), info.max), shape, endpoint=True).astype(d.numpy)
        extremes: list[Any] = [info.min, info.max, 0, 1, info.max - 1]
    else:
        x = rng.uniform(low, high, shape).astype(d.numpy)
        extremes = SPECIAL
    if special and x.size:
        flat = x.reshape(-1)
        for k, v in enumerate(extremes[:flat.size]):
            flat[(k * 2) % flat.size] = v
    return x


def make(name: str, arrays: list[np.ndarray | None], **attrs: Any) -> Op:
    """An op whose operands are inputs of the arrays' types."""
    graph = Graph()
    values = [None if a is None else graph.add_input(tensor(dtype(a.dtype), *a.shape)) for a in arrays]
    return graph.add(name, values, attrs)


def check(name: str, arrays: list[Any], tolerance: float | None = None, **attrs: Any) -> list[np.ndarray]:
    """Assert that the op's lowering gives what the table's semantics give; integers and bools exactly."""
    arrays = [None if a is None else np.asarray(a) for a in arrays]
    op = make(name, arrays, **attrs)
    want = evaluate_op(op, arrays)
    got = evaluate(op, arrays)
    for g, w in zip(got, want, strict=True):
        same(g, w, tolerance, f"{name} {attrs} on {[None if a is None else (a.dtype.name, a.shape) for a in arrays]}")
    return got


def same(got: np.ndarray, want: np.ndarray, tolerance: float | None = None, what: str = "") -> None:
    assert got.dtype == want.dtype and got.shape == want.shape, f"{what}: {got.dtype}{got.shape}, not {want.dtype}{want.shape}"
    d = dtype(want.dtype)
    if not d.is_float:
        np.testing.assert_array_equal(got, want, err_msg=what)
        return
    bound = TOLERANCE[d.name] if tolerance is None else tolerance
    np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol=bound, atol=bound, err_msg=what)


__all__ = ["check", "make", "ml_dtypes", "random", "same"]
