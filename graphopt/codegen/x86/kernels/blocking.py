"""How a matrix product is cut: register tile, blocks that stay in a core's caches, and a share for each thread.

The model counts cycles of one multiply-add step of the tile: multiply-adds, loads, the latency of an accumulator, and
the lines of both operands that come from L2. What does not divide is paid for by repeating rows or columns, so the tile
that divides best usually wins. To these come the ways of a thread's operands from L3, of its rows into a copy, and of sums
into memory and back; panels that are fetched ahead hide behind the multiplying, as far as it lasts.
(Goto and van de Geijn, ACM TOMS 34(3), 2008; Low et al., ACM TOMS 43(2), 2016.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from graphopt.codegen.x86.costs import costs_of
from graphopt.codegen.x86.kernels.tile import Tile
from graphopt.targets.x86 import X86


@dataclass(frozen=True)
class Product:
    """`batches` products of m by k and k by n elements of `itemsize` bytes. `whole`: k cannot be cut. `packed`: panels of the
    right operand lie in memory one by one, and are fetched ahead. `copied`: rows of the left are computed or
    converted into a copy."""

    batches: int
    m: int
    n: int
    k: int
    itemsize: int
    whole: bool = False
    packed: bool = True
    copied: bool = False


@dataclass(frozen=True)
class Blocking:
    """`grid`: threads along batches, rows and columns; each has `share` of (batches, row tiles, panels).

    `row_blocks`: into how many blocks a thread's rows are cut, so that one stays in L2 while all panels pass by;
    `depths`: into how many its k is cut to the same end, where sums may wait in memory.
    """

    tile: Tile
    grid: tuple[int, int, int]
    share: tuple[int, int, int]
    row_blocks: int
    depths: int = 1

    @property
    def workers(self) -> int:
        return math.prod(self.grid)

    @property
    def family(self) -> object:
        """What makes blockings differ much."""
        return self.grid, self.tile.vectors


def blockings(p: Product, lanes: int, machine: X86, threads: int) -> Iterator[tuple[float, Blocking]]:
    """All blockings, with the cycles of the thread that has most to do."""
    costs = costs_of(machine)
    for tile in tiles(p.m, p.n, lanes, machine.registers):
        panel = p.k * tile.columns * p.itemsize
        from_l2 = 0.0
        if panel > machine.l1 // 2:
            from_l2 = (costs.panel_line * tile.columns + costs.rows_line * tile.rows) * p.itemsize / costs.line
        pace = (step(tile, machine, False) + from_l2) * p.k
        whole = (p.batches, -(-p.m // tile.rows), -(-p.n // tile.columns))
        for grid in _grids(threads):
            used = tuple(min(a, b) for a, b in zip(grid, whole))
            share = tuple(-(-b // a) for a, b in zip(used, whole))
            cut = _cut(p, tile, used, share, machine)  # type: ignore[arg-type]
            start = costs.tile_start * cut.depths + (costs.stored_row * tile.rows if _spills(p, tile, share, machine) else 0)
            compute = math.prod(share) * (pace + start)
            yield compute + _moved(p, cut, compute, machine), cut


def _spills(p: Product, tile: Tile, share: tuple[int, ...], machine: X86) -> bool:
    """Is a thread's part of the result more than its L2 holds?"""
    return math.prod(share) * tile.rows * tile.columns * p.itemsize > machine.l2 // 2


def _moved(p: Product, cut: Blocking, compute: float, machine: X86) -> float:
    """Cycles for which a thread's data come and go, and that `compute` does not hide."""
    costs = costs_of(machine)
    batches, rows, columns = cut.share[0], cut.share[1] * cut.tile.rows, cut.share[2] * cut.tile.columns
    left, right = (batches * p.k * p.itemsize * n for n in (rows, columns))
    sums = 2 * (cut.depths - 1) * batches * rows * columns * p.itemsize
    copied = p.copied or aliases(p.k * p.itemsize, cut.tile.rows, machine)
    alone = left / costs.bytes_from_l3 + (2 * left if copied else 0) / costs.bytes_from_l2 + sums / costs.bytes_from_l2
    if not p.packed:
        return alone + right / costs.bytes_from_l3
    again = cut.row_blocks if p.k * columns * p.itemsize > machine.l2 // 2 else 1  # panels that do not stay come once a block
    stream = again * right / costs.bytes_from_l3
    return alone + max(stream - compute, 0) + costs.fetched * min(stream, compute)


def _cut(p: Product, tile: Tile, grid: tuple[int, int, int], share: tuple[int, int, int], machine: X86) -> Blocking:
    """A thread's share in blocks that its L2 holds."""
    rows = share[1] * tile.rows
    columns = share[2] * tile.columns
    if p.k * columns * p.itemsize <= machine.l2 // 4:  # all panels stay in L2, and so should a block of the result
        fit = machine.l2 // 4 // ((p.k + columns) * p.itemsize)
        return Blocking(tile, grid, share, min(-(-rows // max(fit, tile.rows)), share[1]))
    # Each block of rows reads all panels again, each block of k only sums: better where panels come from beyond L2.
    beyond = p.k * columns * p.itemsize > machine.l2 // 2
    depths = -(-rows * p.k * p.itemsize // (machine.l2 // 2))
    depths = next((d for d in range(depths, p.k // costs_of(machine).deep + 1) if p.k % d == 0), 0)
    if depths > 1 and beyond and not p.whole and rows * columns * p.itemsize <= machine.l2 // 2:
        return Blocking(tile, grid, share, 1, depths)
    fit = machine.l2 // 2 // (p.k * p.itemsize)
    return Blocking(tile, grid, share, min(-(-rows // max(fit, tile.rows)), share[1]))


def tiles(m: int, n: int, lanes: int, registers: int) -> Iterator[Tile]:
    """Tiles of an m by n result whose accumulators fit the registers, with the vectors of one k and one broadcast."""
    for vectors in range(1, min(8, -(-n // lanes)) + 1):
        for rows in range(1, min(m, 14) + 1):
            if rows * vectors + vectors + 1 <= registers or rows * vectors == 1:
                yield Tile(rows, vectors, lanes)


def step(tile: Tile, machine: X86, from_l2: bool) -> float:
    """Cycles of one k."""
    costs = costs_of(machine)
    multiply = tile.rows * tile.vectors / machine.fma
    loads = (tile.rows + tile.vectors) / costs.loads
    return max(multiply, loads, costs.latency) + (costs.line_from_l2 * tile.vectors if from_l2 else 0)


def aliases(stride: int, rows: int, machine: X86) -> bool:
    """Whether the lines of `rows` rows, `stride` bytes apart, fall on so few sets of L1 that they displace each other."""
    line = costs_of(machine).line
    way = 4096  # bytes: a way of L1 is a page on x86, since sets are numbered by addresses within one
    sets = way // math.gcd(way, stride) if stride >= line else way // line
    return rows > 1 and -(-rows // min(sets, way // line)) > machine.l1 // way // 2


def _grids(threads: int) -> Iterator[tuple[int, int, int]]:
    """Ways to write `threads` as a product of three."""
    for a in range(1, threads + 1):
        if threads % a == 0:
            for b in range(1, threads // a + 1):
                if threads // a % b == 0:
                    yield a, b, threads // a // b
