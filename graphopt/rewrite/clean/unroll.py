"""Loops whose number of iterations is known, and small, become their iterations."""

from __future__ import annotations

from graphopt.ir.graph import Builder, Graph, Op, Value, refine
from graphopt.ir.ops.control import trip_count
from graphopt.ir.table import Trait
from graphopt.ir.types import TensorType, type_symbols
from graphopt.rewrite.clean.inline import inlined
from graphopt.rewrite.engine.context import Context
from graphopt.rewrite.engine.manager import GraphPass

LIMIT = 2048  # ops that one loop may become
SHORT = 256  # the same, of a loop that the target's programs can hold as one: code for its iterations only costs compile time


class Unroll(GraphPass):
    """Before: any graph. After: no `loop` has a constant trip count, a condition that stays true and tensors of one shape in
    every iteration, unless its iterations together have more than `limit` ops, or `short` where the target has loops for it."""

    name = "unroll"

    def __init__(self, limit: int = LIMIT, short: int = SHORT) -> None:
        self.limit, self.short = limit, short

    def run_on(self, graph: Graph, context: Context) -> bool:
        changed = False
        for op in graph.ops:
            count = _iterations(op) if op.name == "loop" else None
            if count is None:
                continue
            size = count * _size(op.regions[0])
            limit = self.short if context.target.loops(op) else self.limit
            if size > limit:
                context.because(op, f"stays a loop: {count} iterations are {size} ops, more than {limit}")
                continue
            if not context.take("unroll a loop", op):
                break
            context.because(op, f"it always runs {count} times: unrolled")
            values = _unrolled(graph, op, count)
            for old, new in zip(op.results, values):
                new.type = refine(new.type, old.type)
            op.replace_with(values)
            changed = True
        return changed


def _iterations(op: Op) -> int | None:
    """How often the body runs, where that is known and each run has the same types; None also for no run at all."""
    count = trip_count(op.view(), op.regions[0])
    if not isinstance(count, int) or count == 0:
        return None
    known = set().union(*(type_symbols(v.type) for v in op.operands if v is not None))
    for r in op.results:
        if not isinstance(r.type, TensorType) or r.type.shape is None or not type_symbols(r.type) <= known:
            return None
    return count


def _size(graph: Graph) -> int:
    """Ops of a body and of the bodies in it, constants apart."""
    return sum(1 + sum(map(_size, op.regions)) * op.definition.has(Trait.CONTROL) for op in graph.ops if op.name != "const")


def _unrolled(graph: Graph, op: Op, count: int) -> list[Value]:
    """The iterations before `op`; returns the last carried values and the stacked scan outputs."""
    build = Builder(graph, before=op, loc=op.loc)
    carried, values = op.attrs["carried"], list(op.operands[2:])
    state: list[Value | None] = values[:carried]
    captures = values[carried:]
    rows: list[list[Value]] = [[] for _ in op.results[carried:]]
    keep = build.const(True, "bool")
    for k in range(count):
        _, *out = inlined(graph, op, op.regions[0], [build.const(k, "i64"), keep, *state, *captures])
        state = list(out[:carried])
        for row, v in zip(rows, out[carried:], strict=True):
            row.append(build.reshape(v, shape=[1, *v.shape]))
    return [*state, *(row[0] if count == 1 else build.concat(*row, axis=0) for row in rows)]  # type: ignore[list-item]
