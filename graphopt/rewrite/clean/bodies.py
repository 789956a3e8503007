"""What goes into branches and bodies, and comes out of them: no more than they need, and constants as constants."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from graphopt.ir.graph import Builder, Graph, Op, Value
from graphopt.ir.ops.control import trip_count
from graphopt.ir.types import I64, TensorType
from graphopt.rewrite.engine.context import Context
from graphopt.rewrite.engine.manager import GraphPass

MOST_ROWS, MOST_BYTES = 1 << 16, 1 << 26  # of the scan outputs of a loop that may end early


class Bodies(GraphPass):
    """Before: any graph. After: a branch or body holds the constants that it captures, so that what is made of them is folded and
    weights are packed; it captures nothing twice or in vain; what a loop carries without changing it is captured, and its
    condition, which is true in every iteration, is a constant there; results that nobody uses are not computed. Loops that never
    run are gone. One that its condition may end before its trip count, which is known, stacks its outputs in tensors of that
    many rows, of which those that there were are taken behind it, where the target has loops for it.
    """

    name = "bodies"

    def run_on(self, graph: Graph, context: Context) -> bool:
        changed = False
        for op in graph.ops:
            if not any(r.uses for r in op.results):
                continue
            if op.name == "loop":
                changed |= self._loop(graph, op, context)
                if op.graph is graph:  # as it was
                    changed |= self._bound(graph, op, context)
            elif op.name == "if":
                changed |= self._if(graph, op, context)
        return changed

    def _if(self, graph: Graph, op: Op, context: Context) -> bool:
        given = list(op.operands[1:])
        kept = [k for k, r in enumerate(op.results) if r.uses]
        taken, wanted = _captures(given, op.regions)
        if (len(kept) == len(op.results) and not taken) or not context.take("tidy the branches", op):
            return False
        regions = [r.clone() for r in op.regions]
        for region in regions:
            region.outputs = [region.outputs[k] for k in kept]
            _settle(region, 0, given, wanted)
        made = graph.add("if", [op.operands[0], *(given[k] for k in wanted)], op.attrs, regions=regions, loc=op.loc, before=op,
                         types=[op.results[k].type for k in kept])
        _replace(op, kept, made.results)
        return True

    def _loop(self, graph: Graph, op: Op, context: Context) -> bool:
        body, carried = op.regions[0], op.attrs["carried"]
        start, given = list(op.operands[2:2 + carried]), list(op.operands[2 + carried:])
        if trip_count(op.view(), body) == 0 and all(_known(r) for r in op.results) and context.take("remove a loop", op):
            context.because(op, "it never runs")
            build = Builder(graph, before=op, loc=op.loc)
            empty = [build.const(np.zeros(r.static_shape, r.dtype.numpy)) for r in op.results[carried:]]
            op.replace_with([*start, *empty])  # type: ignore[list-item]
            return True
        same = [k for k in range(carried) if body.outputs[1 + k] is body.inputs[2 + k]]
        idle = [k for k in range(carried) if k not in same and not body.inputs[2 + k].uses and not op.results[k].uses]
        scans = [k for k in range(carried, len(op.results)) if op.results[k].uses]
        taken, wanted = _captures(given, [body], 2 + carried)
        tidy = not same and not idle and not taken and not body.inputs[1].uses
        if (tidy and len(scans) == len(op.results) - carried) or not context.take("tidy the body", op):
            return False
        if same:
            context.because(op, "what it carries without changing it is captured: "
                                + ", ".join(f"%{body.inputs[2 + k].name or k}" for k in same))
        kept = [k for k in range(carried) if k not in same and k not in idle]
        copy = body.clone()
        _true(copy)
        copy.outputs = [copy.outputs[0], *(copy.outputs[1 + k] for k in (*kept, *scans))]
        copy.inputs = [*copy.inputs[:2], *(copy.inputs[2 + k] for k in (*kept, *same)), *copy.inputs[2 + carried:]]
        given = [start[k] for k in same] + given
        _, wanted = _captures(given, [copy], 2 + len(kept))
        _settle(copy, 2 + len(kept), given, wanted)
        made = graph.add("loop", [*op.operands[:2], *(start[k] for k in kept), *(given[k] for k in wanted)],
                         {**op.attrs, "carried": len(kept)}, regions=[copy], loc=op.loc, before=op,
                         types=[op.results[k].type for k in (*kept, *scans)])
        for k in same:
            value = start[k]
            assert value is not None
            op.results[k].replace_all_uses_with(value)
        _replace(op, [*kept, *scans], made.results)
        return True

    def _bound(self, graph: Graph, op: Op, context: Context) -> bool:
        body, carried = op.regions[0], op.attrs["carried"]
        trip = op.operand("trip")
        if not context.target.has_loops or op.attrs["rows"] is not None or len(op.results) == carried or trip is None:
            return False
        if trip.constant is None or trip.constant.size != 1 or trip_count(op.view(), body) is not None:
            return False
        rows = max(int(trip.constant.reshape(-1)[0]), 0)
        stacked = body.outputs[1 + carried:]
        if rows > MOST_ROWS or not all(map(_known, stacked)):
            return False
        if rows * sum(math.prod(v.static_shape) * v.dtype.itemsize for v in stacked) > MOST_BYTES:
            return False
        build = Builder(graph, before=op, loc=op.loc)
        copy = body.clone()
        inputs, outputs = list(copy.inputs), list(copy.outputs)
        number = copy.add_input(TensorType(I64, ()), "count")
        copy.inputs = [*inputs[:2 + carried], number, *inputs[2 + carried:]]
        for k, v in enumerate(copy.inputs):
            v.index = k
        copy.outputs = [*outputs[:1 + carried], Builder(copy).add(number, 1), *outputs[1 + carried:]]
        zero = build.const(np.int64(0))
        made = graph.add("loop", [*op.operands[:2 + carried], zero, *op.operands[2 + carried:]],
                         {"carried": carried + 1, "rows": rows}, regions=[copy], loc=op.loc, before=op,
                         types=[*(r.type for r in op.results[:carried]), zero.type,
                                *(TensorType(v.dtype, (rows, *v.static_shape)) for v in stacked)])
        what = "give the scan outputs of a loop that may end early all their rows"
        if not context.target.loops(made) or not context.take(what, op):
            made.erase()
            return False
        context.because(op, f"its scan outputs lie in tensors of {rows} rows, cut to the length that they turn out to have")
        there = build.less(build.const(np.arange(rows)), made.results[carried])
        scans = [graph.add("compress", [v, there], {"axis": 0}, loc=op.loc, before=op, types=[old.type]).result
                 for v, old in zip(made.results[carried + 1:], op.results[carried:])]
        _replace(op, range(len(op.results)), [*made.results[:carried], *scans])
        return True


def _known(v: Value) -> bool:
    return isinstance(v.type, TensorType) and v.type.is_static


def _captures(given: Sequence[Value | None], regions: Sequence[Graph], first: int = 0) -> tuple[bool, list[int]]:
    """Which captures, the first of which is input `first` of the regions, are wanted: each value once, no constants, and only
    where a region uses it; and whether that is fewer than there are."""
    wanted: list[int] = []
    for k, v in enumerate(given):
        used = any(r.inputs[first + k].uses for r in regions)
        again = any(given[j] is v and all(r.inputs[first + j].type == r.inputs[first + k].type for r in regions) for j in wanted)
        if v is not None and used and not again and not _constant(v, [r.inputs[first + k] for r in regions]):
            wanted.append(k)
    return len(wanted) < len(given), wanted


def _constant(v: Value, inside: Sequence[Value]) -> bool:
    return v.op is not None and v.op.name == "const" and all(i.type == v.type for i in inside)


def _settle(region: Graph, first: int, given: Sequence[Value | None], wanted: Sequence[int]) -> None:
    """Let a region's inputs from `first` on be those captures alone; constants, and what is captured twice, are put in place of
    the others."""
    for k, v in enumerate(given):
        inner = region.inputs[first + k]
        if k in wanted or not inner.uses:
            continue
        assert v is not None
        if v.op is not None and v.op.name == "const" and v.type == inner.type:
            head = next(iter(region.ops), None)
            inner.replace_all_uses_with(region.constant(v.op.attrs["value"], loc=v.op.loc, before=head))
        else:
            twin = next(j for j in wanted if given[j] is v and region.inputs[first + j].type == inner.type)
            inner.replace_all_uses_with(region.inputs[first + twin])
    region.inputs = [*region.inputs[:first], *(region.inputs[first + k] for k in wanted)]
    for k, v in enumerate(region.inputs):
        v.index = k


def _true(body: Graph) -> None:
    """Within an iteration the condition is true."""
    if body.inputs[1].uses:
        keep = body.inputs[1]
        true = np.ones(keep.static_shape if _known(keep) else (), bool)
        keep.replace_all_uses_with(body.constant(true, before=next(iter(body.ops), None)))


def _replace(op: Op, kept: Sequence[int], made: Sequence[Value]) -> None:
    """Let the results of those numbers be others, and erase the op."""
    for k, v in zip(kept, made, strict=True):
        v.name = v.name or op.results[k].name
        op.results[k].replace_all_uses_with(v)
    op.erase()


__all__ = ["Bodies"]
