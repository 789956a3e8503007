"""Row-major images and their convolutions: what the kernels of the register block share, in which m is the output channel and n
the pixels, which NCHW keeps contiguous. Weights are packed once, [CO/MR][K][MR]."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from graphopt.codegen.kernel.expr import INDEX, Buffer, Expr, clamp, const, select
from graphopt.codegen.kernel.index import flat_index
from graphopt.codegen.kernel.loops import Stmt, seq
from graphopt.codegen.lower.kernels import Packing
from graphopt.codegen.lower.schedule import Output, iteration, schedule
from graphopt.codegen.x86.kernels.conv.operands import Convolution
from graphopt.codegen.x86.kernels.tile import Tile
from graphopt.ir.types import DType

Pixels = Callable[[Expr, Expr, Sequence[Expr]], Expr]  # of (batch, channel, position) in the padded image


class RowMajor(Convolution):
    """A convolution of row-major images."""

    def pack_left(self, rows: int) -> Buffer | None:
        """The weights packed for tiles of so many rows; None where they stay as they are."""
        p = self.problem
        return self.pack(self.w, _pack_left(p.groups, p.outs, p.depth, rows, self.dtype), self.dtype) \
            if self.packable(self.w) else None

    def image(self, slack: int = 0) -> tuple[Stmt, Pixels]:
        """Statements that make the zero-padded image, where it needs any, and access to it.

        With `slack` it is a copy in any case, and so many elements of any value can be read after its end.
        """
        shape, p = self.x.static_shape, self.problem
        if p.padded == p.image and not slack:
            return seq(), lambda b, c, at: self.element(self.x, flat_index([b, c, *at], shape))
        full = (*shape[:2], *p.padded)
        copy = Buffer("image", self.dtype, (math.prod(full) + slack,))
        self.scratch.append(copy)
        vars = iteration(full)
        index = [v if n != 1 else const(0, INDEX) for v, n in zip(vars, full)]
        inside: Expr = const(True, "bool")
        at = []
        for v, before, n in zip(index[2:], p.before, p.image):
            inside = inside & (v >= before) & (v < n + before)
            at.append(clamp(v - before, 0, n - 1))
        value = select(inside, self.element(self.x, flat_index([*index[:2], *at], shape)), const(0, self.dtype))
        fill = schedule(vars, full, [Output(copy, value)], self.style)
        return fill, lambda b, c, at: copy[flat_index([b, c, *at], full)]


def _pack_left(groups: int, outs: int, depth: int, rows: int, d: DType) -> Packing:
    tiles = -(-outs // rows)
    starts = [min(t * rows, outs - rows) for t in range(tiles)]

    def parts(w: np.ndarray) -> Iterator[np.ndarray]:
        for group in w.reshape(groups, outs, depth):
            for s in starts:
                yield group[s:s + rows].T.astype(d.numpy, copy=False)

    return Packing(f"left{rows}x{groups}{d}", groups * tiles * depth * rows * d.itemsize, parts)


def weight_at(conv: RowMajor, packed: Buffer | None, tile: Tile, group: Expr, row_tile: Expr, first: Expr, row: int,
              place: Expr) -> Expr:
    """Element `place` of the weights of a tile's `row`: packed, or where they lie, of channel `first + row`."""
    p = conv.problem
    if packed is not None:
        return packed[((group * -(-p.outs // tile.rows) + row_tile) * p.depth + place) * tile.rows + row]
    return conv.element(conv.w, (group * p.outs + first + row) * p.depth + place)


__all__ = ["Pixels", "RowMajor", "weight_at"]
