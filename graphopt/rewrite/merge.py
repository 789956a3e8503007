"""Two kernels become one where the target says that the second should take what the first makes piece by piece."""

from __future__ import annotations

from typing import ClassVar

from graphopt.ir.fused import ends, held, only, outside, outsides
from graphopt.ir.graph import Graph, Op, Value
from graphopt.ir.types import logical
from graphopt.rewrite.context import Context
from graphopt.rewrite.manager import Pass
from graphopt.rewrite.pattern import merge_locs


class Merge(Pass):
    """Joins a convolution with the op whose result is its image, into a fused op. `question` names what the target is asked
    (why two ops should be one, None where they should not), `kind` is that of the fused op, `step` and `done` say it."""

    question: ClassVar[str]
    kind: ClassVar[str]
    step: ClassVar[str]
    done: ClassVar[str]

    def run(self, graph: Graph, context: Context) -> bool:
        ask = getattr(context.target, self.question, None)
        if ask is None:
            return False
        changed = False
        for second in list(graph.ops):
            first = image_of(second)
            reason = ask(first, second) if first is not None else None
            if first is None or reason is None:
                continue
            if not context.take(self.step, second):
                return changed
            context.because(second, f"{self.done} ({first.name}, {second.name}): {reason}")
            merge(graph, first, second, self.kind)
            changed = True
        return changed


def image_of(op: Op) -> Op | None:
    """The op whose result a convolution, alone or fused, reads as its image."""
    conv = only(op, "conv")
    return None if conv is None or conv.operands[0] is None else outside(op, conv.operands[0]).op


def merge(graph: Graph, first: Op, second: Op, kind: str) -> None:
    """Make two ops, each alone or fused, one fused op of that kind; only the second reads what the first makes."""
    body = Graph("body")
    given: dict[Value, Value] = {}
    operands: list[Value] = []

    def taken(v: Value) -> Value:
        if v not in given:
            operands.append(v)
            given[v] = body.add_input(logical(v.type), v.name)
        return given[v]

    def splice(op: Op) -> list[Value]:
        """The op, or what it holds, into the body; its results there."""
        inside = {v: taken(o) for v, o in outsides(op).items()}
        for o in held(op):
            if o.name == "const":
                inside[o.result] = body.constant(o.attrs["value"], loc=o.loc)
                continue
            values = [None if v is None else inside[v] for v in o.operands]
            copy = body.add(o.name, values, o.attrs, loc=o.loc, types=[logical(r.type) for r in o.results])
            for old, new in zip(o.results, copy.results):
                inside[old] = new
                new.name = old.name
        return [inside[v] for v in ends(op)]

    (middle,) = splice(first)
    given[first.result] = middle
    body.outputs = splice(second)
    fused = graph.add("fused", operands, {"kind": kind}, regions=[body], loc=merge_locs([first, second]), before=second,
                      types=[r.type for r in second.results])
    second.replace_with(fused.results)
    first.erase()


__all__ = ["Merge", "image_of", "merge"]
