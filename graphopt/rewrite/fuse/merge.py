"""Two kernels become one where the target says that the second should take what the first makes piece by piece."""

from __future__ import annotations

from typing import ClassVar

from graphopt.ir.fused import only, outside
from graphopt.ir.graph import Graph, Op
from graphopt.rewrite.engine.body import Body
from graphopt.rewrite.engine.context import Context
from graphopt.rewrite.engine.manager import GraphPass
from graphopt.targets.capabilities import Capabilities


class Merge(GraphPass):
    """Joins a convolution with the op whose result is its image, into a fused op where `why` gives a reason. `kind` is that of
    the fused op, `step` and `done` say what is done."""

    kind: ClassVar[str]
    step: ClassVar[str]
    done: ClassVar[str]

    def why(self, target: Capabilities, first: Op, second: Op) -> str | None:
        """Why the target wants the two to be one op, None where it does not."""
        raise NotImplementedError

    def run_on(self, graph: Graph, context: Context) -> bool:
        changed = False
        for second in list(graph.ops):
            first = image_of(second)
            reason = self.why(context.target, first, second) if first is not None else None
            if first is None or reason is None:
                continue
            if not context.take(self.step, second):
                return changed
            context.because(second, f"{self.done} ({first.name}, {second.name}): {reason}")
            merge(first, second, self.kind)
            changed = True
        return changed


def image_of(op: Op) -> Op | None:
    """The op whose result a convolution, alone or fused, reads as its image."""
    conv = only(op, "conv")
    return None if conv is None or conv.operands[0] is None else outside(op, conv.operands[0]).op


def merge(first: Op, second: Op, kind: str) -> None:
    """Make two ops, each alone or fused, one fused op of that kind; only the second reads what the first makes."""
    body = Body()
    body.splice(first)
    body.splice(second)
    body.finish(second, kind, [first, second])
    first.erase()


__all__ = ["Merge", "image_of", "merge"]
