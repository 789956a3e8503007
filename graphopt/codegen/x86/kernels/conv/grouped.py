"""Convolutions of many small groups whose result lies channels last: the outputs of several groups share a vector.

The lanes of a vector of x are the channels of these groups. Where a group has as many outputs as channels (a power of two),
each lane of x is multiplied by the weights of one output after the other, into an accumulator for each: step s, lane l holds
a part of output l ^ s of the group (both counted within it). Only at the end does each part go to its output's lane, by as
many shuffles and additions as there are steps, whatever the size of the window.

Else, as in depthwise convolutions, a box of output pixels stays in accumulators and every vector of x goes into all outputs
whose windows cover it; one shuffle for each channel within a group brings that channel's element to all lanes of its group.

Nothing is multiplied by another group's elements, so that no NaN gets out of its group, and nothing by zeros.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from graphopt.codegen.kernel.expr import INDEX, Buffer, Expr, ExprLike, Var, as_expr, const, fma, minimum
from graphopt.codegen.kernel.index import flat_index, split_index
from graphopt.codegen.kernel.loops import Alloc, For, Shuffle, Stmt, nest, seq, store
from graphopt.codegen.kernel.spaces import Scope, Space
from graphopt.codegen.lower.kernels import Lowered, Packing, Sources
from graphopt.codegen.lower.schedule import Style
from graphopt.codegen.lower.tuning import best_of
from graphopt.codegen.x86.costs import costs_of, lanes_of
from graphopt.codegen.x86.kernels.conv.boxes import Cut
from graphopt.codegen.x86.kernels.conv.depthwise import Lanes, Strips, is_depthwise, strips, window_of
from graphopt.codegen.x86.kernels.conv.operands import Convolution
from graphopt.codegen.x86.kernels.conv.pixels import pixels_of
from graphopt.ir.graph import Op, Value
from graphopt.ir.types import DType
from graphopt.targets.x86 import X86

STEPS = 16  # channels of x in a group, up to which the code of a box is written out for each of them


def is_grouped(conv: Op, machine: X86) -> bool:
    """Are there several groups in a vector of outputs, and at most two vectors of x to fill it?"""
    groups, (outputs, steps) = conv.attrs["groups"], sizes(conv)
    lanes = vector_lanes(conv, machine)
    return not is_depthwise(conv) and groups > 1 and outputs < lanes and lanes % outputs == 0 and steps <= min(2 * outputs, STEPS)


def sizes(conv: Op) -> tuple[int, int]:
    """Outputs of a group, and channels of x."""
    w = conv.operands[1]
    assert w is not None
    return w.static_shape[0] // conv.attrs["groups"], w.static_shape[1]


def vector_lanes(conv: Op, machine: X86) -> int:
    channels, lanes = conv.result.static_shape[1], lanes_of(machine, conv.result.dtype)
    while channels < lanes:
        lanes //= 2
    return lanes


def cycles(conv: Op, machine: X86) -> float:
    """What the kernel here is expected to take."""
    batch, channels, *space = conv.result.static_shape
    *deep, height, width = (1, 1, *space)
    w = conv.operands[1]
    assert w is not None
    outs, steps = sizes(conv)
    lanes = vector_lanes(conv, machine)
    if outs == steps:
        return best_of(patches(height, width, channels, math.prod(w.static_shape[2:]), steps, lanes, machine))[0] \
            * math.prod(deep) * batch
    found = best_of(strips(height, width, channels, window_of(conv), lanes, machine, steps))
    return found[0] * math.prod(deep) * math.prod(w.static_shape[2:-2]) * batch


@dataclass(frozen=True)
class Patch:
    """A tile of `high` by `wide` output pixels, each with an accumulator for every step."""

    high: int
    wide: int

    @property
    def pixels(self) -> int:
        return self.high * self.wide

    @property
    def family(self) -> object:
        """What makes patches differ much."""
        return self.pixels


def patches(height: int, width: int, channels: int, taps: int, steps: int, lanes: int,
            machine: X86) -> Iterator[tuple[float, Patch]]:
    """All patches with the cycles that one image of `channels` takes."""
    panels, costs = -(-channels // lanes), costs_of(machine)
    for pixels in range(1, machine.registers // steps + 1):
        if pixels * (steps + 1) + 1 > machine.registers and pixels > 1:
            break
        for high, wide in ((1, pixels), (pixels, 1)) if pixels > 1 else ((1, 1),):
            if high > height or wide > width:
                continue
            tiles = -(-height // high) * -(-width // wide) * panels
            step = max(steps * pixels / machine.fma, (steps + pixels) / costs.loads, costs.latency)
            yield tiles * (taps * step + costs.gathered * pixels * (steps - 1) + costs.strip_start), Patch(high, wide)


def grouped(op: Op, inner: Op, sources: Sources, name: str, style: Style, machine: X86) -> Lowered | None:
    """The kernel of a convolution of several channels to several; None where weights cannot be packed."""
    conv = Convolution(op, inner, sources, name, style, machine)
    p = conv.problem
    if not conv.packs():
        return None
    lanes = conv.lanes_for(p.groups * p.outs)
    if p.outs == p.channels:
        return Patches(conv, lanes).build()
    return Strips(conv, GroupLanes(lanes, p.outs, p.channels), by_step(conv.dtype, conv.w)).build()


@dataclass(frozen=True)
class GroupLanes(Lanes):
    """`outs` outputs of a group read `channels` channels of x: each step brings one of those to all of its group's lanes."""

    outs: int
    channels: int

    @property
    def steps(self) -> int:
        return self.channels

    @property
    def span(self) -> int:
        """Channels of x that a vector of outputs reads."""
        return self.lanes // self.outs * self.channels

    @property
    def registers(self) -> int:
        return 2 if self.span <= self.lanes else 3

    def source(self, channel: Expr) -> Expr:
        return channel // self.outs * self.channels

    def hold(self, held: Buffer, v: int, vectors: int, element: Callable[[Expr], Expr], step: int) -> Stmt:
        lanes = self.lanes
        loaded = vectors * lanes + v * (self.registers - 1) * lanes
        parts: list[Stmt] = []
        for at in range(0, self.span, lanes):
            count = min(lanes, self.span - at)
            lane = Var("l", INDEX, 0, count - 1)
            one = store(held, loaded + at + lane, element(at + lane))
            parts.append(For(lane, const(count, INDEX), one, Scope.VECTOR))
        order = tuple(l // self.outs * self.channels + step for l in range(lanes))
        return seq(*parts, Shuffle(held, v * lanes, held, loaded, loaded + (self.registers - 2) * lanes, order))


class Patches:
    """The kernel with parts of outputs in lanes of x."""

    def __init__(self, conv: Convolution, lanes: int) -> None:
        self.conv, self.problem, self.lanes = conv, conv.problem, lanes
        p = self.problem
        self.pixels = pixels_of(conv, lanes)
        self.channels, self.steps, self.taps = p.groups * p.outs, p.channels, math.prod(p.window)
        *self.deep, self.height, self.width = (1, 1, *p.pixels_shape)[-max(2, len(p.pixels_shape)):]
        self.patch: Patch = conv.style.pick("patch", patches(
            self.height, self.width, self.channels, self.taps, self.steps, lanes, conv.machine))
        self.down, self.across = -(-self.height // self.patch.high), -(-self.width // self.patch.wide)
        panels, count = -(-self.channels // lanes), math.prod(self.deep) * self.down * self.across
        self.cut = Cut(count, -(-count // conv.costs.few_tiles), panels)
        starts = [min(panel * lanes, self.channels - lanes) for panel in range(panels)]
        self.weights = conv.pack(conv.w, by_part(conv.dtype, conv.w, starts, lanes), conv.dtype)

    def build(self) -> Lowered:
        p, conv = self.problem, self.conv
        each = self.cut.panels * self.cut.count  # units of an image
        effort = conv.effort(p.batch * p.pixels * self.channels * self.taps * self.steps)
        body = conv.spread(p.batch * each, effort, lambda _, u: self.cut.at(
            u % each, lambda tile, panel, passed: _PatchAt(self, u // each, tile, panel).code()))
        return conv.finish(seq(*conv.sources.borders(conv.style), *self.pixels.copied, body))


class _PatchAt:
    """One patch of an image, by one panel."""

    def __init__(self, of: Patches, image: Expr, tile: Expr, panel: Expr) -> None:
        self.of, self.image, self.panel = of, image, panel
        self.pixels, self.steps, self.lanes = of.patch.pixels, of.steps, of.lanes
        self.channel = minimum(panel * of.lanes, of.channels - of.lanes)
        self.y0 = minimum(tile // of.across % of.down * of.patch.high, of.height - of.patch.high)
        self.x0 = minimum(tile % of.across * of.patch.wide, of.width - of.patch.wide)
        self.outer = split_index(tile // (of.down * of.across), of.deep)
        self.acc = Buffer("acc", of.conv.dtype, (self.pixels * self.steps * self.lanes,), Space.LOCAL)
        self.held = Buffer("held", of.conv.dtype, ((self.pixels + 1) * self.lanes,), Space.LOCAL)

    def code(self) -> Stmt:
        conv, window, lanes, acc = self.of.conv, self.of.problem.window, self.lanes, self.acc
        init = [self._vector(lambda l, i=i, s=s: [store(acc, self._part(i, s) + l, self._start(s, l))])  # type: ignore[misc]
                for i in range(self.pixels) for s in range(self.steps)]
        sums = seq(*init, nest(window, self._tap, ("kd", "kh", "kw")[-len(window):]),
                   *(s for i in range(self.pixels) for s in self._gather(i)))
        if not conv.is_long(lanes, lambda lane, value: self._write(0, lane, value)):
            out = [self._vector(lambda l, i=i: self._write(i, l, acc[self._part(i, 0) + l]))  # type: ignore[misc]
                   for i in range(self.pixels)]
            return Alloc(acc, Alloc(self.held, seq(sums, *out)))
        block = Buffer("block", conv.dtype, (self.pixels * lanes,), Space.LOCAL)
        spill = [self._vector(lambda l, i=i: [store(block, i * lanes + l, acc[self._part(i, 0) + l])])  # type: ignore[misc]
                 for i in range(self.pixels)]
        drain = nest((self.pixels,), lambda i: self._vector(lambda l: self._write(i, l, block[i * lanes + l])), ("i",), Scope.FEW)
        return Alloc(acc, Alloc(self.held, seq(sums, Alloc(block, seq(*spill, drain)))))

    def _part(self, i: int, step: int) -> int:
        """Where the part of pixel `i` that a step adds to lies in `acc`."""
        return (i * self.steps + step) * self.lanes

    def _pixel(self, i: ExprLike) -> list[Expr]:
        place = [*self.outer, self.y0 + as_expr(i) // self.of.patch.wide, self.x0 + as_expr(i) % self.of.patch.wide]
        return place[len(place) - len(self.of.problem.pixels_shape):]

    def _vector(self, make: Callable[[Expr], Sequence[Stmt]]) -> Stmt:
        lane = Var("l", INDEX, 0, self.lanes - 1)
        return seq(*(For(lane, const(self.lanes, INDEX), s, Scope.VECTOR) for s in make(lane)))

    def _start(self, step: int, l: Expr) -> Expr:
        return const(0, self.of.conv.dtype) if step else self.of.conv.added(self.channel + l)

    def _tap(self, *k: Expr) -> Stmt:
        """Multiply what one position of the window covers."""
        of, lanes = self.of, self.lanes
        position = (self.panel * of.taps + flat_index(k, of.problem.window)) * self.steps

        def load(i: int, l: Expr) -> list[Stmt]:
            element = of.pixels.at(self.image, self.channel + l, of.problem.places(self._pixel(i), k))
            return [store(self.held, i * lanes + l, element)]

        def add(i: int, s: int, l: Expr) -> list[Stmt]:
            p = self._part(i, s) + l
            return [store(self.acc, p, fma(self.held[i * lanes + l], of.weights[(position + s) * lanes + l], self.acc[p]))]

        return seq(*(self._vector(partial(load, i)) for i in range(self.pixels)),
                   *(self._vector(partial(add, i, s)) for s in range(self.steps) for i in range(self.pixels)))

    def _gather(self, i: int) -> Iterator[Stmt]:
        """The parts of a pixel's outputs brought to their lanes and added up, in half as many steps each time."""
        half, came = self.steps // 2, self.pixels * self.lanes
        while half:
            order = tuple(l ^ half for l in range(self.lanes))
            for s in range(half):
                here, there = self._part(i, s), self._part(i, s + half)
                yield Shuffle(self.held, came, self.acc, there, there, order)
                yield self._vector(lambda l, h=here: [  # type: ignore[misc]
                    store(self.acc, h + l, self.acc[h + l] + self.held[came + l])])
            half //= 2

    def _write(self, i: ExprLike, l: Expr, value: Expr) -> list[Stmt]:
        return self.of.conv.put([self.image, self.channel + l, *self._pixel(i)], value)


def by_part(d: DType, w: Value, starts: list[int], lanes: int) -> Packing:
    """[panel][window][step][lane]: in step s, channel c of a group has the weight that output c ^ s of the group gives it"""
    groups, steps = w.static_shape[0] // w.static_shape[1], w.static_shape[1]

    def parts(array: np.ndarray) -> Iterator[np.ndarray]:
        own, step = np.arange(steps), np.arange(steps)[:, None]
        taken = array.reshape(groups, steps, steps, -1)[:, own ^ step, own]  # [group][step][channel][window]
        ordered = taken.transpose(3, 1, 0, 2).reshape(-1, steps, groups * steps)
        for first in starts:
            yield np.ascontiguousarray(ordered[..., first:first + lanes]).astype(d.numpy, copy=False)

    size = len(starts) * lanes * math.prod(w.static_shape[1:]) * d.itemsize
    return Packing(f"parts{steps}x{lanes}{d}", size, parts)


def by_step(d: DType, w: Value) -> Packing:
    """[channel within the group][window][output]"""

    def parts(array: np.ndarray) -> Iterator[np.ndarray]:
        yield np.ascontiguousarray(np.moveaxis(array, 0, -1)).astype(d.numpy, copy=False)

    return Packing(f"grouped{d}", math.prod(w.static_shape) * d.itemsize, parts)


__all__ = ["cycles", "grouped", "is_grouped"]
