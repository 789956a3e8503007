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
from typing import Protocol

import numpy as np

from graphopt.codegen.kernel.expr import INDEX, Buffer, Expr, ExprLike, Var, as_expr, const, fma, minimum
from graphopt.codegen.kernel.index import flat_index, split_index
from graphopt.codegen.kernel.loops import Alloc, For, Stmt, nest, seq, store
from graphopt.codegen.kernel.spaces import Scope, Space
from graphopt.codegen.lower.kernels import Lowered, Packing, Sources
from graphopt.codegen.lower.schedule import Style
from graphopt.codegen.lower.tuning import best_of
from graphopt.codegen.x86.costs import costs_of
from graphopt.codegen.x86.kernels.conv.operands import Convolution
from graphopt.codegen.x86.kernels.conv.pixels import pixels_of
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


@dataclass(frozen=True)
class Lanes:
    """How x comes to the lanes of the outputs that it is multiplied for: as it lies, one channel to one."""

    lanes: int

    @property
    def steps(self) -> int:
        """Channels of x that an output reads."""
        return 1

    @property
    def registers(self) -> int:
        """Registers that a vector of x takes on its way."""
        return 1

    def source(self, channel: Expr) -> Expr:
        """The first channel of x that outputs from `channel` on read."""
        return channel

    def hold(self, held: Buffer, v: int, vectors: int, element: Callable[[Expr], Expr], step: int) -> Stmt:
        """Load what vector `v` of the outputs is multiplied by in a step."""
        lane = Var("l", INDEX, 0, self.lanes - 1)
        return For(lane, const(self.lanes, INDEX), store(held, v * self.lanes + lane, element(lane)), Scope.VECTOR)


def depthwise(op: Op, inner: Op, sources: Sources, name: str, style: Style, machine: X86) -> Lowered | None:
    """The kernel of a convolution of one channel to one; None where weights cannot be packed."""
    conv = Convolution(op, inner, sources, name, style, machine)
    if not conv.packs():
        return None
    return Strips(conv, Lanes(conv.lanes_for(conv.problem.groups)), by_channel(conv.dtype, conv.w)).build()


