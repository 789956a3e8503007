"""Composite ops into the primitives that they are made of."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir.graph import Builder, Graph, Op, Value, refine
from graphopt.ir.table import DECOMPOSITIONS, Trait
from graphopt.ir.types import TensorType
from graphopt.rewrite.engine.context import Context
from graphopt.rewrite.engine.manager import GraphPass


class Decompose(GraphPass):
    """Before: any graph. After: a composite op stands only where `target.keeps(op)` says that the target has a kernel for
    it, where the rank of an operand is not known, or where its parts depend on sizes that are not known yet."""

    name = "decompose"
    ulps = 1000.0  # a composite's reference may compute wider than its parts, and later layers carry that on

    def run_on(self, graph: Graph, context: Context) -> bool:
        changed = False
        work: list[Op] = list(graph.ops)[::-1]
        while work:
            op = work.pop()
            context.subject = op
            if not op.definition.has(Trait.COMPOSITE) or context.target.keeps(op) or \
                    any(isinstance(v.type, TensorType) and v.type.shape is None for v in op.operands if v is not None):
                continue
            if not context.take("decompose", op):
                break
            before = op.prev
            values = DECOMPOSITIONS[op.name](Builder(graph, before=op, loc=op.loc), op)
            if values is None:  # not while sizes are unknown
                continue
            new: Sequence[Value] = [values] if isinstance(values, Value) else list(values)
            for old, value in zip(op.results, new, strict=True):
                value.type = refine(value.type, old.type)
            context.because(op, "decomposed: the target has no kernel for it")
            added = []
            at = op.prev
            while at is not None and at is not before:
                added.append(at)
                at = at.prev
            op.replace_with(new)
            work += added  # later ones first, so that the walk goes on in order
            changed = True
        return changed
