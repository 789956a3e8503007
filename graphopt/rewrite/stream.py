"""Streaming: a convolution and the depthwise one that alone reads its result become one kernel."""

from __future__ import annotations

from graphopt.rewrite.merge import Merge


class Stream(Merge):
    """Before: fused ops, layouts chosen. After: where the target says that it pays, two convolutions are one fused op of
    kind="stream", and what was between them is not stored. Values are unchanged.
    """

    name = "stream"
    question, kind = "streams", "stream"
    step, done = "stream rows from one convolution into the next", "streamed"


__all__ = ["Stream"]
