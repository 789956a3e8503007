"""Elementwise ops go into the image of the convolution that alone reads their result."""

from __future__ import annotations

from graphopt.rewrite.merge import Merge


class Absorb(Merge):
    """Before: fused ops, layouts chosen. After: where the target says that a convolution's kernel can compute its image piece
    by piece, the elementwise ops that make it are in the convolution's fused op. Values are unchanged.
    """

    name = "absorb"
    question, kind = "absorbs", "contraction"
    step, done = "compute an image in the convolution that reads it", "its image is computed in it"


__all__ = ["Absorb"]
