"""Elementwise ops go into the image of the convolution that alone reads their result."""

from __future__ import annotations

from graphopt.ir.graph import Op
from graphopt.rewrite.fuse.merge import Merge
from graphopt.targets.capabilities import Capabilities


class Absorb(Merge):
    """Before: fused ops, layouts chosen. After: where the target says that a convolution's kernel can compute its image piece
    by piece, the elementwise ops that make it are in the convolution's fused op. Values are unchanged.
    """

    name = "absorb"
    kind = "contraction"
    step, done = "compute an image in the convolution that reads it", "its image is computed in it"

    def why(self, target: Capabilities, first: Op, second: Op) -> str | None:
        return target.absorbs(first, second)


__all__ = ["Absorb"]
