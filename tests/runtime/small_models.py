"""Small compiled models that several tests share."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

import graphopt
from graphopt.ir import Builder, Dim, Graph, TensorType, dtype, tensor

RNG = np.random.default_rng(11)
W = RNG.standard_normal((6, 5)).astype(np.float32)


def named(graph: Graph, inputs: list[str], outputs: list[str]) -> Graph:
    graph.input_names, graph.output_names = inputs, outputs
    return graph


@cache
def linear() -> Any:
    """scores, total = softmax(x @ W + offset), x summed."""
    graph = Graph()
    b = Builder(graph)
    x, offset = graph.add_input(tensor("f32", 3, 6), "x"), graph.add_input(tensor("f32", 5), "offset")
    graph.outputs = [b.softmax(b.add(b.matmul(x, b.const(W)), offset), axis=1), b.reduce_sum(x, axes=[0, 1])]
    return graphopt.compile(named(graph, ["x", "offset"], ["scores", "total"]))


def linear_reference(x: np.ndarray, offset: np.ndarray) -> np.ndarray:
    e = np.exp(x.astype(np.float64) @ W + offset)
    return e / e.sum(1, keepdims=True)


def inputs() -> tuple[np.ndarray, np.ndarray]:
    return RNG.standard_normal((3, 6)).astype(np.float32), RNG.standard_normal(5).astype(np.float32)


@cache
def scale(of: str = "f32") -> Any:
    """2 x, of 40 elements of a dtype."""
    graph = Graph()
    b = Builder(graph)
    x = graph.add_input(tensor(of, 40), "x")
    graph.outputs = [b.add(x, x)]
    return graphopt.compile(named(graph, ["x"], ["y"]))


def symbolic(limit: int = 16, ranges: dict[str, tuple[int | None, int | None]] | None = None) -> Any:
    """rows[N, 4] @ columns[4, M], summed with extra[N]; N and M are symbols."""
    graph = Graph()
    b = Builder(graph)
    n, m = Dim.symbol("N"), Dim.symbol("M")
    rows, columns, extra = (graph.add_input(TensorType(dtype("f32"), s), name) for name, s in
                            (("rows", (n, 4)), ("columns", (4, m)), ("extra", (n, 1))))
    graph.outputs = [b.add(b.matmul(rows, columns), extra)]
    named(graph, ["rows", "columns", "extra"], ["sum"])
    if ranges:
        graph.metadata["dim_ranges"] = ranges
    return graphopt.compile(graph, max_specialisations=limit)


def symbolic_inputs(n: int, m: int) -> list[np.ndarray]:
    return [RNG.standard_normal(s).astype(np.float32) for s in ((n, 4), (4, m), (n, 1))]
