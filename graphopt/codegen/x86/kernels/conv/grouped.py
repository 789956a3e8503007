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
from graphopt.codegen.lower.kernels import Packing
from graphopt.codegen.lower.tuning import best_of
from graphopt.codegen.x86.costs import costs_of, lanes_of
from graphopt.codegen.x86.kernels.conv.channels_last import Cut
from graphopt.codegen.x86.kernels.conv.depthwise import Depthwise, is_depthwise, strips, window_of
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


class Grouped(Depthwise):
    """Several channels to several channels."""

    def examine(self) -> bool:
        if not super().examine():
            return False
        self.outs, self.steps = sizes(self.inner)
        self.span = self.lanes // self.outs * self.steps  # channels of x that a vector of outputs reads
        self.vectors_held = 2 if self.span <= self.lanes else 3
        return True

    def strips(self, w: Value) -> Stmt:
        return self.patches(w) if self.outs == self.steps else super().strips(w)

    def patches(self, w: Value) -> Stmt:
        """The kernel with parts of outputs in lanes of x."""
        steps, lanes, channels = self.steps, self.lanes, self.channels
        *deep, height, width = (1, 1, *self.pixels_shape)[-max(2, len(self.pixels_shape)):]
        taps = math.prod(self.window)
        patch = self.style.pick("patch", patches(height, width, channels, taps, steps, lanes, self.machine))
        pixels = patch.pixels
        down, across, panels = -(-height // patch.high), -(-width // patch.wide), -(-channels // lanes)
        starts = [min(p * lanes, channels - lanes) for p in range(panels)]
        weights = self.pack(w, by_part(self.dtype, w, starts, lanes), self.dtype)
        count = math.prod(deep) * down * across
        cut = Cut(count, -(-count // self.costs.few_tiles), panels)
        size = pixels * steps

        def unit(_: Expr, u: Expr) -> Stmt:
            return cut.at(u % (panels * count), lambda tile, panel, passed: at(u // (panels * count), tile, panel))

        def at(b: Expr, tile: Expr, panel: Expr) -> Stmt:
            c0 = minimum(panel * lanes, channels - lanes)
            y0 = minimum(tile // across % down * patch.high, height - patch.high)
            x0 = minimum(tile % across * patch.wide, width - patch.wide)
            outer = split_index(tile // (down * across), deep)

            def pixel(i: ExprLike) -> list[Expr]:
                place = [*outer, y0 + as_expr(i) // patch.wide, x0 + as_expr(i) % patch.wide]
                return place[len(place) - len(self.pixels_shape):]

            acc = Buffer("acc", self.dtype, (size * lanes,), Space.LOCAL)
            held = Buffer("held", self.dtype, ((pixels + 1) * lanes,), Space.LOCAL)

            def vector(make: Callable[[Expr], Sequence[Stmt]]) -> Stmt:
                lane = Var("l", INDEX, 0, lanes - 1)
                return seq(*(For(lane, const(lanes, INDEX), s, Scope.VECTOR) for s in make(lane)))

            def start(i: int, s: int, l: Expr) -> Expr:
                return const(0, self.dtype) if s or self.bias is None else self.element(self.bias, c0 + l)

            def tap(*k: Expr) -> Stmt:
                """Multiply what one position of the window covers."""
                def load(i: int, l: Expr) -> list[Stmt]:
                    place = [p * s - q + o * d for p, s, q, o, d in
                             zip(pixel(i), self.stride, self.before, k, self.dilation)]
                    return [store(held, i * lanes + l, self.pixel(b, c0 + l, place))]

                position = (panel * taps + flat_index(k, self.window)) * steps
                parts = [vector(partial(load, i)) for i in range(pixels)]
                for s in range(steps):
                    def add(i: int, s: int, l: Expr) -> list[Stmt]:
                        p = (i * steps + s) * lanes + l
                        return [store(acc, p, fma(held[i * lanes + l], weights[(position + s) * lanes + l], acc[p]))]

                    parts += [vector(partial(add, i, s)) for i in range(pixels)]
                return seq(*parts)

            def gather(i: int) -> Iterator[Stmt]:
                """The parts of a pixel's outputs brought to their lanes and added up, in half as many steps each time."""
                half = steps // 2
                while half:
                    order = tuple(l ^ half for l in range(lanes))
                    for s in range(half):
                        here, there = (i * steps + s) * lanes, (i * steps + s + half) * lanes
                        yield Shuffle(held, pixels * lanes, acc, there, there, order)
                        yield vector(lambda l, h=here: [store(acc, h + l, acc[h + l] + held[pixels * lanes + l])])  # type: ignore[misc]
                    half //= 2

            def write(i: ExprLike, l: Expr, value: Expr) -> list[Stmt]:
                return [store(o, offset, y) for o, offset, y in self.epilogue([b, c0 + l, *pixel(i)], value)]

            init = [vector(lambda l, i=i, s=s: [store(acc, (i * steps + s) * lanes + l, start(i, s, l))])  # type: ignore[misc]
                    for i in range(pixels) for s in range(steps)]
            sums = seq(*init, nest(self.window, tap, ("kd", "kh", "kw")[-len(self.window):]),
                       *(s for i in range(pixels) for s in gather(i)))
            if not self.is_long(lanes, lambda lane, value: write(0, lane, value)):
                out = [vector(lambda l, i=i: write(i, l, acc[i * steps * lanes + l])) for i in range(pixels)]  # type: ignore[misc]
                return Alloc(acc, Alloc(held, seq(sums, *out)))
            block = Buffer("block", self.dtype, (pixels * lanes,), Space.LOCAL)
            spill = [vector(lambda l, i=i: [store(block, i * lanes + l, acc[i * steps * lanes + l])])  # type: ignore[misc]
                     for i in range(pixels)]
            drain = nest((pixels,), lambda i: vector(lambda l: write(i, l, block[i * lanes + l])), ("i",), Scope.FEW)
            return Alloc(acc, Alloc(held, seq(sums, Alloc(block, seq(*spill, drain)))))

        return self.spread(self.batch * panels * count,
                           self.effort(self.batch * math.prod(self.pixels_shape) * channels * taps * steps), unit)

    def packing(self, w: Value) -> Packing:
        return by_step(self.dtype, w)

    def source(self, channel: Expr) -> Expr:
        return channel if self.outs == self.steps else channel // self.outs * self.steps

    def hold(self, held: Buffer, v: int, vectors: int, element: Callable[[Expr], Expr], step: int) -> Stmt:
        lanes = self.lanes
        loaded = vectors * lanes + v * (self.vectors_held - 1) * lanes
        parts: list[Stmt] = []
        for at in range(0, self.span, lanes):
            count = min(lanes, self.span - at)
            lane = Var("l", INDEX, 0, count - 1)
            one = store(held, loaded + at + lane, element(at + lane))
            parts.append(For(lane, const(count, INDEX), one, Scope.VECTOR))
        order = tuple(l // self.outs * self.steps + step for l in range(lanes))
        return seq(*parts, Shuffle(held, v * lanes, held, loaded, loaded + (self.vectors_held - 2) * lanes, order))


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
