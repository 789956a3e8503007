"""Decision trees, coupled probabilities and binary search as loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt.codegen.lower.kernels import lower
from graphopt.codegen.lower.schedule import Style
from graphopt.codegen.x86.emit import emit_kernel
from graphopt.ir import Builder, Graph, tensor
from tests.codegen.lower.lowering import check, random
from tests.ir.test_ops_trees import forest, points

RNG = np.random.default_rng(6)


@pytest.mark.parametrize("rows", [0, 1, 7, 8, 19, 41])
@pytest.mark.parametrize("form", [{}, {"low": False, "nan": False}, {"column": True}], ids=str)
def test_rows_and_trees_that_do_not_divide(rows: int, form: dict[str, Any]) -> None:
    for trees in (1, 16, 19):
        check("tree_ensemble", [points(RNG, rows), *forest(RNG, trees, **form)], 0.0, columns=2, aggregate="sum")


@pytest.mark.parametrize("aggregate", ["min", "max"])
def test_the_least_and_the_greatest(aggregate: str) -> None:
    check("tree_ensemble", [points(RNG, 11, of="f8"), *forest(RNG, 5, of="f8")], 0.0, columns=2, aggregate=aggregate)


def test_depths_and_empty_tables() -> None:
    tables = forest(RNG, 19)
    tables[7] = RNG.integers(0, 3, 19).astype("i4")
    check("tree_ensemble", [points(RNG, 9), *tables], 0.0, columns=2, aggregate="sum")
    none = [t if t is None else t[:0] for t in forest(RNG, 1)]
    check("tree_ensemble", [points(RNG, 3), *none], columns=2, aggregate="sum")


@pytest.mark.parametrize("of", ["f32", "f64"])
@pytest.mark.parametrize("classes", [1, 2, 5])
def test_coupling(of: str, classes: int) -> None:
    for rows in (0, 1, 6):
        r = RNG.uniform(0.05, 0.95, (rows, classes, classes)).astype("f4" if of == "f32" else "f8")
        check("couple_pairs", [r], 1e-5)


@pytest.mark.parametrize("n", [0, 1, 2, 7, 8, 100])
@pytest.mark.parametrize("of", ["f32", "i64", "i16"])
def test_search(n: int, of: str) -> None:
    keys = np.sort(random(RNG, of, n))
    for right in (False, True):
        check("search_sorted", [np.concatenate([random(RNG, of, 13, special=True), keys[:5]]), keys], right=right)


def test_code_grows_with_the_steps_of_a_search() -> None:
    """Seven halvings, each of which names the place found so far several times."""
    graph = Graph("g")
    x, keys = graph.add_input(tensor("f32", 9), "x"), graph.add_input(tensor("f32", 64), "keys")
    graph.outputs = [Builder(graph).search_sorted(x, keys)]
    low = lower(next(iter(graph.ops)), "k", Style())
    assert len(str(emit_kernel(low.kernel))) < 5_000
