"""Branches whose condition is known become part of the graph around them."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir.dims import Dim, DimLike
from graphopt.ir.graph import Graph, Op, Value, refine
from graphopt.ir.settle import Settling, substituted
from graphopt.ir.types import TensorType, Type, substitute_type
from graphopt.rewrite.engine.context import Context
from graphopt.rewrite.engine.manager import GraphPass


class Inline(GraphPass):
    """Before: any graph. After: no `if` has a constant condition: the ops of the branch taken stand in its place. Dims that
    only the branch knows are put where the result's type left them open."""

    name = "inline"

    def run_on(self, graph: Graph, context: Context) -> bool:
        changed = False
        walk = Settling(graph)
        for op in graph.ops:
            walk.visit(op)
            if op.name != "if" or op.operands[0] is None:
                continue
            cond = op.operands[0].constant
            if cond is None or cond.size != 1:
                continue
            if not context.take("inline a branch", op):
                break
            branch = op.regions[0 if cond.reshape(-1)[0] else 1]
            context.because(op, f"its condition is always {bool(cond.reshape(-1)[0])}".lower())
            values = inlined(graph, op, branch, op.operands[1:])
            for old, new in zip(op.results, values):
                new.type = refine(new.type, old.type)
            op.replace_with(values)
            changed = True
        return changed


def inlined(graph: Graph, op: Op, region: Graph, given: Sequence[Value | None]) -> list[Value]:
    """Copies of the ops of one of op's regions, run on the values `given`, before `op`; returns the region's outputs."""
    inside: dict[Value, Value] = {}
    symbols: dict[str, DimLike] = {}
    for v, value in zip(region.inputs, given, strict=True):
        assert value is not None
        inside[v] = value
        _learn(v.type, value.type, symbols)
    for inner in region.ops:
        for name in _invented(inner):
            symbols[name] = graph.fresh_symbol()
        attrs = {k: substituted(a, symbols) for k, a in inner.attrs.items()}
        operands = [None if v is None else inside[v] for v in inner.operands]
        types = [substitute_type(r.type, symbols) for r in inner.results]
        regions = [r.clone(symbols) for r in inner.regions]
        copy = graph.add(inner.name, operands, attrs, regions=regions, loc=(*op.loc, *inner.loc), before=op, types=types)
        for old, new in zip(inner.results, copy.results):
            inside[old] = new
    return [inside[v] for v in region.outputs]


def _invented(op: Op) -> list[str]:
    """Symbols that this op's results introduce: dims that inference does not know."""
    names = []
    for result, inferred in zip(op.results, op.definition.infer(op.view())):
        if isinstance(result.type, TensorType) and isinstance(inferred, TensorType) and result.type.shape is not None:
            unknown = inferred.shape or (None,) * len(result.type.shape)
            names += [str(d) for d, known in zip(result.type.shape, unknown) if known is None and isinstance(d, Dim)
                      and str(d).isidentifier()]
    return list(dict.fromkeys(names))


def _learn(loose: Type, exact: Type, symbols: dict[str, DimLike]) -> None:
    """Note what the symbols of `loose` stand for, going by `exact`."""
    if isinstance(loose, TensorType) and isinstance(exact, TensorType) and loose.shape is not None and exact.shape is not None:
        for d, e in zip(loose.shape, exact.shape):
            if isinstance(d, Dim) and d != e and str(d).isidentifier():
                symbols.setdefault(str(d), e)
