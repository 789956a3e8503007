"""Layout selection: how every image lies in memory, decided for the whole graph at once (for the body of a branch or
loop by itself: what goes in and out of it is row-major).

Each op is computed either row-major or channels last; the target says what each costs. A value that is made one way and
read the other is converted once. With two labels the cheapest labelling is a minimum cut (Greig, Porteous and Seheult,
J. R. Stat. Soc. B 51, 1989), so the answer is exact on any graph, not only on trees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import networkx as nx

from graphopt.ir.graph import Graph, Op, Value
from graphopt.ir.types import AXES, TensorType, channels_last
from graphopt.rewrite.engine.context import Context
from graphopt.rewrite.engine.manager import GraphPass
from graphopt.targets.base import Choice
from graphopt.targets.capabilities import Capabilities

TIE = 1.0  # cycles that row-major is preferred by: what has no reason to change stays as it is
STEPS = 1 << 20  # of a cycle: the cut is found in whole numbers, since an edge that rounding leaves not quite full misleads it
ROW, LAST = "row-major", "channels last"


class Layout(GraphPass):
    """Before: row-major values. After: images are channels last where that is cheaper over the whole graph, with the halo
    that their convolutions need, and `relayout` ops where a value is read the other way. Values are unchanged.
    """

    name = "layout"

    def run_on(self, graph: Graph, context: Context) -> bool:
        choices = {op: c for op in graph.ops if op.name != "const" and (c := _choice(op, context.target)) is not None}
        if not any(c.last is not None and c.last + TIE < c.row for c in choices.values()):
            return False
        last = _cut(graph, choices, context.target.conversion)
        if not last or not context.take(f"lay out {len(last)} ops channels last", next(iter(last))):
            return False
        for op in graph.ops:
            if op in last:
                _explain(op, choices[op], context, LAST)
                for r in op.results:
                    if choices[op].result and depends(r):
                        assert isinstance(r.type, TensorType)
                        r.type = replace(r.type, layout=channels_last(len(r.type.static_shape)))
            elif op in choices and choices[op].last is not None:
                _explain(op, choices[op], context, ROW)
        _convert(graph, choices, last, context)
        _room(graph, last, choices, context)
        return True


def _choice(op: Op, target: Capabilities) -> Choice | None:
    if any(not isinstance(v.type, TensorType) or not v.type.is_static for v in (*op.operands, *op.results) if v is not None):
        return None
    return target.layout_choice(op)


def depends(v: Value) -> bool:
    """Does the layout change anything? Not for one pixel, nor for one channel, nor below rank 3."""
    t = v.type
    if not isinstance(t, TensorType) or not t.is_static or len(t.static_shape) not in AXES:
        return False
    _, c, *spatial = t.static_shape
    return c > 1 and any(n > 1 for n in spatial)


def _cut(graph: Graph, choices: dict[Op, Choice], conversion: Callable[[Value], tuple[float, float]]) -> set[Op]:
    """The ops that are channels last in the cheapest labelling. The source's side is row-major."""
    net = nx.DiGraph()
    row, last = "row", "last"
    net.add_nodes_from((row, last))

    def edge(a: Any, b: Any, capacity: float | None) -> None:
        """Pay `capacity` (None: never) where a is row-major and b channels last."""
        if capacity is None:
            net.add_edge(a, b)  # an edge without capacity is infinite
        elif not net.has_edge(a, b):
            net.add_edge(a, b, capacity=round(capacity * STEPS))
        elif "capacity" in net[a][b]:
            net[a][b]["capacity"] += round(capacity * STEPS)

    for op, c in choices.items():
        edge(op, last, c.row)
        edge(row, op, None if c.last is None else c.last + TIE)
    for v in graph.values():
        if not depends(v) or v.constant is not None:
            continue
        convert, either = (c + TIE for c in conversion(v))
        made: Any = v.op if v.op in choices and choices[v.op].result else row
        for user, i in v.uses:
            choice = choices.get(user)
            reads = "row" if choice is None else choice.reads[i]
            if reads == "either":
                if made is not row:
                    edge(user, made, convert)
                edge(made, user, either)
                continue
            reader: Any = user if reads == "same" else row
            # One conversion serves all readers of a kind.
            if made is not row:
                edge(reader, ("to row", v), None)
                net.add_edge(("to row", v), made, capacity=round(convert * STEPS))
            if reader is not row:
                edge(("to last", v), reader, None)
                net.add_edge(made, ("to last", v), capacity=round(convert * STEPS))
    _, (rows, _) = nx.minimum_cut(net, row, last)
    return {op for op in choices if op not in rows}


def _convert(graph: Graph, choices: dict[Op, Choice], last: set[Op], context: Context) -> None:
    """Insert a relayout where a value is read in another layout than it has."""
    for v in list(graph.values()):
        if not depends(v) or v.constant is not None:
            continue
        assert isinstance(v.type, TensorType)
        converted: Value | None = None
        for user, i in list(v.uses):
            c = choices.get(user)
            reads = "row" if c is None else c.reads[i]
            if reads == "either" and user in last:
                continue
            wanted = channels_last(len(v.type.static_shape)) if reads == "same" and user in last else None
            if wanted == v.type.layout:
                continue
            if converted is None:
                first = v.op.next if v.op is not None else next(iter(graph.ops))
                op = graph.add("relayout", [v], {}, types=[replace(v.type, layout=wanted)],
                               loc=v.op.loc if v.op is not None else (), before=first)
                context.because(op, f"converted from {LAST if wanted is None else ROW}: {user.name} reads it so")
                converted = op.result
            user.set_operand(i, converted)


def _room(graph: Graph, last: set[Op], choices: dict[Op, Choice], context: Context) -> None:
    """Give a value the zero border and the pitch that the kernels reading it like, where all that read it can skip them."""
    for v in graph.values():
        if not isinstance(v.type, TensorType) or v.type.layout is None or v.op is None:
            continue
        if (v.op not in choices and v.op.name != "relayout") or v.op.name == "transpose":
            continue
        if any(user is graph.return_op or (user not in choices and user.name != "relayout") or user.name == "transpose"
               for user in v.users):
            continue
        wanted = [room for user in v.users if user in last and (room := context.target.room(user, v)) is not None]
        if not wanted:
            continue
        halo, pitch = max(h for h, _ in wanted), max(p for _, p in wanted)
        if halo or pitch:
            v.type = replace(v.type, layout=replace(v.type.layout, halo=halo, pitch=pitch))
        if halo:
            context.because(v, f"keeps a zero border of {halo} for the windows that read it")
        if pitch:
            context.because(v, f"takes {pitch} elements a pixel: at a power of two, pixels share few sets of the L1 cache")


def _explain(op: Op, c: Choice, context: Context, chosen: str) -> None:
    costs = f"{ROW} {c.row:.3g} cycles, {LAST} " + ("not possible" if c.last is None else f"{c.last:.3g}")
    context.because(op, f"{chosen}: {costs}; conversions of neighbours counted")


__all__ = ["Layout", "depends"]
