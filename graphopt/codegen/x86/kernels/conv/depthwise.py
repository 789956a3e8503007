"""Depthwise convolutions whose result lies channels last: rows of the image in registers.

Vectors run along the channels. A box of output pixels stays in accumulators; every element of x that the box needs is
loaded once and multiplied into all outputs whose windows cover it, so that a 3x3 window costs 4 loads or fewer instead
of 9. Windows are written out; tall ones row by row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from graphopt.codegen.kernel.expr import INDEX, Buffer, Expr, ExprLike, Var, as_expr, const, fma, minimum
from graphopt.codegen.kernel.index import flat_index, split_index
from graphopt.codegen.kernel.loops import Alloc, For, Stmt, nest, seq, store
from graphopt.codegen.kernel.spaces import Scope, Space
from graphopt.codegen.lower.kernels import Lowered, Packing
from graphopt.codegen.lower.tuning import best_of
from graphopt.codegen.x86.costs import costs_of
from graphopt.codegen.x86.kernels.conv.channels_last import ChannelsLast
from graphopt.ir.fused import outside
from graphopt.ir.graph import Op, Value
from graphopt.ir.types import DType
from graphopt.targets.x86 import X86

WRITTEN_OUT = 9  # window positions up to which a box is more than one row high, and all of its code one block


@dataclass(frozen=True)
class Window:
    """What a box of outputs reads along the two innermost spatial axes."""

    size: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]

    def reach(self, axis: int, outputs: int) -> int:
        """Elements of x from the first to the last that `outputs` neighbours need."""
        return (outputs - 1) * self.stride[axis] + (self.size[axis] - 1) * self.dilation[axis] + 1

    def covers(self, axis: int, outputs: int, at: int) -> list[tuple[int, int]]:
        """The outputs that element `at` goes into, each with its position in their windows."""
        s, d = self.stride[axis], self.dilation[axis]
        return [(o, (at - o * s) // d) for o in range(outputs)
                if (at - o * s) % d == 0 and 0 <= (at - o * s) // d < self.size[axis]]


@dataclass(frozen=True)
class Strip:
    """A register tile: `high` by `wide` pixels, `vectors` vectors of channels."""

    high: int
    wide: int
    vectors: int

    @property
    def family(self) -> object:
        """What makes strips differ much."""
        return self.vectors, self.high


def choose_strip(height: int, width: int, channels: int, window: Window, lanes: int, machine: X86) -> tuple[float, Strip]:
    """The strip that takes the fewest cycles for one image of `channels`, and those cycles."""
    return best_of(strips(height, width, channels, window, lanes, machine))


def strips(height: int, width: int, channels: int, window: Window, lanes: int, machine: X86,
           steps: int = 1) -> Iterator[tuple[float, Strip]]:
    """All strips with those cycles; of the same number, the smallest. `steps`: channels of x that an output reads; where there
    are several, each is brought to its lanes by a shuffle."""
    taps, costs = math.prod(window.size), costs_of(machine)
    for vectors in (1, 2):
        if vectors > 1 and vectors * lanes > channels:
            continue
        panels = -(-channels // (vectors * lanes))
        for high in (1, 2, 3) if taps <= WRITTEN_OUT else (1,):
            for wide in range(1, min(width, 16) + 1):
                # Accumulators, a row's weights where they fit, and what is loaded.
                if high > height or high * wide * vectors + min(window.size[1], 3) + 2 > machine.registers:
                    continue
                if wide > 1 and -(-width // wide) == -(-width // (wide - 1)):
                    continue
                rows = [r for r in range(window.reach(0, high)) if window.covers(0, high, r)]
                columns = [c for c in range(window.reach(1, wide)) if window.covers(1, wide, c)]
                adds = taps * high * wide * vectors
                loads = (len(rows) * len(columns) + taps) * vectors
                tiles = -(-height // high) * -(-width // wide) * panels
                shuffles = len(rows) * len(columns) * vectors if steps > 1 else 0
                step = max((adds + shuffles) / machine.fma, loads / costs.loads, taps * costs.latency / 2)
                cycles = tiles * (steps * step + high * wide * vectors + costs.strip_start)
                yield cycles, Strip(high, wide, vectors)


def is_depthwise(conv: Op) -> bool:
    """As many groups as channels, and one result each."""
    w = conv.operands[1]
    assert w is not None
    return w.static_shape[1] == 1 and conv.attrs["groups"] == conv.result.static_shape[1]


def covers(op: Op, conv: Op) -> bool:
    """Is there a kernel here for the convolution in `op`, should it lie channels last?"""
    return is_depthwise(conv) and can_last(op, conv)


def can_last(op: Op, conv: Op) -> bool:
    """Could a convolution by vectors of channels of x lie channels last?"""
    w = conv.operands[1]
    assert w is not None
    return outside(op, w).constant is not None and min(conv.attrs["pad"]) >= 0 and conv.result.dtype.is_float


def window_of(conv: Op) -> Window:
    """Of the two innermost spatial axes; a row's height is one."""
    w = conv.operands[1]
    assert w is not None
    last = lambda sizes: (*(1,) * (2 - len(sizes)), *sizes[-2:])
    return Window(*(last(tuple(s)) for s in (w.static_shape[2:], conv.attrs["stride"], conv.attrs["dilation"])))


