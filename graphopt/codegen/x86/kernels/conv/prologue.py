"""Pointwise convolutions with elementwise ops fused into their image (squeeze-and-excite's scale, DenseNet's norm and relu).

Pixels of such an image are computed once: a block of them, all channels, is packed into memory that stays in cache, and all
panels of output channels run on it. The image is neither written nor read again.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from graphopt.codegen.kernel.expr import INDEX, Buffer, Expr, Var, minimum
from graphopt.codegen.kernel.index import split_index
from graphopt.codegen.kernel.loops import For, Let, Stmt, loop, seq
from graphopt.codegen.kernel.spaces import Scope
from graphopt.codegen.lower.schedule import Output, Style, schedule
from graphopt.codegen.x86.kernels.conv.channels_last import ChannelsLast, Cut, covers
from graphopt.codegen.x86.kernels.shares import shares
from graphopt.codegen.x86.kernels.tile import apart
from graphopt.ir.dims import ceil_div
from graphopt.ir.fused import held, kind, only, outside
from graphopt.ir.graph import Op, Value
from graphopt.ir.table import Trait
from graphopt.ir.types import TensorType, lies_channels_last


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


class Prologue(ChannelsLast):
    """A pointwise convolution that packs blocks of the image that it computes."""

    def read(self, x: Value) -> None:
        self.x, self.access = x, self.operand(x)
        self.copied: list[Stmt] = []
        self.direct, self.planar = True, False

    def flat(self) -> bool:
        return True  # what is packed has no borders

    def contiguous(self) -> bool:
        return False

    def blocks_of(self, count: int, panels: int, depth: int) -> int:
        """Blocks of few tiles, as they shall stay in cache, and alike for all threads."""
        tile = self.channels * self.box.pixels * self.dtype.itemsize
        blocks = super().blocks_of(count, panels, depth)
        blocks = max(blocks, ceil_div(count, max(1, min(count, self.machine.l2 // 4 // tile))))
        threads = self.style.threads
        if threads < count and blocks < 8 * threads:
            blocks = min(ceil_div(blocks, threads) * threads, count)
        self.cut = Cut(count, blocks, panels)
        return blocks

    def spread(self, units: int, effort: int, body: Callable[[Expr, Expr], Stmt]) -> Stmt:
        """Blocks in contiguous ranges over the threads; in each, pack, then all panels, then all tiles."""
        pixels, lane_pitch = math.prod(self.pixels_shape), self.costs.line // self.dtype.itemsize
        cut = self.cut
        blocks = cut.blocks
        total = self.batch * blocks
        rows = min(cut.most * self.box.pixels, pixels)
        pitch = (-(-self.channels // lane_pitch) | 1) * lane_pitch  # an odd number of cache lines
        own, room = shares(total, effort, self.style), apart(rows * pitch, self.dtype, self.costs)
        packed = Buffer("packed", self.dtype, (own.workers * room,))
        self.scratch.append(packed)

        def block(which: Expr, _: Expr) -> Stmt:
            g, start = Var("g", INDEX, 0, total - 1), Var("start", INDEX, 0, pixels - rows)
            base = own.worker * room
            self.packed = lambda pixel, c: packed[base + (pixel - start) * pitch + c]
            r, c = Var("r", INDEX, 0, rows - 1), Var("c", INDEX, 0, self.channels - 1)
            value = self.access(g // blocks, c, *split_index(start + r, self.pixels_shape))
            fill = schedule((r, c), (rows, self.channels), [Output(packed, value)], Style(self.style.lanes), base + r * pitch + c)
            tile = cut.first(g % blocks)
            size = cut.first(g % blocks + 1) - tile
            t = Var("t", INDEX, 0, cut.most - 1)
            before = g // blocks * (cut.panels * cut.count) + tile * cut.panels
            tiles = loop(cut.panels, lambda p: For(t, size, body(own.worker, before + p * size + t), Scope.SERIAL), name="panel")
            inside: Stmt = Let(start, minimum(tile * self.box.pixels, pixels - rows), seq(fill, tiles))
            return Let(g, which, inside)

        return own.spread(own.each(block))


__all__ = ["Prologue", "absorbs", "is_pointwise"]
