"""Run one op of the table on arrays, checking on the way what must hold of every op."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.ir import Dim, Graph, TensorType, dtype, evaluate, parse_graph, print_graph, verify
from graphopt.ir.dims import substitute


def graph_of(name: str, operands: tuple[np.ndarray | None, ...], attrs: dict[str, Any], symbolic: bool = False) -> Graph:
    """A graph of this one op. With `symbolic`, every extent above one is the symbol `n<extent>`."""
    graph = Graph("one")
    values = []
    for a in operands:
        if a is None:
            values.append(None)
            continue
        shape = tuple(Dim.symbol(f"n{n}") if symbolic and n > 1 else n for n in a.shape)
        values.append(graph.add_input(TensorType(dtype(a.dtype), shape)))
    graph.outputs = list(graph.add(name, values, attrs).results)
    return graph


def same(got: np.ndarray, wanted: np.ndarray) -> None:
    """Equal in dtype, shape and every element; NaN equals NaN, in the narrow floats too."""
    wanted = np.asarray(wanted)
    assert got.dtype == wanted.dtype
    if dtype(got.dtype).is_float:
        got, wanted = got.astype(np.float64), wanted.astype(np.float64)
    np.testing.assert_array_equal(got, wanted, strict=True)


def run_op(name: str, *operands: Any, symbolic: bool = True, **attrs: Any) -> Any:
    """The op's result, or the list of them where it has several.

    The types inferred from static operands and (`symbolic`) from symbolic ones must describe what came out, and
    the graph must survive the verifier and the text form.
    """
    arrays = tuple(None if a is None else np.asarray(a) for a in operands)
    given = [a for a in arrays if a is not None]
    graph = graph_of(name, arrays, attrs)
    verify(graph)
    results = evaluate(graph, given)
    again = parse_graph(print_graph(graph))
    verify(again)
    assert print_graph(again) == print_graph(graph)
    if symbolic:
        sizes = {f"n{n}": n for a in given for n in a.shape}
        general = graph_of(name, arrays, attrs, symbolic=True)
        verify(general)
        for v, r in zip(general.outputs, results):
            for d, n in zip(v.shape, r.shape, strict=True):
                size = substitute(d, sizes)
                assert size == n or (isinstance(size, Dim) and str(size).startswith("_")), f"{v.type} for shape {r.shape}"
        for a, b in zip(evaluate(general, given), results):
            same(a, b)
    return results[0] if len(results) == 1 else results
