"""Which 3x3 convolutions are computed by Winograd's algorithm on x86, with which tile, and how the work is cut.

The model counts cycles of the thread that has most to do: multiply-adds of the n*n products, the two transforms, and
bytes that come from beyond L2. Direct convolution is counted by the same measures, and the cheapest is taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from graphopt.codegen.lower.tuning import best_of
from graphopt.codegen.x86.costs import Costs, costs_of
from graphopt.codegen.x86.kernels.blocking import step, tiles
from graphopt.codegen.x86.kernels.conv.boxes import choose_box, covers
from graphopt.codegen.x86.kernels.tile import Tile
from graphopt.ir.graph import Op
from graphopt.ir.types import F32
from graphopt.targets.x86 import X86

# Points +-p of the polynomials, besides 0 and infinity. +-5/8 and +-3/2 have half the error of +-1 and +-2, and all
# products that the transforms need of them are exact in f32.
POINTS: dict[int, tuple[float, ...]] = {2: (1.0,), 4: (0.625, 1.5)}
DIRECT = "direct"  # the other algorithm


@dataclass(frozen=True)
class Transform:
    """F(m x m, 3 x 3): m by m outputs from n by n inputs, n = m + 2 (Lavin and Gray, CVPR 2016), by Toom and Cook's
    construction on the points 0, +-p for p in `points`, and infinity. Rows are in that order."""

    m: int

    @property
    def n(self) -> int:
        return self.m + 2

    @property
    def points(self) -> tuple[float, ...]:
        return POINTS[self.m]

    def even(self, without: float | None = None) -> np.ndarray:
        """Coefficients of x^0, x^2, ... of the product of x^2 - p^2 over all points but one."""
        product = np.array([1.0])
        for p in self.points:
            if p != without:
                product = np.convolve(product, [-p * p, 1.0])
        return product

    def weights(self) -> np.ndarray:
        """G, n by 3: what transforms a row of the window, in f64."""
        finite = [0.0, *(s * p for p in self.points for s in (1, -1))]
        rows = [[x ** k / math.prod(x - y for y in finite if y != x) for k in range(3)] for x in finite]
        return np.array([*rows, [0.0, 0.0, 1.0]])


@dataclass(frozen=True)
class Conv:
    """What the model knows of a convolution: result height and width, channels in and out of a group.

    A dilated one computes `phases` images that have nothing to do with each other: every `dilation`-th row and column.
    """

    batch: int
    height: int
    width: int
    channels: int
    outs: int
    groups: int = 1
    dilation: tuple[int, int] = (1, 1)
    itemsize: int = 4

    @property
    def phases(self) -> int:
        return math.prod(self.dilation)

    @property
    def phase(self) -> tuple[int, int]:
        """Height and width of the largest phase."""
        return -(-self.height // self.dilation[0]), -(-self.width // self.dilation[1])

    @property
    def least(self) -> int:
        """The shorter side of the smallest phase."""
        return min(self.height // self.dilation[0], self.width // self.dilation[1])


@dataclass(frozen=True)
class Plan:
    """F(m, 3) in register blocks of `tile` (rows are image tiles), `block` image tiles at a time.

    `grid`: threads along image tiles and along panels of output channels; each of the former has `blocks` blocks.
    """

    m: int
    tile: Tile
    grid: tuple[int, int]
    blocks: int
    block: int

    @property
    def family(self) -> object:
        """What makes plans differ much."""
        return self.m, self.grid, self.tile.vectors


def tiles_of(c: Conv, m: int) -> int:
    """Image tiles of the whole batch."""
    height, width = c.phase
    return c.batch * c.phases * -(-height // m) * -(-width // m)


@cache
def choose(c: Conv, lanes: int, machine: X86, threads: int) -> tuple[float, Plan] | None:
    """The cheapest plan and its cycles, None where the image is smaller than a tile."""
    found = plans(c, lanes, machine, threads)
    return best_of(found) if found else None


@cache
def plans(c: Conv, lanes: int, machine: X86, threads: int) -> Sequence[tuple[float, Plan]]:
    """All plans with their cycles."""
    found = []
    for m in POINTS:
        if c.least < m:
            continue
        for gm in range(1, min(threads, tiles_of(c, m)) + 1):
            for plan in _plans(c, m, (gm, threads // gm), lanes, machine):
                found.append((cost(c, plan, machine), plan))
    return found


def _plans(c: Conv, m: int, grid: tuple[int, int], lanes: int, machine: X86) -> Iterator[Plan]:
    """Plans for at most `grid` threads along tiles and panels."""
    count, squares = tiles_of(c, m), (m + 2) ** 2
    for tile in tiles(count, c.outs, lanes, machine.registers):
        share, used = -(-count // grid[0]), (grid[0], min(grid[1], -(-c.outs // tile.columns)))
        # Transformed inputs and products of a block stay in half of L2.
        fit = machine.l2 // 2 // (c.itemsize * squares * (c.channels + tile.columns))
        for blocks in sorted({-(-share // max(fit, tile.rows)), -(-share // max(fit // 2, tile.rows))}):
            block = -(-count // (grid[0] * blocks))
            if tile.rows <= block:
                yield Plan(m, tile, used, blocks, block)


def cost(c: Conv, plan: Plan, machine: X86) -> float:
    """Cycles of the thread that has most to do. All threads take the groups one after the other."""
    costs, tile, squares, size = costs_of(machine), plan.tile, (plan.m + 2) ** 2, c.itemsize
    panels = math.ceil(math.ceil(c.outs / tile.columns) / plan.grid[1])
    rows = plan.blocks * plan.block
    row_tiles = -(-plan.block // tile.rows)
    lanes = tile.lanes
    pace, lines = step(tile, machine, False), c.channels * tile.columns * size / costs.line
    if lines * costs.line > machine.l1 // 2:  # every row tile has the panel from L2, else one and the others from L1
        pace = max(pace, tile.columns * size / costs.bytes_from_l2)
    product = row_tiles * (c.channels * pace + costs.tile_start) + lines * costs.line_from_l2
    product += plan.block * c.channels * size / costs.line * costs.line_from_l2
    multiply = plan.blocks * panels * squares * product
    there, back = {2: (costs.transformed_2, costs.restored_2), 4: (costs.transformed_4, costs.restored_4)}[plan.m]
    transforms = rows * (-(-c.channels // lanes) * there + panels * tile.vectors * back)
    weights = squares * c.channels * c.outs * size
    again = panels * squares * c.channels * tile.columns * size  # of a thread, for each block where they do not stay
    resident = again + size * squares * plan.block * (c.channels + tile.columns) <= machine.l2 * 3 // 4
    again = 0 if resident else (plan.blocks - 1) * again
    return c.groups * (_beside(multiply, weights / costs.bytes_from_memory + again / costs.bytes_from_l3, costs) + transforms)


def _beside(compute: float, stream: float, costs: Costs) -> float:
    """Cycles of computing while weights come from further out: most of the shorter is hidden behind the longer."""
    return max(compute, stream) + costs.exposed * min(compute, stream)


def direct_cost(c: Conv, lanes: int, machine: X86, threads: int) -> float:
    """The same of direct convolution."""
    costs = costs_of(machine)
    cycles, _ = choose_box(c.height, c.width, c.outs, lanes, machine)
    rows = 1 + 2 * max(c.height - c.dilation[0], 0) / c.height  # of a window, on the average, that lie inside of the image
    multiply = c.batch * cycles * 3 * rows * c.channels / threads
    return c.groups * _beside(multiply, 9 * c.channels * c.outs * c.itemsize / costs.bytes_from_memory, costs)


def plan_for(op: Op, conv: Op, machine: X86) -> tuple[float, Plan] | None:
    """How to compute a channels-last convolution by Winograd's algorithm, and in how many cycles on one thread; None where
    that is not allowed, not possible, or not faster."""
    problem = problem_of(op, conv, machine)
    found = problem and choose(*problem, machine, machine.threads)
    if not problem or not found or found[0] >= direct_cost(*problem, machine, machine.threads):
        return None
    return found[0] * machine.threads, found[1]


def algorithms(op: Op, conv: Op, machine: X86) -> list[tuple[float, Plan | str]]:
    """Every way to compute it, the direct one included, with its cycles."""
    problem = problem_of(op, conv, machine)
    if problem is None:
        return [(0.0, DIRECT)]
    direct: tuple[float, Plan | str] = direct_cost(*problem, machine, machine.threads), DIRECT
    best = choose(*problem, machine, machine.threads)
    return [direct] if best is None else [direct, best, *plans(*problem, machine, machine.threads)]


def problem_of(op: Op, conv: Op, machine: X86) -> tuple[Conv, int] | None:
    """What the model asks of a convolution, and lanes; None where Winograd's algorithm is not allowed or not possible."""
    x, w = conv.operands[:2]
    assert x is not None and w is not None
    if not machine.winograd or x.dtype is not F32 or w.static_shape[2:] != (3, 3) or not covers(op, conv):
        return None
    a = conv.attrs
    if {*a["stride"]} != {1} or any(p > d for p, d in zip(a["pad"], (*a["dilation"], *a["dilation"]))):
        return None
    batch, outs, height, width = conv.result.static_shape
    c = Conv(batch, height, width, w.static_shape[1], outs // a["groups"], a["groups"], tuple(a["dilation"]), x.dtype.itemsize)
    lanes = machine.lanes
    while lanes > min(c.outs, c.channels):
        lanes //= 2
    if lanes < 4 or 0 in (batch, height, width):
        return None
    return c, lanes
