"""Making fused ops: what passes that fuse have in common."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir.fused import ends, held, outsides
from graphopt.ir.graph import Graph, Op, Value
from graphopt.ir.types import logical
from graphopt.rewrite.engine.pattern import merge_locs


class Body:
    """The body of a fused op in the making. `inside` says what stands in it for which value outside of it; what its ops read
    and nothing in it makes becomes an operand."""

    def __init__(self) -> None:
        self.graph = Graph("body")
        self.inside: dict[Value, Value] = {}
        self.operands: list[Value] = []

    def read(self, v: Value) -> Value:
        """What stands for a value."""
        if v not in self.inside:
            self.operands.append(v)
            self.inside[v] = self.graph.add_input(logical(v.type), v.name)
        return self.inside[v]

    def hold(self, const: Op) -> None:
        """Have a constant in the body itself."""
        held = self.inside[const.result] = self.graph.constant(const.attrs["value"], loc=const.loc)
        held.name = const.result.name

    def copy(self, op: Op) -> None:
        """The op, on what stands for its operands."""
        values = [None if v is None else self.read(v) for v in op.operands]
        new = self.graph.add(op.name, values, op.attrs, loc=op.loc, types=[logical(r.type) for r in op.results])
        for old, copy in zip(op.results, new.results):
            self.inside[old] = copy
            copy.name = old.name

    def splice(self, op: Op) -> None:
        """The op, or all that is in it where it is fused."""
        for v, outer in outsides(op).items():
            self.inside[v] = self.read(outer)
        for o in held(op):
            if o.name == "const":
                self.hold(o)
            else:
                self.copy(o)
        self.inside.update(zip(op.results, [self.inside[v] for v in ends(op)]))

    def finish(self, root: Op, kind: str, members: Sequence[Op]) -> Op:
        """The fused op in place of `root`, whose results are its own; `members` are those that it came from."""
        assert root.graph is not None
        self.graph.outputs = [self.inside[r] for r in root.results]
        fused = root.graph.add("fused", self.operands, {"kind": kind}, regions=[self.graph], loc=merge_locs(members), before=root,
                               types=[r.type for r in root.results])
        root.replace_with(fused.results)
        return fused


__all__ = ["Body"]