class Depthwise(ChannelsLast):
    """One channel to one channel."""

    steps = 1  # channels of x that an output reads
    vectors_held = 1  # registers that a vector of x takes on its way to the lanes of the outputs

    def build(self) -> Lowered | None:
        x, w = self.inner.operands[:2]
        assert x is not None and w is not None
        if not self.examine():
            return None
        self.read(x)
        return self.finish(seq(*self.sources.borders(self.style), *self.copied, self.strips(w)))

    def examine(self) -> bool:
        _, w, self.bias = (*self.inner.operands, None)[:3]
        assert w is not None
        attrs, out = self.inner.attrs, self.inner.result.static_shape
        spatial = len(out) - 2
        self.groups, self.batch, self.channels, self.pixels_shape = 1, out[0], out[1], out[2:]
        self.stride, self.dilation, self.before = attrs["stride"], attrs["dilation"], attrs["pad"][:spatial]
        self.window = w.static_shape[2:]
        while self.channels < self.lanes:
            self.lanes //= 2
        return min(attrs["pad"]) >= 0 and self.packable(w)

    def strips(self, w: Value) -> Stmt:
        taps, lanes, channels = window_of(self.inner), self.lanes, self.channels
        *deep, height, width = (1, 1, *self.pixels_shape)[-max(2, len(self.pixels_shape)):]
        strip = self.style.pick("strip", strips(height, width, channels, taps, lanes, self.machine, self.steps))
        high, wide, vectors = strip.high, strip.wide, strip.vectors
        columns = vectors * lanes
        down, across, panels = -(-height // high), -(-width // wide), -(-channels // columns)
        weights = self.pack(w, self.packing(w), self.dtype)

        def unit(worker: Expr, u: Expr) -> Stmt:
            c0 = minimum(u % panels * columns, channels - columns)
            x0 = minimum(u // panels % across * wide, width - wide)
            y0 = minimum(u // (panels * across) % down * high, height - high)
            *outer, b = reversed(split_index(u // (panels * across * down), (self.batch, *deep)))
            first = [*reversed(outer), y0, x0][-len(self.pixels_shape):]

            def pixel(*at: ExprLike) -> list[Expr]:
                return [o + a for o, a in zip(first, (*(0,) * (len(first) - 2), *at)[-len(first):])]

            def element(out: Sequence[ExprLike], v: int, lane: Expr) -> Expr:
                """x at an offset from where the first output's window begins."""
                start = [p * s - q for p, s, q in zip(first, self.stride, self.before)]
                shift = [as_expr(o) for o in out][-len(first):]
                return self.pixel(b, self.source(c0 + v * lanes) + lane, [p + o for p, o in zip(start, shift)])

            def write(at: Sequence[ExprLike], v: ExprLike, lane: Expr, value: Expr) -> list[Stmt]:
                place = [b, c0 + as_expr(v) * lanes + lane, *pixel(*at)]
                return [store(o, offset, y) for o, offset, y in self.epilogue(place, value)]

            def start(v: int, lane: Expr) -> Expr:
                return const(0, self.dtype) if self.bias is None else self.element(self.bias, c0 + v * lanes + lane)

            def weight(at: Sequence[ExprLike], v: int, lane: Expr) -> Expr:
                step, *inside = (as_expr(a) for a in at)
                place = flat_index([step, *inside[-len(self.window):]], (self.steps, *self.window))
                return weights[place * channels + c0 + v * lanes + lane]

            return self.strip(strip, taps, element, weight, start, write)

        depth = math.prod(self.window) * self.steps
        units = self.batch * math.prod(deep) * down * across * panels
        return self.spread(units, self.effort(self.batch * math.prod(self.pixels_shape) * channels * depth), unit)

    def packing(self, w: Value) -> Packing:
        return by_channel(self.dtype, w)

    def source(self, channel: Expr) -> Expr:
        """The first channel of x that outputs from `channel` on read."""
        return channel

    def hold(self, held: Buffer, v: int, vectors: int, element: Callable[[Expr], Expr], step: int) -> Stmt:
        """Load what vector v of the outputs is multiplied by."""
        lane = Var("l", INDEX, 0, self.lanes - 1)
        return For(lane, const(self.lanes, INDEX), store(held, v * self.lanes + lane, element(lane)), Scope.VECTOR)

    def strip(self, strip: Strip, taps: Window, element: Callable[[Sequence[ExprLike], int, Expr], Expr],
              weight: Callable[[Sequence[ExprLike], int, Expr], Expr], start: Callable[[int, Expr], Expr],
              write: Callable[[Sequence[ExprLike], ExprLike, Expr, Expr], list[Stmt]]) -> Stmt:
        """One tile. `element(offsets, vector, lane)` is x at offsets from the first window's begin, `weight((step,
        window position), vector, lane)`; `write(pixel of the strip, vector, lane, value)` stores."""
        lanes, vectors, wide = self.lanes, strip.vectors, strip.wide
        count = strip.high * wide * vectors
        acc = Buffer("acc", self.dtype, (count * lanes,), Space.LOCAL)
        held = Buffer("held", self.dtype, (self.vectors_held * vectors * lanes,), Space.LOCAL)
        place = lambda y, x, v, l: ((y * wide + x) * vectors + v) * lanes + l
        each = [(y, x, v) for y in range(strip.high) for x in range(wide) for v in range(vectors)]

        def vector(make: Callable[..., Sequence[Stmt]], *given: object) -> Stmt:
            lane = Var("l", INDEX, 0, lanes - 1)
            return seq(*(For(lane, const(lanes, INDEX), s, Scope.VECTOR) for s in make(lane, *given)))

        def multiply(l: Expr, y: int, x: int, v: int, at: Sequence[ExprLike]) -> list[Stmt]:
            p = place(y, x, v, l)
            return [store(acc, p, fma(held[v * lanes + l], weight(at, v, l), acc[p]))]

        def row(step: int, offset: Sequence[ExprLike], outputs: Sequence[tuple[int, Sequence[ExprLike]]]) -> list[Stmt]:
            """Multiply a row of x into the rows of outputs it goes to, each with the row of its window."""
            parts = []
            for c in range(taps.reach(1, wide)):
                into = taps.covers(1, wide, c)
                if not into:
                    continue
                for v in range(vectors):
                    parts.append(self.hold(held, v, vectors, partial(element, [*offset, c], v), step))
                    parts += [vector(multiply, y, x, v, (step, *k, j)) for y, k in outputs for x, j in into]
            return parts

        dilation = self.dilation
        *outside, tall = (1, *self.window[:-1])

        def rows(*k: Expr) -> Stmt:
            """The window, at one position of the axes further out."""
            shift = [a * d for a, d in zip(k, (0, *dilation))]
            if math.prod(taps.size) <= WRITTEN_OUT:
                parts: list[Stmt] = []
                for step in range(self.steps):
                    for r in range(taps.reach(0, strip.high)):
                        if into := taps.covers(0, strip.high, r):
                            parts += row(step, [*shift, r], [(y, (*k, i)) for y, i in into])
                return seq(*parts)
            return nest((tall,), lambda i: seq(*(
                s for step in range(self.steps) for s in row(step, [*shift, i * taps.dilation[0]], [(0, (*k, i))]))), ("kh",))

        init = [vector(lambda l, y, x, v: [store(acc, place(y, x, v, l), start(v, l))], y, x, v) for y, x, v in each]
        sums = Alloc(held, nest(outside, rows, ("k0", "kd")))
        if not self.is_long(lanes, lambda lane, value: write((0, 0), 0, lane, value)):
            out = [vector(lambda l, y, x, v: write((y, x), v, l, acc[place(y, x, v, l)]), y, x, v) for y, x, v in each]
            return Alloc(acc, seq(*init, sums, *out))
        # A long epilogue is written once, as a loop; the strip goes through memory, since registers have no index.
        block = Buffer("block", self.dtype, (count * lanes,), Space.LOCAL)
        spill = [vector(lambda l, k: [store(block, k * lanes + l, acc[k * lanes + l])], k) for k in range(count)]
        drain = nest((strip.high, wide, vectors), lambda y, x, v: vector(
            lambda l: write((y, x), v, l, block[((y * wide + x) * vectors + v) * lanes + l])), ("y", "x", "v"), Scope.FEW)
        return Alloc(acc, seq(*init, sums, Alloc(block, seq(*spill, drain))))


def by_channel(d: DType, w: Value) -> Packing:
    """[window][channel]"""

    def parts(array: np.ndarray) -> Iterator[np.ndarray]:
        yield np.ascontiguousarray(np.moveaxis(array[:, 0], 0, -1)).astype(d.numpy, copy=False)

    return Packing(f"depthwise{d}", math.prod(w.static_shape) * d.itemsize, parts)
