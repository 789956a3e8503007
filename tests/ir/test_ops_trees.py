"""Decision trees, coupled probabilities and search against plain Python."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt.errors import IRError
from graphopt.ir import parse_graph, print_graph, verify
from tests.ir.one_op import run_op

RNG = np.random.default_rng(4)


def forest(rng: np.random.Generator, trees: int = 3, columns: int = 2, *, low: bool = True, nan: bool = True,
           column: bool = False, of: str = "f4", features: int = 3) -> list[Any]:
    """Operands after x: full trees of two levels, every node a table row of its own; leaves lead to themselves."""
    nodes = 7 * trees
    base = np.repeat(np.arange(trees) * 7, 7)
    within = np.tile([[2, 1], [4, 3], [6, 5], [3, 3], [4, 4], [5, 5], [6, 6]], (trees, 1))
    high = rng.integers(-3, 4, nodes).astype(of)
    leaf = np.tile([0, 0, 0, 0, 1, 2, 3], trees) + 4 * np.repeat(np.arange(trees), 7)
    return [rng.integers(0, features, nodes).astype("i4"), (high - rng.integers(0, 3, nodes)).astype(of) if low else None, high,
            rng.random(nodes) < 0.5 if nan else None, (within + base[:, None]).astype("i4"), leaf.astype("i4"),
            (np.arange(trees) * 7).astype("i4"), np.full(trees, 2, "i4"),
            rng.integers(0, columns, trees).astype("i4") if column else None,
            rng.standard_normal((4 * trees, 1 if column else columns)).astype(of)]


def points(rng: np.random.Generator, rows: int, features: int = 3, of: str = "f4") -> np.ndarray:
    x = rng.integers(-4, 5, (rows, features)).astype(of)
    if rows > 2:
        x[0, 0], x[1, 1], x[2, 2] = np.nan, np.inf, -np.inf
    return x


def walked(x: np.ndarray, tables: list[Any], columns: int, aggregate: str) -> np.ndarray:
    feature, low, high, nan, child, leaf, root, depth, column, weights = tables
    out = np.full((len(x), columns), {"sum": 0, "min": np.inf, "max": -np.inf}[aggregate], x.dtype)
    put = {"sum": lambda a, b: a + b, "min": min, "max": max}[aggregate]
    for r, row in enumerate(x):
        for t in range(len(root)):
            at = root[t]
            for _ in range(depth[t]):
                v = row[feature[at]]
                inside = bool(nan is not None and nan[at]) if np.isnan(v) else v <= high[at] and (low is None or v >= low[at])
                at = child[at, int(inside)]
            for k in range(columns) if column is None else [column[t]]:
                out[r, k] = put(out[r, k], weights[leaf[at], k if column is None else 0])
    return out


@pytest.mark.parametrize("aggregate", ["sum", "min", "max"])
@pytest.mark.parametrize("form", [{}, {"low": False}, {"nan": False}, {"low": False, "nan": False}, {"column": True}], ids=str)
def test_trees_are_walked(aggregate: str, form: dict[str, bool]) -> None:
    for of, rows in (("f4", 9), ("f8", 1), ("f4", 0)):
        tables, x = forest(RNG, of=of, **form), points(RNG, rows, of=of)
        got = run_op("tree_ensemble", x, *tables, columns=2, aggregate=aggregate, symbolic=False)
        np.testing.assert_array_equal(got, walked(x, tables, 2, aggregate))


def test_a_row_of_the_scores_is_made_of_a_row_of_x() -> None:
    tables, x = forest(RNG), points(RNG, 4)
    whole = run_op("tree_ensemble", x, *tables, columns=2, aggregate="sum", symbolic=False)
    for r in range(4):
        one = run_op("tree_ensemble", x[r:r + 1], *tables, columns=2, aggregate="sum", symbolic=False)
        np.testing.assert_array_equal(one, whole[r:r + 1])


def test_trees_of_different_depths_stop_where_they_say() -> None:
    tables, x = forest(RNG), points(RNG, 6)
    tables[7] = np.array([2, 0, 1], "i4")
    got = run_op("tree_ensemble", x, *tables, columns=2, aggregate="sum", symbolic=False)
    np.testing.assert_array_equal(got, walked(x, tables, 2, "sum"))


def test_tables_that_do_not_fit_are_refused() -> None:
    for place, shape in ((0, (3,)), (4, (21, 3)), (6, (3, 1))):
        tables = forest(RNG)
        tables[place] = np.zeros(shape, "i4")
        with pytest.raises(IRError, match="tree_ensemble"):
            run_op("tree_ensemble", points(RNG, 2), *tables, columns=2, aggregate="sum")
    with pytest.raises(IRError, match="median"):
        run_op("tree_ensemble", points(RNG, 2), *forest(RNG), columns=2, aggregate="median")


def test_coupled_probabilities_fit_their_pairs() -> None:
    """Of consistent pairs p_i / (p_i + p_j), the p that they were made of, to the precision that the iteration stops at."""
    p = RNG.dirichlet(np.ones(4), 6)
    pairs = p[:, :, None] / (p[:, :, None] + p[:, None, :])
    got = run_op("couple_pairs", pairs)
    np.testing.assert_allclose(got.sum(axis=1), 1, atol=1e-9)
    np.testing.assert_allclose(got, p, atol=0.02)
    assert run_op("couple_pairs", np.zeros((0, 3, 3), np.float32)).shape == (0, 3)


@pytest.mark.parametrize("right", [False, True])
def test_search_counts_the_keys_before(right: bool) -> None:
    keys = np.array([-np.inf, -1, 0, 0, 2.5, np.inf])
    x = np.array([[-2, -1, 0], [2.4, np.inf, -np.inf], [np.nan, 9, -0.0]])
    want = [[sum(bool(k <= v) if right else bool(k < v) for k in keys) for v in row] for row in x]
    np.testing.assert_array_equal(run_op("search_sorted", x, keys, right=right), want)
    np.testing.assert_array_equal(run_op("search_sorted", np.array([3, 7]), np.array([], np.int64), right=right), [0, 0])


def test_maps_have_a_text_form() -> None:
    text = """graph @main(%x: f32[N, 2], %m: map<str, f32[]>) -> (seq<map<i64, f32[]>>, f32[1, 2]) {
  %y = zip_map(%x) {ints=[3, 1], strings=[]} : seq<map<i64, f32[]>>
  %v = dict_vectorize(%m) {ints=[], strings=["a", "b"]} : f32[1, 2]
  return %y, %v
}
"""
    graph = parse_graph(text)
    verify(graph)
    assert print_graph(graph) == text
