"""Where kernels whose result lies channels last read the pixels of x, and in which order they add them up."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphopt.codegen.kernel.expr import INDEX, Buffer, Expr, const
from graphopt.codegen.kernel.loops import Stmt
from graphopt.codegen.lower.kernels import fill_around, position
from graphopt.codegen.lower.schedule import Output, iteration, schedule
from graphopt.codegen.x86.kernels.conv.operands import Convolution
from graphopt.ir.types import TensorType, channels_last, lies_channels_last


@dataclass(frozen=True)
class Pixels:
    """`at(image, channel, position)` is an element of x, positions from minus the padding on.

    `copied` makes the copy that they are read from, none where they are read `in_place`. `planar`: the copy's rows are rows.
    `runs_on`: channels of neighbours in a row follow each other in memory.
    """

    at: Callable[[Expr, Expr, Sequence[Expr]], Expr]
    copied: tuple[Stmt, ...] = ()
    in_place: bool = True
    planar: bool = False
    runs_on: bool = False


def pixels_of(conv: Convolution, lanes: int) -> Pixels:
    """x in place where its buffer has the halo that windows need, else a copy with its zero border."""
    p, x = conv.problem, conv.x
    t = conv.outside(x).type
    assert isinstance(t, TensorType)
    border, channels = max(*p.before, *p.behind, 0), p.groups * p.channels
    if (t.layout.serves(border) if t.layout is not None else not border) and conv.outside(x) in conv.sources.buffers:
        return Pixels(lambda b, c, at: conv.element(x, position([b, c, *at], t)),
                      runs_on=lies_channels_last(t) and t.storage[-1] == channels)
    # Few channels that lie row-major stay so: rows are copied, not elements.
    planar = t.layout is None and channels < lanes
    place = TensorType(conv.dtype, (p.batch, channels, *(n + q + max(r, 0) for n, q, r in zip(p.image, p.before, p.behind))),
                       None if planar else channels_last(len(x.static_shape)))
    copy = Buffer("padded", conv.dtype, (math.prod(place.static_shape),))
    conv.scratch.append(copy)
    return Pixels(lambda b, c, at: copy[position([b, c, *(i + q for i, q in zip(at, p.before))], place)],
                  tuple(_copied(conv, copy, place)), False, planar, not planar)


def _copied(conv: Convolution, copy: Buffer, place: TensorType) -> list[Stmt]:
    """What makes the copy, `place` by its type, and its border."""
    p, shape, order = conv.problem, conv.x.static_shape, place.storage_axes
    t = conv.outside(conv.x).type
    assert isinstance(t, TensorType)
    vars = iteration(shape)
    index = [v if n != 1 else const(0, INDEX) for v, n in zip(vars, shape)]
    there = position([*index[:2], *(i + q for i, q in zip(index[2:], p.before))], place)
    moved = [Output(copy, conv.element(conv.x, position(index, t)))]
    around = [(0, n, 0) for n in shape[:2]] + [(q, n, max(r, 0)) for q, n, r in zip(p.before, p.image, p.behind)]
    return [*fill_around(copy, place.storage, [around[a] for a in order], conv.style),
            schedule([vars[a] for a in order], [shape[a] for a in order], moved, conv.style, there)]


@dataclass(frozen=True)
class Reduction:
    """The loops over a window and a group's channels: the window's axes, then the channels. `merged`: the last two as one,
    where memory allows; `planar`: channels first, as they lie there."""

    window: tuple[int, ...]
    channels: int
    planar: bool = False
    merged: bool = False

    @property
    def depths(self) -> tuple[int, ...]:
        """Extents of the loops."""
        if self.planar:
            return (self.channels, *self.window)
        if self.merged:
            return (*self.window[:-1], self.window[-1] * self.channels)
        return (*self.window, self.channels)

    @property
    def depth(self) -> int:
        return math.prod(self.depths)

    def split(self, k: Sequence[Expr]) -> list[Expr]:
        """Window position and channel of a step."""
        if self.planar:
            return [*k[1:], k[0]]
        if self.merged:
            *rows, last = k
            return [*rows, const(0, INDEX), last]  # the channel runs on into the next columns
        return list(k)


def reduction_of(conv: Convolution, pixels: Pixels) -> Reduction:
    p = conv.problem
    return Reduction(p.window, p.channels, pixels.planar, pixels.runs_on and p.groups == 1 and p.dilation[-1] == 1)


__all__ = ["Pixels", "Reduction", "pixels_of", "reduction_of"]