class Strips:
    """The kernel: every strip of every panel of channels, a unit of work each."""

    def __init__(self, conv: Convolution, lanes: Lanes, packing: Packing) -> None:
        self.conv, self.problem, self.lanes, self.taps = conv, conv.problem, lanes, window_of(conv.inner)
        p = self.problem
        self.pixels = pixels_of(conv, lanes.lanes)
        self.channels = p.groups * p.outs
        *self.deep, self.height, self.width = (1, 1, *p.pixels_shape)[-max(2, len(p.pixels_shape)):]
        self.strip: Strip = conv.style.pick("strip", strips(
            self.height, self.width, self.channels, self.taps, lanes.lanes, conv.machine, lanes.steps))
        self.columns = self.strip.vectors * lanes.lanes
        self.down, self.across = -(-self.height // self.strip.high), -(-self.width // self.strip.wide)
        self.panels = -(-self.channels // self.columns)
        self.weights = conv.pack(conv.w, packing, conv.dtype)

    def build(self) -> Lowered:
        p, conv = self.problem, self.conv
        units = p.batch * math.prod(self.deep) * self.down * self.across * self.panels
        effort = conv.effort(p.batch * p.pixels * self.channels * math.prod(p.window) * self.lanes.steps)
        body = conv.spread(units, effort, lambda worker, u: strip_code(
            conv, self.strip, self.taps, self.lanes, _StripAt(self, u)))
        return conv.finish(seq(*conv.sources.borders(conv.style), *self.pixels.copied, body))


class Access(Protocol):
    """What a strip reads, and where it stores."""

    def element(self, offset: Sequence[ExprLike], v: int, lane: Expr) -> Expr:
        """x, at an offset from where the window of the strip's first pixel begins."""
        ...

    def weight(self, at: Sequence[ExprLike], v: int, lane: Expr) -> Expr:
        """At (step, *position in the window)."""
        ...

    def start(self, v: int, lane: Expr) -> Expr:
        """What a sum starts with."""
        ...

    def write(self, at: Sequence[ExprLike], v: ExprLike, lane: Expr, value: Expr) -> list[Stmt]:
        """Store the pixel of the strip that is `at` (row, column)."""
        ...


class _StripAt:
    """Unit `u`."""

    def __init__(self, of: Strips, u: Expr) -> None:
        self.of = of
        strip, spatial = of.strip, len(of.problem.pixels_shape)
        self.channel = minimum(u % of.panels * of.columns, of.channels - of.columns)
        x0 = minimum(u // of.panels % of.across * strip.wide, of.width - strip.wide)
        y0 = minimum(u // (of.panels * of.across) % of.down * strip.high, of.height - strip.high)
        *outer, self.image = reversed(split_index(u // (of.panels * of.across * of.down), (of.problem.batch, *of.deep)))
        self.first = [*reversed(outer), y0, x0][-spatial:]  # pixel

    def element(self, offset: Sequence[ExprLike], v: int, lane: Expr) -> Expr:
        p, lanes = self.of.problem, self.of.lanes
        start = [i * s - q for i, s, q in zip(self.first, p.stride, p.before)]
        shift = [as_expr(o) for o in offset][-len(self.first):]
        channel = lanes.source(self.channel + v * lanes.lanes) + lane
        return self.of.pixels.at(self.image, channel, [i + o for i, o in zip(start, shift)])

    def weight(self, at: Sequence[ExprLike], v: int, lane: Expr) -> Expr:
        of, window = self.of, self.of.problem.window
        step, *inside = (as_expr(a) for a in at)
        place = flat_index([step, *inside[-len(window):]], (of.lanes.steps, *window))
        return of.weights[place * of.channels + self.channel + v * of.lanes.lanes + lane]

    def start(self, v: int, lane: Expr) -> Expr:
        return self.of.conv.added(self.channel + v * self.of.lanes.lanes + lane)

    def write(self, at: Sequence[ExprLike], v: ExprLike, lane: Expr, value: Expr) -> list[Stmt]:
        spatial = len(self.first)
        pixel = [o + a for o, a in zip(self.first, (*(0,) * (spatial - 2), *at)[-spatial:])]
        return self.of.conv.put([self.image, self.channel + as_expr(v) * self.of.lanes.lanes + lane, *pixel], value)


def strip_code(conv: Convolution, strip: Strip, taps: Window, lanes: Lanes, access: Access) -> Stmt:
    """The register tile of a strip."""
    return _StripCode(conv, strip, taps, lanes, access).code()


class _StripCode:
    def __init__(self, conv: Convolution, strip: Strip, taps: Window, lanes: Lanes, access: Access) -> None:
        self.conv, self.strip, self.taps, self.lanes, self.access = conv, strip, taps, lanes, access
        self.count = strip.high * strip.wide * strip.vectors
        self.acc = Buffer("acc", conv.dtype, (self.count * lanes.lanes,), Space.LOCAL)
        self.held = Buffer("held", conv.dtype, (lanes.registers * strip.vectors * lanes.lanes,), Space.LOCAL)

    def code(self) -> Stmt:
        lanes, strip, access, acc = self.lanes.lanes, self.strip, self.access, self.acc
        each = [(y, x, v) for y in range(strip.high) for x in range(strip.wide) for v in range(strip.vectors)]
        put = lambda l, y, x, v: [store(acc, self._place(y, x, v, l), access.start(v, l))]
        init = [self._vector(put, y, x, v) for y, x, v in each]
        *outside, _ = (1, *self.conv.problem.window[:-1])
        sums = Alloc(self.held, nest(outside, self._window, ("k0", "kd")))
        if not self.conv.is_long(lanes, lambda lane, value: access.write((0, 0), 0, lane, value)):
            end = lambda l, y, x, v: access.write((y, x), v, l, acc[self._place(y, x, v, l)])
            return Alloc(acc, seq(*init, sums, *(self._vector(end, y, x, v) for y, x, v in each)))
        # A long epilogue is written once, as a loop; the strip goes through memory, since registers have no index.
        block = Buffer("block", self.conv.dtype, (self.count * lanes,), Space.LOCAL)
        move = lambda l, k: [store(block, k * lanes + l, acc[k * lanes + l])]
        drain = nest((strip.high, strip.wide, strip.vectors), lambda y, x, v: self._vector(
            lambda l: access.write((y, x), v, l, block[self._place(y, x, v, l)])), ("y", "x", "v"), Scope.FEW)
        return Alloc(acc, seq(*init, sums, Alloc(block, seq(*(self._vector(move, k) for k in range(self.count)), drain))))

    def _place(self, y: ExprLike, x: ExprLike, v: ExprLike, lane: Expr) -> Expr:
        """Where a lane of an accumulator lies."""
        return ((as_expr(y) * self.strip.wide + x) * self.strip.vectors + v) * self.lanes.lanes + lane

    def _vector(self, make: Callable[..., Sequence[Stmt]], *given: object) -> Stmt:
        lanes = self.lanes.lanes
        lane = Var("l", INDEX, 0, lanes - 1)
        return seq(*(For(lane, const(lanes, INDEX), s, Scope.VECTOR) for s in make(lane, *given)))

    def _window(self, *k: Expr) -> Stmt:
        """All products at one position of the window's axes but the last two."""
        problem, taps, steps = self.conv.problem, self.taps, range(self.lanes.steps)
        *_, tall = (1, *problem.window[:-1])
        shift = [a * d for a, d in zip(k, (0, *problem.dilation))]
        if math.prod(taps.size) <= WRITTEN_OUT:
            rows = [(r, taps.covers(0, self.strip.high, r)) for r in range(taps.reach(0, self.strip.high))]
            return seq(*(s for step in steps for r, into in rows for s in self._row(
                step, [*shift, r], [(y, (*k, i)) for y, i in into])))
        return nest((tall,), lambda i: seq(*(
            s for step in steps for s in self._row(step, [*shift, i * taps.dilation[0]], [(0, (*k, i))]))), ("kh",))

    def _row(self, step: int, offset: Sequence[ExprLike], outputs: Sequence[tuple[int, Sequence[ExprLike]]]) -> list[Stmt]:
        """Multiply a row of x into the rows of outputs it goes to, each with the row of its window."""
        parts: list[Stmt] = []
        wide, vectors = self.strip.wide, self.strip.vectors
        for c in range(self.taps.reach(1, wide)) if outputs else ():
            into = self.taps.covers(1, wide, c)
            for v in range(vectors) if into else ():
                element = partial(self.access.element, [*offset, c], v)
                parts.append(self.lanes.hold(self.held, v, vectors, element, step))
                parts += [self._vector(self._multiply, y, x, v, (step, *k, j)) for y, k in outputs for x, j in into]
        return parts

    def _multiply(self, l: Expr, y: int, x: int, v: int, at: Sequence[ExprLike]) -> list[Stmt]:
        p = self._place(y, x, v, l)
        return [store(self.acc, p, fma(self.held[v * self.lanes.lanes + l], self.access.weight(at, v, l), self.acc[p]))]


def by_channel(d: DType, w: Value) -> Packing:
    """[window][channel]"""

    def parts(array: np.ndarray) -> Iterator[np.ndarray]:
        yield np.ascontiguousarray(np.moveaxis(array[:, 0], 0, -1)).astype(d.numpy, copy=False)

    return Packing(f"depthwise{d}", math.prod(w.static_shape) * d.itemsize, parts)


__all__ = ["Access", "Lanes", "Strip", "Strips", "Window", "by_channel", "can_last", "choose_strip", "covers", "depthwise",
           "is_depthwise", "strip_code", "strips", "window_of"]
