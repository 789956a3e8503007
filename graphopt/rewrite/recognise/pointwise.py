"""Convolutions of a single pixel become products of matrices."""

from __future__ import annotations

from graphopt.ir.graph import Value
from graphopt.rewrite.engine.common import static_shape
from graphopt.rewrite.engine.manager import RulePass
from graphopt.rewrite.engine.pattern import Match
from graphopt.rewrite.engine.rules import Rule


def _single(m: Match) -> Value | None:
    """Where an image is one pixel and so is the window, there is nothing to slide: [N, C] times [C, O] (squeeze-and-excite,
    Hu et al., arXiv:1709.01507). The kernel of that needs no layout, and streams its weights over all threads."""
    op = m.root
    x, w, bias = (*op.operands, None)[:3]
    shape, kernel, out = static_shape(x), static_shape(w), static_shape(op.result)
    if x is None or w is None or shape is None or kernel is None or out is None or op.attrs["groups"] != 1:
        return None
    if any(n != 1 for n in (*shape[2:], *kernel[2:], *out[2:])) or any(op.attrs["pad"]):
        return None
    b = m.build
    right = b.transpose(b.reshape(w, shape=list(kernel[:2])), perm=[1, 0])
    y = b.matmul(b.reshape(x, shape=list(shape[:2])), right)
    return b.reshape(y if bias is None else b.add(y, bias), shape=list(out))


class Pointwise(RulePass):
    """Before: convolutions. After: those of one pixel by constant weights are products of matrices; values are the same sums."""

    name = "pointwise"
    rules = (Rule("convolution of one pixel as a product", "conv(%x, #w, ...)", _single, ulps=10),)


__all__ = ["Pointwise"]
