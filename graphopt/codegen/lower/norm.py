"""Composites (softmax, normalisations): their decomposition, inlined as one expression.

Reductions inside keep their dims (index 0), so that all elements of a row share one Reduce node; the
scheduler hoists it out of the row's loop, and softmax becomes three passes over a row.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from graphopt.codegen.kernel.expr import Expr
from graphopt.codegen.kernel.fuse import fused
from graphopt.codegen.lower.reduce import over_axes
from graphopt.codegen.lower.registry import Accessor, Inliner, OpView, compute, computed
from graphopt.ir.graph import Builder, Graph, Op, Value
from graphopt.ir.table import DECOMPOSITIONS
from graphopt.ir.types import F32, TensorType, Type

INLINED = ("softmax", "log_softmax", "batch_norm", "layer_norm", "rms_norm", "group_norm", "lrn", "reduce_logsumexp")
# These subtract the greatest element from all. A NaN makes their sum of exponentials NaN, whatever was subtracted from it, so
# that the maximum need not be.
SHIFTED = ("softmax", "log_softmax")
LEAST_EXPONENT = -86.625  # half of e^x is a normal f32 too, so that one product with a power of two will do


def decomposed(op: Op) -> Graph:
    """The op's decomposition as a graph over its present operands, in the dtypes that arithmetic happens in."""
    return _decomposed(op.name, tuple(None if v is None else _widened(v.type) for v in op.operands), _Frozen(op.attrs))


def _widened(t: Type) -> Type:
    return replace(t, dtype=computed(t.dtype)) if isinstance(t, TensorType) else t


class _Frozen:
    """Attributes as a key: equal by value."""

    def __init__(self, attrs: Mapping[str, Any]) -> None:
        self.attrs = dict(attrs)
        self._key = tuple(sorted(self.attrs.items()))

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Frozen) and self._key == other._key


@functools.lru_cache(maxsize=512)
def _decomposed(name: str, types: tuple[Type | None, ...], frozen: _Frozen) -> Graph:
    graph = Graph(name)
    operands = [None if t is None else graph.add_input(t) for t in types]
    op = graph.add(name, operands, frozen.attrs)
    result = DECOMPOSITIONS[name](Builder(graph, before=op), op)
    graph.outputs = list(result) if isinstance(result, (list, tuple)) else [result]
    op.erase()
    if name in SHIFTED:
        _without_subnormals(graph)
    return graph


@compute(*INLINED)
def inlined(o: OpView, *i: Expr) -> Expr:
    graph = decomposed(o.op)
    given: list[Expr] = []

    def kept(access: Accessor) -> Accessor:
        def element(*i: Expr) -> Expr:
            given.append(access(*i))
            return given[-1]

        return element

    accessors = (o.accessor(p.name) for p in o.op.definition.operands)
    sources: dict[Value, Accessor] = dict(zip(graph.inputs, (kept(a) for a in accessors if a is not None)))
    inliner = Inliner(sources)
    for op in graph.ops:
        if o.op.name in SHIFTED and op.name == "reduce_max":
            view = OpView(op, [lambda *j, x=op.operands[0]: inliner.at(x, j)])
            sources[op.result] = lambda *j, view=view: over_axes(view, "peak", j)
    return fused(inliner.at(graph.outputs[o.result], i), tuple(given))


def _without_subnormals(graph: Graph) -> None:
    """Exponentials that are no normal number become 0. Beside the largest, which is 1, they change nothing that anyone sees,
    but each product with one takes a CPU a hundred cycles: masks of -100 make whole matrices of them."""
    for op in [o for o in graph.ops if o.name == "exp" and o.result.dtype is F32]:
        b, x = Builder(graph, before=op), op.operands[0]
        least, zero = b.const(LEAST_EXPONENT, F32), b.const(0.0, F32)
        op.replace_with([b.where(b.less(x, least), zero, b.exp(x))])
