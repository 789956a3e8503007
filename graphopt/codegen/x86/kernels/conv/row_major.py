"""Convolutions of row-major images: which kernel does them.

With one output channel a group (depthwise), or few products, there is nothing to block for: one accumulator a lane, over the
padded image. A larger window of stride 1 slides over the padded plane (sliding.py); everything else takes panels of pixels
(panels.py).
"""

from __future__ import annotations

from graphopt.codegen.kernel.expr import INDEX, Expr, const, reduce
from graphopt.codegen.kernel.index import flat_index
from graphopt.codegen.kernel.loops import seq
from graphopt.codegen.lower.kernels import Lowered, Sources
from graphopt.codegen.lower.schedule import Output, Style, iteration, schedule
from graphopt.codegen.x86.kernels.conv.images import RowMajor
from graphopt.codegen.x86.kernels.conv.panels import Panels
from graphopt.codegen.x86.kernels.conv.sliding import Sliding
from graphopt.ir.graph import Op
from graphopt.targets.x86 import X86

LEAST_PRODUCTS = 16  # of all output channels of a group together, from which blocking pays


def row_major(op: Op, inner: Op, sources: Sources, name: str, style: Style, machine: X86) -> Lowered | None:
    """The kernel of a convolution, alone or fused; None where padding is cut away, or where there is less than a vector of
    pixels and weights that change."""
    conv = RowMajor(op, inner, sources, name, style, machine)
    p = conv.problem
    if any(n < 0 for n in (*p.before, *p.after)):
        return None
    if p.outs == 1 or p.depth * p.outs < LEAST_PRODUCTS:
        return direct(conv)
    if p.slides and p.span >= conv.lanes > 1:
        return Sliding(conv).build()
    if not conv.packable(conv.w) and p.pixels < conv.lanes:
        return None
    return Panels(conv).build()


def direct(conv: RowMajor) -> Lowered:
    """Few channels a group: no reuse to block for, one accumulator a lane over the padded image."""
    p = conv.problem
    pad, source = conv.image()
    shape = conv.inner.result.static_shape
    vars = iteration(shape)
    index = [v if n != 1 else const(0, INDEX) for v, n in zip(vars, shape)]

    def term(*r: Expr) -> Expr:
        c, window = r[0], r[1:]
        at = [i * s + k * d for i, s, k, d in zip(index[2:], p.stride, window, p.dilation)]
        pixel = source(index[0], index[1] // p.outs * p.channels + c, at)
        return pixel * conv.element(conv.w, flat_index([index[1], c, *window], conv.w.static_shape))

    total = reduce("sum", [p.channels, *p.window], term)
    if conv.bias is not None:
        total = total + conv.element(conv.bias, index[1])
    outputs = [Output(b, value) for b, _, value in conv.epilogue(index, total)]
    return conv.finish(seq(pad, schedule(vars, shape, outputs, conv.style)))


__all__ = ["row_major"]
