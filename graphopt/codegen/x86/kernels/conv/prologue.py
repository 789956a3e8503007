"""Pointwise convolutions with elementwise ops fused into their image (squeeze-and-excite's scale, DenseNet's norm and relu).

Pixels of such an image are computed once: a block of them, all channels, is packed into memory that stays in cache, and all
panels of output channels run on it. The image is neither written nor read again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from graphopt.codegen.kernel.expr import INDEX, Buffer, Expr, Var, minimum
from graphopt.codegen.kernel.index import split_index
from graphopt.codegen.kernel.loops import For, Let, Stmt, loop, seq
from graphopt.codegen.kernel.spaces import Scope
from graphopt.codegen.lower.kernels import Lowered, Sources
from graphopt.codegen.lower.schedule import Output, Style, schedule
from graphopt.codegen.x86.kernels.conv.boxes import Cut, covers
from graphopt.codegen.x86.kernels.conv.channels_last import TileAt, Tiles, blocks_of, grid_of
from graphopt.codegen.x86.kernels.conv.operands import Convolution
from graphopt.codegen.x86.kernels.conv.pixels import Reduction
from graphopt.codegen.x86.kernels.shares import shares
from graphopt.codegen.x86.kernels.tile import apart
from graphopt.ir.dims import ceil_div
from graphopt.ir.fused import held, kind, only, outside
from graphopt.ir.graph import Op
from graphopt.ir.table import Trait
from graphopt.ir.types import TensorType, lies_channels_last
from graphopt.targets.x86 import X86


def absorbs(first: Op, second: Op) -> str | None:
    """Why the kernel of convolution `second` should compute the image that `first` makes for it alone; None where it has
    no such kernel."""
    if len(first.results) != 1 or len(first.result.uses) != 1:
        return None
    if not all(isinstance(v.type, TensorType) and v.type.is_static for op in (first, second)
               for v in (*op.operands, *op.results) if v is not None):
        return None  # kernels are of fixed shapes
    if kind(first) not in (None, "elementwise"):
        return None
    shape = first.result.static_shape
    if any(not _elementwise(o, shape) for o in held(first)):
        return None
    conv = only(second, "conv")
    if conv is None or kind(second) not in (None, "contraction") or not covers(second, conv):
        return None
    image = conv.operands[0]
    assert image is not None
    if outside(second, image) is not first.result or len(image.uses) != 1:
        return None
    if not all(lies_channels_last(v.type) for v in (first.result, *second.results)) or not is_pointwise(conv):
        return None
    return "each of its pixels is computed once, for all output channels"


def _elementwise(op: Op, shape: tuple[int, ...]) -> bool:
    """Does the op work element by element on images of that shape, or view what is less than an image (a scale's axes)?"""
    own = op.result.static_shape
    if op.name in ("const", "reshape"):
        return op.name == "const" or math.prod(own) < math.prod(shape)
    return op.definition.has(Trait.ELEMENTWISE) and own == shape


def is_pointwise(conv: Op) -> bool:
    """Is each pixel of the result made of the same one of the image?"""
    w = conv.operands[1]
    return w is not None and math.prod(w.static_shape[2:]) == 1 and conv.attrs["groups"] == 1 \
        and all(s == 1 for s in conv.attrs["stride"]) and not any(conv.attrs["pad"]) and 0 not in conv.result.static_shape


def prologue(op: Op, inner: Op, sources: Sources, name: str, style: Style, machine: X86) -> Lowered | None:
    """The kernel of such a convolution; None where weights cannot be packed."""
    conv = Convolution(op, inner, sources, name, style, machine)
    if not conv.packs() or conv.problem.outs == 1:
        return None
    return Prologue(conv).build()


class Prologue:
    """A pointwise convolution that packs blocks of the image that it computes."""

    def __init__(self, conv: Convolution) -> None:
        self.conv, self.problem = conv, conv.problem
        self.grid = grid_of(conv, flat=True)  # what is packed has no borders
        reduction = Reduction(self.problem.window, self.problem.channels)
        self.cut = Cut(self.grid.count, self._blocks(reduction), self.grid.panels)
        self.tiles = Tiles(conv, self.grid, reduction, self.cut)
        self.rows = min(self.cut.most * self.grid.box.pixels, self.problem.pixels)  # pixels that a block packs
        line = conv.costs.line // conv.dtype.itemsize
        self.pitch = (-(-self.problem.channels // line) | 1) * line  # an odd number of cache lines
        self.total = self.problem.batch * self.cut.blocks
        self.own = shares(self.total, self.tiles.effort, conv.style)
        self.room = apart(self.rows * self.pitch, conv.dtype, conv.costs)
        self.packed = Buffer("packed", conv.dtype, (self.own.workers * self.room,))
        conv.scratch.append(self.packed)

    def build(self) -> Lowered:
        """Blocks in contiguous ranges over the threads; in each, pack, then all panels, then all tiles."""
        conv = self.conv
        return conv.finish(seq(*conv.sources.borders(conv.style), self.own.spread(self.own.each(lambda g, _: self.block(g)))))

    def _blocks(self, reduction: Reduction) -> int:
        """Blocks of few tiles, as they shall stay in cache, and alike for all threads."""
        count, threads, l2 = self.grid.count, self.conv.style.threads, self.conv.machine.l2
        tile = self.problem.channels * self.grid.box.pixels * self.conv.dtype.itemsize
        blocks = max(blocks_of(self.conv, self.grid, reduction), ceil_div(count, max(1, min(count, l2 // 4 // tile))))
        if threads < count and blocks < 8 * threads:
            blocks = min(ceil_div(blocks, threads) * threads, count)
        return blocks

    def block(self, which: Expr) -> Stmt:
        cut, pixels, shape = self.cut, self.problem.pixels, self.problem.pixels_shape
        g, start = Var("g", INDEX, 0, self.total - 1), Var("start", INDEX, 0, pixels - self.rows)
        base = self.own.worker * self.room
        first = cut.first(g % cut.blocks)
        size = cut.first(g % cut.blocks + 1) - first
        t = Var("t", INDEX, 0, cut.most - 1)
        before = g // cut.blocks * (cut.panels * cut.count) + first * cut.panels

        def read(tile: TileAt, i: int, k: Sequence[Expr]) -> Expr:
            return self.packed[base + (tile.x0 + i - start) * self.pitch + k[-1]]

        def panel(p: Expr) -> Stmt:
            return For(t, size, self.tiles.step(before + p * size + t, read), Scope.SERIAL)

        fill = self._fill(base, lambda r, c: (g // cut.blocks, c, *split_index(start + r, shape)))
        inside: Stmt = Let(start, minimum(first * self.grid.box.pixels, pixels - self.rows),
                           seq(fill, loop(cut.panels, panel, name="panel")))
        return Let(g, which, inside)

    def _fill(self, base: Expr, place: Callable[[Expr, Expr], Sequence[Expr]]) -> Stmt:
        """Compute the rows of a block from `base` on, `place(row, channel)` of the image each."""
        conv, channels = self.conv, self.problem.channels
        r, c = Var("r", INDEX, 0, self.rows - 1), Var("c", INDEX, 0, channels - 1)
        value = conv.operand(conv.x)(*place(r, c))
        return schedule((r, c), (self.rows, channels), [Output(self.packed, value)], Style(conv.style.lanes),
                        base + r * self.pitch + c)


__all__ = ["absorbs", "is_pointwise", "prologue"]
