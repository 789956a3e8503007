"""The passes' questions, answered for x86."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.codegen.lower.capabilities import Lowered
from graphopt.codegen.lower.registry import why_not
from graphopt.codegen.program import control
from graphopt.codegen.x86 import batches, layouts
from graphopt.codegen.x86.costs import costs_of
from graphopt.codegen.x86.kernels import contraction
from graphopt.codegen.x86.kernels.conv import prologue, streamed
from graphopt.codegen.x86.templates import TEMPLATED
from graphopt.ir.graph import Op, Value
from graphopt.ir.table import DECOMPOSITIONS
from graphopt.targets.base import Choice
from graphopt.targets.x86 import X86


class X86Capabilities(Lowered):
    """What the kernels for one x86 CPU take in, and what they cost in which layout."""

    has_loops = True

    def __init__(self, target: X86) -> None:
        self.target, self.costs = target, costs_of(target)

    def keeps(self, op: Op) -> bool:
        return why_not(op, TEMPLATED) is None

    def loops(self, op: Op) -> bool:
        return control.why_not(op, {*TEMPLATED, *DECOMPOSITIONS}) is None

    def takes(self, op: Op, k: int) -> bool:
        return contraction.takes(op, k, self.target)

    def places(self, op: Op) -> bool:
        return contraction.places(op, self.target)

    def layout_choice(self, op: Op) -> Choice | None:
        return layouts.layout_choice(op, self.target)

    def conversion(self, v: Value) -> tuple[float, float]:
        return layouts.conversion(v, self.costs)

    def room(self, op: Op, v: Value) -> tuple[int, int] | None:
        return layouts.room(op, v, self.costs)

    def room_between(self, channels: int, itemsize: int) -> int:
        return self.costs.room_between(channels, itemsize)

    def parts(self, ops: Sequence[Op], cuts: Sequence[int], batch: int) -> tuple[int, int] | None:
        kernels = next((k for k, op in enumerate(ops) if not self.keeps(op)), len(ops))  # host ops cost by the call
        return batches.parts(ops, [cut for cut in cuts if cut <= kernels], batch, self.target)

    def joins(self, op: Op) -> bool:
        return len(op.results) == 1 and op.name != "transpose" and why_not(op) is None

    def streams(self, first: Op, second: Op) -> str | None:
        return streamed.pays(first, second, self.target)

    def absorbs(self, first: Op, second: Op) -> str | None:
        return prologue.absorbs(first, second)


__all__ = ["X86Capabilities"]
