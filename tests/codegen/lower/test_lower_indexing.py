"""Gathers, scatters and selection."""

from __future__ import annotations

import numpy as np
import pytest

from tests.codegen.lower.lowering import check, random

RNG = np.random.default_rng(51)


@pytest.mark.parametrize("of", ["f32", "bf16", "i8", "bool", "i64"])
@pytest.mark.parametrize("by", [np.int32, np.int64])
def test_gather(of: str, by: type) -> None:
    x = random(RNG, of, 3, 4, 5)
    check("gather", [x, np.array([[0, -1], [3, -4]], by)], axis=1)
    check("gather", [x, np.array(2, by)], axis=2)
    check("gather", [x, np.zeros((0,), by)], axis=0)
    check("gather_elements", [x, np.array([[[0, -1, 3], [1, 1, -4]]], by)], axis=1)
    check("gather_nd", [x, np.array([[0, 1, -1], [-3, 3, 0]], by)])
    check("gather_nd", [x, np.array([[[1], [-1]]] * 3, by)], batch_dims=1)
    check("gather_nd", [x, np.array([[2, 0]], by)])
    check("gather_nd", [x, np.zeros((3, 2, 0), by)], batch_dims=1)


@pytest.mark.parametrize("of", ["f32", "f16", "i8", "f64", "u8"])
@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
def test_scatter(of: str, reduction: str) -> None:
    x = random(RNG, of, 3, 4, 2)
    at = RNG.integers(-4, 4, (2, 5, 2))
    check("scatter_elements", [x, at, random(RNG, of, 2, 5, 2)], axis=1, reduction=reduction)
    pairs = RNG.integers(-3, 3, (5, 2))
    check("scatter_nd", [x, pairs, random(RNG, of, 5, 2)], reduction=reduction)
    check("scatter_nd", [x, np.array([[0, 1, 1], [0, 1, 1]], np.int32), random(RNG, of, 2)], reduction=reduction)
    check("scatter_nd", [x, pairs[:0], random(RNG, of, 0, 2)], reduction=reduction)


def test_scatter_into_a_scalar() -> None:
    check("scatter_nd", [np.float32(1), np.zeros((2, 0), np.int64), np.array([5, 7], np.float32)], reduction="add")


def test_many_narrow_updates_round_once() -> None:
    x = np.zeros(1, np.float16)
    check("scatter_elements", [x, np.zeros(300, np.int64), np.full(300, 0.1, np.float16)], 1e-3, axis=0, reduction="add")


@pytest.mark.parametrize("of", ["f32", "f16", "i32", "u8"])
@pytest.mark.parametrize("largest", [False, True])
def test_top_k(of: str, largest: bool) -> None:
    for shape, axis, k in (((2, 7, 3), 1, 3), ((5,), 0, 5), ((3, 6), 1, 1), ((2, 3), 1, 0), ((0, 3), 1, 2), ((1, 1), 1, 1)):
        check("top_k", [random(RNG, of, *shape, low=-0.6, high=0.6)], k=k, axis=axis, largest=largest)


@pytest.mark.parametrize("largest", [False, True])
def test_top_k_of_many_is_sorted_by_merging(largest: bool) -> None:
    x = random(RNG, "f32", 2, 77, special=True)
    x[:, 30:50] = 0.25
    check("top_k", [x], k=77, axis=1, largest=largest)
    check("top_k", [random(RNG, "i8", 64, 2)], k=50, axis=0, largest=largest)


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize(("k", "n"), [(25, 100), (64, 301), (100, 400), (33, 500)])
def test_top_k_of_long_lines_is_kept_in_a_heap(k: int, n: int, largest: bool) -> None:
    """Few different values, so that many are equal, and NaN and infinities among them."""
    x = np.round(random(RNG, "f32", 2, n) * 3) / 3
    x[0, [3, n // 2, n - 1]], x[1, n // 3], x[1, n - 2] = np.nan, np.inf, -np.inf
    check("top_k", [x.astype(np.float32)], k=k, axis=1, largest=largest)
    check("top_k", [random(RNG, "i8", n, 2)], k=k, axis=0, largest=largest)


@pytest.mark.parametrize("largest", [False, True])
def test_top_k_places_nan_as_the_greatest(largest: bool) -> None:
    x = np.array([1, np.nan, -np.inf, np.inf, np.nan, 1, 2], np.float32)
    for k in (1, 3, 7):
        check("top_k", [x], k=k, axis=0, largest=largest)
