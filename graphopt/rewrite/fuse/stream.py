"""Streaming: a convolution and the depthwise one that alone reads its result become one kernel."""

from __future__ import annotations

from graphopt.ir.graph import Op
from graphopt.rewrite.fuse.merge import Merge
from graphopt.targets.capabilities import Capabilities


class Stream(Merge):
    """Before: fused ops, layouts chosen. After: where the target says that it pays, two convolutions are one fused op of
    kind="stream", and what was between them is not stored. Values are unchanged.
    """

    name = "stream"
    kind = "stream"
    step, done = "stream rows from one convolution into the next", "streamed"

    def why(self, target: Capabilities, first: Op, second: Op) -> str | None:
        return target.streams(first, second)


__all__ = ["Stream"]
