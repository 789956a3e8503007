"""Functions of a leaf go into the leaves, sums of trees become forests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt.ir import Builder, Graph, Value, evaluate, tensor, verify
from graphopt.rewrite import CommonSubexpressions, Context, DeadCode, Forests, PassManager
from graphopt.rewrite.engine.validate import difference
from tests.ir.test_ops_trees import forest, points
from tests.rewrite.rewriting import names


def a_tree(b: Builder, x: Value, seed: int, trees: int = 1, columns: int = 1, aggregate: str = "sum", **form: Any) -> Value:
    tables = forest(np.random.default_rng(seed), trees, columns, **form)
    operands = [x, *(None if t is None else b.const(t) for t in tables)]
    return b.op("tree_ensemble", operands, {"columns": columns, "aggregate": aggregate}).result


def graph_of(build: Any, rows: int = 9) -> Graph:
    graph = Graph("g")
    x = graph.add_input(tensor("f32", rows, 3), "x")
    out = build(Builder(graph), x)
    graph.outputs = list(out) if isinstance(out, tuple) else [out]
    return graph


def after(build: Any, rows: int = 9) -> list[str]:
    """The ops that are left, once they give what was given before."""
    graph, x = graph_of(build, rows), points(np.random.default_rng(1), rows)
    want = evaluate(graph, [x])
    PassManager([CommonSubexpressions(), Forests(), DeadCode()]).run(graph, Context())
    verify(graph)
    for a, b in zip(want, evaluate(graph, [x]), strict=True):
        assert difference(a, b, 10) is None
    return [n for n in names(graph) if n != "const"]


def _as_exporters_do(b: Builder, x: Value, seed: int) -> Value:
    """The leaf's number looked up in two tables, and a function of both."""
    rng = np.random.default_rng(seed)
    leaf = b.cast(b.abs(b.mul(a_tree(b, x, seed), 3.0)), to="i64")
    place = b.minimum(b.reshape(leaf, shape=[x.shape[0]]), 7)
    size = b.reshape(b.gather(b.const(rng.random(8).astype("f4") + 1), place, axis=0), shape=[x.shape[0], 1])
    return b.add(b.log(size), b.where(b.greater(size, 1.5), b.mul(size, 2.0), b.const(0, "f32")))


def test_functions_of_one_leaf_are_in_the_leaf() -> None:
    assert after(lambda b, x: _as_exporters_do(b, x, 3)) == ["tree_ensemble"]
    assert after(lambda b, x: b.exp(b.neg(a_tree(b, x, 1, aggregate="min")))) == ["tree_ensemble"]


@pytest.mark.parametrize("rows", [0, 1, 9])
def test_sums_of_trees_are_one_forest(rows: int) -> None:
    def three(b: Builder, x: Value) -> Value:
        total = b.add(_as_exporters_do(b, x, 3), _as_exporters_do(b, x, 4))
        return b.sigmoid(b.add(total, _as_exporters_do(b, x, 5)))

    assert after(three, rows) == ["tree_ensemble", "sigmoid"]


def test_forests_of_different_forms_are_joined() -> None:
    """With and without lower bounds and a way for NaN; what each column gets of which tree."""
    assert after(lambda b, x: b.add(a_tree(b, x, 1, 3, low=False), a_tree(b, x, 2, 2, nan=False))) == ["tree_ensemble"]
    assert after(lambda b, x: b.add(a_tree(b, x, 1, 3, 2, column=True), a_tree(b, x, 2, 2, 2, column=True))) == ["tree_ensemble"]


def test_what_is_no_function_of_one_leaf_stays() -> None:
    two = ["tree_ensemble", "tree_ensemble"]
    assert after(lambda b, x: b.exp(a_tree(b, x, 1, trees=2))) == ["tree_ensemble", "exp"]
    assert after(lambda b, x: b.mul(a_tree(b, x, 1), b.slice(x, axes=[1], starts=[0], ends=[1], steps=[1]))) == [
        "tree_ensemble", "slice", "mul"]
    assert after(lambda b, x: b.mul(a_tree(b, x, 1), a_tree(b, x, 2))) == [*two, "mul"]
    assert after(lambda b, x: b.add(a_tree(b, x, 1, 2), a_tree(b, x, 2, 2, aggregate="max"))) == [*two, "add"]
    other = lambda b, x: a_tree(b, b.relu(x), 2, 2)
    assert after(lambda b, x: b.add(a_tree(b, x, 1, 2), other(b, x))) == ["tree_ensemble", "relu", "tree_ensemble", "add"]


def test_what_is_used_elsewhere_too_stays() -> None:
    def both(b: Builder, x: Value) -> Any:
        y = a_tree(b, x, 1)
        return b.exp(y), y

    assert after(both) == ["tree_ensemble", "exp"]

    def shared(b: Builder, x: Value) -> Any:
        y = a_tree(b, x, 1, 2)
        return b.add(y, a_tree(b, x, 2, 2)), y

    assert after(shared) == ["tree_ensemble", "tree_ensemble", "add"]


def test_outer_sums_are_no_functions_of_a_leaf() -> None:
    def outer(b: Builder, x: Value) -> Value:
        y = a_tree(b, x, 1)
        return b.add(y, b.reshape(y, shape=[x.shape[0]]))

    assert after(outer) == ["tree_ensemble", "reshape", "add"]
