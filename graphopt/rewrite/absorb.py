"""Elementwise ops go into the image of the convolution that alone reads their result."""

from __future__ import annotations

from graphopt.ir.graph import Graph
from graphopt.rewrite.context import Context
from graphopt.rewrite.manager import Pass
from graphopt.rewrite.stream import image_of, merge


class Absorb(Pass):
    """Before: fused ops, layouts chosen. After: where the target says that a convolution's kernel can compute its image piece
    by piece, the elementwise ops that make it are in the convolution's fused op. Values are unchanged.
    """

    name = "absorb"

    def run(self, graph: Graph, context: Context) -> bool:
        ask = getattr(context.target, "absorbs", None)
        if ask is None:
            return False
        changed = False
        for second in list(graph.ops):
            first = image_of(second)
            reason = None if first is None else ask(first, second)
            if first is None or reason is None:
                continue
            if not context.take("compute an image in the convolution that reads it", second):
                return changed
            context.because(second, f"computes its image ({first.name}): {reason}")
            merge(graph, first, second, "contraction")
            changed = True
        return changed


__all__ = ["Absorb"]
