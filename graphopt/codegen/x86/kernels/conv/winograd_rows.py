"""Winograd's transforms of a row of registers, as expressions: what multiplies n inputs by B^T, and n sums by A^T."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from graphopt.codegen.kernel.expr import INDEX, Buffer, Expr, Var, const, fma
from graphopt.codegen.kernel.loops import Alloc, For, Stmt, seq, store
from graphopt.codegen.kernel.spaces import Scope, Space
from graphopt.codegen.x86.kernels.conv.winograd_plan import Transform
from graphopt.ir.types import DType


class Registers:
    """`count` vectors by number, in a local buffer."""

    def __init__(self, name: str, dtype: DType, lanes: int, count: int) -> None:
        self.dtype, self.lanes = dtype, lanes
        self.buffer = Buffer(name, dtype, (count * lanes,), Space.LOCAL)

    def others(self, name: str, count: int) -> Registers:
        """Other vectors, as long."""
        return Registers(name, self.dtype, self.lanes, count)

    def get(self, k: int, lane: Expr) -> Expr:
        return self.buffer[k * self.lanes + lane]

    def set(self, k: int, make: Callable[[Expr], Expr]) -> Stmt:
        return vector(self.lanes, lambda l: [store(self.buffer, k * self.lanes + l, make(l))])

    def alive(self, body: Sequence[Stmt]) -> Stmt:
        return Alloc(self.buffer, seq(*body))


def vector(lanes: int, make: Callable[[Expr], Sequence[Stmt]]) -> Stmt:
    """Each of some statements for all lanes."""
    lane = Var("l", INDEX, 0, lanes - 1)
    return seq(*(For(lane, const(lanes, INDEX), s, Scope.VECTOR) for s in make(lane)))


def input_row(f: Transform, d: Registers, first: int, out: Registers, to: int, step: int) -> list[Stmt]:
    """B^T times n elements of `d` from `first` on, to every `step`-th of `out` from `to` on."""

    def polynomial(k: int, l: Expr, coefficients: np.ndarray) -> Expr:
        return _sum([(float(c), d.get(first + k + 2 * i, l)) for i, c in enumerate(coefficients)])

    def points(k: int, p: float) -> Stmt:
        """The rows of +p and -p, which differ in the sign of the odd powers."""
        pair = d.others("pair", 2)

        def one(s: int) -> Stmt:
            factor = -p if s else p
            return out.set(to + (1 + 2 * k + s) * step, lambda l: _sum([(1.0, pair.get(0, l)), (factor, pair.get(1, l))]))

        even = pair.set(0, lambda l: polynomial(2, l, f.even(p)))
        odd = pair.set(1, lambda l: polynomial(1, l, f.even(p)))
        return pair.alive([even, odd, one(0), one(1)])

    return [out.set(to, lambda l: polynomial(0, l, f.even())), *(points(k, p) for k, p in enumerate(f.points)),
            out.set(to + (f.n - 1) * step, lambda l: polynomial(1, l, f.even()))]


def output_row(f: Transform, s: Registers, first: int, out: Registers, to: int, step: int) -> Stmt:
    """A^T times n elements of `s` from `first` on, to every `step`-th of `out` from `to` on."""
    pairs = s.others("pairs", 2 * len(f.points))  # for each point the sum and the difference of +p and -p

    def pair(k: int) -> list[Stmt]:
        plus, minus = first + 1 + 2 * k, first + 2 + 2 * k
        return [pairs.set(2 * k, lambda l: s.get(plus, l) + s.get(minus, l)),
                pairs.set(2 * k + 1, lambda l: s.get(plus, l) - s.get(minus, l))]

    def pixel(i: int) -> Stmt:
        ends = [first] if i == 0 else [first + f.n - 1] if i == f.m - 1 else []
        return out.set(to + i * step, lambda l: _sum([
            *((1.0, s.get(e, l)) for e in ends), *((p ** i, pairs.get(2 * k + i % 2, l)) for k, p in enumerate(f.points))]))

    return pairs.alive([*(x for k in range(len(f.points)) for x in pair(k)), *map(pixel, range(f.m))])


def _sum(terms: Sequence[tuple[float, Expr]]) -> Expr:
    """The terms of factor 1 first, so that all others are multiply-adds."""
    total: Expr | None = None
    for factor, x in sorted((t for t in terms if t[0]), key=lambda t: t[0] != 1):
        if total is None:
            total = x if factor == 1 else x * const(factor, x.dtype)
        else:
            total = total + x if factor == 1 else fma(x, factor, total)
    assert total is not None
    return total


__all__ = ["Registers", "input_row", "output_row", "vector"]
