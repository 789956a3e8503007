"""Convolutions of many small groups whose result lies channels last: the outputs of several groups share a vector.

As in depthwise convolutions, a box of output pixels stays in accumulators and every vector of x goes into all outputs whose
windows cover it. Its lanes are the channels of these groups; one shuffle for each channel within a group brings that
channel's element to all lanes of its group. Nothing is multiplied by another group's elements, so that no NaN gets out of its
group, and nothing by zeros.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from graphopt.codegen.depthwise import Depthwise, is_depthwise, strips, window_of
from graphopt.codegen.expr import INDEX, Buffer, Expr, Var, const
from graphopt.codegen.kernels import Packing
from graphopt.codegen.loops import For, Shuffle, Stmt, seq, store
from graphopt.codegen.tuning import best_of
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
    channels, lanes = conv.result.static_shape[1], machine.lanes // max(1, conv.result.dtype.bits // 32)
    while channels < lanes:
        lanes //= 2
    return lanes


def cycles(conv: Op, machine: X86) -> float:
    """What the kernel here is expected to take."""
    batch, channels, *space = conv.result.static_shape
    *deep, height, width = (1, 1, *space)
    w = conv.operands[1]
    assert w is not None
    found = best_of(strips(height, width, channels, window_of(conv), vector_lanes(conv, machine), machine.registers,
                           machine.fma, sizes(conv)[1]))
    return found[0] * math.prod(deep) * math.prod(w.static_shape[2:-2]) * batch


class Grouped(Depthwise):
    """Several channels to several channels."""

    def examine(self) -> bool:
        if not super().examine():
            return False
        self.outs, self.steps = sizes(self.inner)
        self.span = self.lanes // self.outs * self.steps  # channels of x that a vector of outputs reads
        self.vectors_held = 2 if self.span <= self.lanes else 3
        return True

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
            parts.append(For(lane, const(count, INDEX), one, "vector"))
        order = tuple(l // self.outs * self.steps + step for l in range(lanes))
        return seq(*parts, Shuffle(held, v * lanes, held, loaded, loaded + (self.vectors_held - 2) * lanes, order))


def by_step(d: DType, w: Value) -> Packing:
    """[channel within the group][window][output]"""

    def parts(array: np.ndarray) -> Iterator[np.ndarray]:
        yield np.ascontiguousarray(np.moveaxis(array, 0, -1)).astype(d.numpy, copy=False)

    return Packing(f"grouped{d}", math.prod(w.static_shape) * d.itemsize, parts)
