"""Projections of one value that attention reads: one product instead of several."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from graphopt.ir.graph import Builder, Graph, Op, Tensor, Value
from graphopt.ir.table import Trait
from graphopt.rewrite.engine.common import static_shape
from graphopt.rewrite.engine.context import Context
from graphopt.rewrite.engine.manager import GraphPass
from graphopt.rewrite.engine.pattern import merge_locs
from graphopt.rewrite.engine.rules import erase_dead
from graphopt.rewrite.recognise.heads import BEFORE


@dataclass(frozen=True)
class Projection:
    """x w, or x w + b: the product, the op whose result it is in the end, and the weights."""

    product: Op
    last: Op
    weight: np.ndarray
    bias: np.ndarray | None


class Projections(GraphPass):
    """Before: a graph without dead code, composites decomposed. After: products of one value with constant weights whose
    results attention reads (queries, keys and values) are one product with all the weights side by side, and slices of its
    result, which the kernels that read them take as strides."""

    name = "projections"
    ulps = 64.0  # another order of the sums

    def run_on(self, graph: Graph, context: Context) -> bool:
        found: dict[Value, list[Projection]] = {}
        for op in graph.ops:
            projection = _projection(op, graph)
            if projection is not None and op.operands[0] is not None:
                found.setdefault(op.operands[0], []).append(projection)
        changed = False
        for x, group in found.items():
            if len(group) < 2:
                continue
            if not context.take(f"merge {len(group)} projections", group[0].product):
                break
            _merge(graph, x, group, context)
            changed = True
        return changed


def _projection(op: Op, graph: Graph) -> Projection | None:
    if op.name != "matmul" or op.operands[0] is None or op.operands[1] is None:
        return None
    weight = op.operands[1].constant
    if weight is None or weight.ndim != 2 or static_shape(op.result) is None or len(op.result.shape) < 2:
        return None
    last, bias = op, None
    if len(op.result.uses) == 1 and (user := op.result.users[0]).name == "add":
        other = user.operands[1] if user.operands[0] is op.result else user.operands[0]
        c = None if other is None else other.constant
        if c is not None and c.shape[-1:] == weight.shape[1:] and math.prod(c.shape) == weight.shape[1] \
                and static_shape(user.result) == static_shape(op.result):
            last, bias = user, c.reshape(-1)
    return Projection(op, last, weight, bias) if _attended(last.result, graph) else None


def _attended(v: Value, graph: Graph) -> bool:
    """Do only movement ops read the value, then attention or what is elementwise on the way there?"""
    if v in graph.outputs or not all(u.name in BEFORE for u in v.users):
        return False
    reached = False
    pending = [v]
    while pending:
        v = pending.pop()
        if v in graph.outputs:
            return False
        for user in v.users:
            if user.name in BEFORE:
                pending += user.results
            elif user.name == "attention":
                reached = True
            elif not user.definition.has(Trait.ELEMENTWISE):
                return False
            else:
                reached = reached or _feeds(user.results[0])
    return reached


def _feeds(v: Value, reach: int = 8) -> bool:
    """Does attention come a few elementwise and movement ops later (rotary embeddings, scaling)?"""
    def passes(op: Op) -> bool:
        return reach > 0 and (op.name in BEFORE or op.name == "concat" or op.definition.has(Trait.ELEMENTWISE))

    return any(u.name == "attention" or (passes(u) and any(_feeds(r, reach - 1) for r in u.results)) for u in v.users)


def _merge(graph: Graph, x: Value, group: list[Projection], context: Context) -> None:
    first = min((p.product for p in group), key=list(graph.ops).index)
    b = Builder(graph, before=first, loc=merge_locs([p.product for p in group]))
    names = [p.product.operands[1].op.attrs["value"].name for p in group]  # type: ignore[union-attr]
    weight = Tensor(np.concatenate([p.weight for p in group], axis=1), "+".join(n or "weight" for n in names))
    y = b.matmul(x, b.graph.constant(weight, before=first))
    if any(p.bias is not None for p in group):
        d = group[0].weight.dtype
        bias = [np.zeros(p.weight.shape[1], d) if p.bias is None else p.bias for p in group]
        y = b.add(y, b.graph.constant(Tensor(np.concatenate(bias), None), before=first))
    ends = np.cumsum([p.weight.shape[1] for p in group]).tolist()
    starts, axis = [0, *ends[:-1]], len(y.shape) - 1
    parts = [b.slice(y, axes=[axis], starts=[i], ends=[j], steps=[1]) for i, j in zip(starts, ends)]
    for p, part, start, end in zip(group, parts, starts, ends):
        context.because(p.last, f"columns {start} to {end} of one product of {len(group)} projections of the same value: what it "
                        "reads is read once, and attention reads its part in place")
        p.last.replace_with(part)
        erase_dead([p.product])
