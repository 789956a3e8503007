"""Streaming: a convolution and the depthwise one that alone reads its result become one kernel."""

from __future__ import annotations

from typing import Any

from graphopt.ir.graph import Graph, Op, Value
from graphopt.ir.types import logical
from graphopt.rewrite.context import Context
from graphopt.rewrite.manager import Pass
from graphopt.rewrite.pattern import merge_locs


class Stream(Pass):
    """Before: fused ops, layouts chosen. After: where the target says that it pays, two convolutions are one fused op of
    kind="stream", and what was between them is not stored. Values are unchanged.
    """

    name = "stream"

    def run(self, graph: Graph, context: Context) -> bool:
        ask = getattr(context.target, "streams", None)
        if ask is None:
            return False
        changed = False
        for second in list(graph.ops):
            first = image_of(second)
            first = first if first is not None and first.name in ("conv", "fused") else None
            reason = None if first is None or first.attrs.get("kind") == "stream" else ask(first, second)
            if first is None or reason is None:
                continue
            if not context.take("stream rows from one convolution into the next", second):
                return changed
            context.because(second, f"streamed ({first.name}, {second.name}): {reason}")
            merge(graph, first, second, "stream")
            changed = True
        return changed


def image_of(op: Op) -> Op | None:
    """The op whose result a convolution, alone or fused, reads as its image."""
    body = list(op.regions[0].ops) if op.name == "fused" else [op]
    convs = [o for o in body if o.name == "conv"]
    if len(convs) != 1 or convs[0].operands[0] is None:
        return None
    inside = dict(zip(op.regions[0].inputs, op.operands)) if op.name == "fused" else {}
    image = inside.get(convs[0].operands[0], convs[0].operands[0])
    return image.op if image is not None else None


def merge(graph: Graph, first: Op, second: Op, kind: str) -> None:
    """Make two ops, each alone or fused, one fused op of that kind; only the second reads what the first makes."""
    body = Graph("body")
    given: dict[Value, Value] = {}
    operands: list[Value] = []

    def outside(v: Value) -> Value:
        if v not in given:
            operands.append(v)
            given[v] = body.add_input(logical(v.type), v.name)
        return given[v]

    def splice(op: Op) -> list[Value]:
        """The op, or what it holds, into the body; its results there."""
        inside: dict[Value, Value] = {}
        ops: list[Any] = [op]
        if op.name == "fused":
            inside = {v: outside(o) for v, o in zip(op.regions[0].inputs, op.operands) if o is not None}
            ops = list(op.regions[0].ops)
        for o in ops:
            if o.name == "const":
                inside[o.result] = body.constant(o.attrs["value"], loc=o.loc)
                continue
            values = [None if v is None else inside[v] if op.name == "fused" else outside(v) for v in o.operands]
            copy = body.add(o.name, values, o.attrs, loc=o.loc, types=[logical(r.type) for r in o.results])
            for old, new in zip(o.results, copy.results):
                inside[old] = new
                new.name = old.name
        return [inside[v] for v in (op.regions[0].outputs if op.name == "fused" else op.results)]

    (middle,) = splice(first)
    given[first.result] = middle
    body.outputs = splice(second)
    fused = graph.add("fused", operands, {"kind": kind}, regions=[body], loc=merge_locs([first, second]), before=second,
                      types=[r.type for r in second.results])
    second.replace_with(fused.results)
    first.erase()


__all__ = ["Stream", "image_of", "merge"]
