"""Checks of indices: for every op that picks or places by indices, the least and the greatest of them become outputs."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.errors import InputError
from graphopt.ir.graph import Builder, Graph, Op, Value
from graphopt.ir.types import TensorType
from graphopt.runtime.bounds import IndexCheck, refuse


def with_index_checks(graph: Graph) -> tuple[Graph, list[IndexCheck]]:
    """A copy of a graph of static shapes that gives, after its own outputs, what the checks look at, two values for each.

    What has an unknown shape runs on the evaluator, which looks at indices itself. IndexRangeError where a constant index is out
    of range; InputError where indices are used within a branch or a loop, out of which nothing is carried.
    """
    made = graph.clone()
    checks: dict[tuple[Any, ...], IndexCheck] = {}
    for op in list(made.ops):
        _refuse_inner(op)
        rule = op.definition.bounds
        indices = op.operand("indices") if rule is not None else None
        if rule is None or indices is None or not all(isinstance(v.type, TensorType) and v.type.is_static
                                                      for v in op.operands if v is not None):
            continue
        bounds = tuple(n for n in rule(op.view()) if isinstance(n, int))
        check = IndexCheck(op.where(), bounds)
        if indices.constant is not None:
            values = np.asarray(indices.constant)
            if values.size:
                axes = tuple(range(values.ndim - (len(bounds) > 1)))
                refuse(check, values.min(axes), values.max(axes))
        elif 0 not in indices.static_shape and (indices, bounds) not in checks:
            checks[indices, bounds] = check
            made.outputs = [*made.outputs, *_extremes(made, op, indices, len(bounds))]
    return made, list(checks.values())


def _extremes(graph: Graph, op: Op, indices: Value, bounds: int) -> list[Value]:
    """The least and the greatest index, of tuples those of every component."""
    b = Builder(graph, before=op, loc=op.loc)
    shape = indices.static_shape
    rows = int(np.prod(shape[:-1] if bounds > 1 else shape, dtype=np.int64))
    flat = b.reshape(indices, shape=[rows, bounds])
    return [b.reduce_min(flat, axes=[0]), b.reduce_max(flat, axes=[0])]


def _refuse_inner(op: Op) -> None:
    for region in op.regions:
        for inner in region.walk():
            if inner.definition.bounds is not None:
                raise InputError(f"indices of {inner.where()} are used within {op.where()}, where they cannot be checked",
                                 where="check_indices", hint="Compile without check_indices: graphopt-dump --validate runs the "
                                                             "model on the evaluator, which checks all indices")


__all__ = ["with_index_checks"]
