"""Convolutions whose result lies channels last by a tile of pixels by vectors of output channels: which tile, and in which order
tiles and panels of weights meet."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from graphopt.codegen.kernel.expr import INDEX, Expr, Var, maximum, minimum, select
from graphopt.codegen.kernel.loops import Let, Stmt
from graphopt.codegen.lower.kernels import Packing
from graphopt.codegen.lower.tuning import best_of
from graphopt.codegen.x86.costs import costs_of
from graphopt.codegen.x86.kernels.tile import Tile
from graphopt.ir.fused import outside
from graphopt.ir.graph import Op
from graphopt.ir.types import DType
from graphopt.targets.x86 import X86


@dataclass(frozen=True)
class Box:
    """A register tile: `high` by `wide` pixels, `vectors` vectors of output channels."""

    high: int
    wide: int
    vectors: int

    @property
    def pixels(self) -> int:
        return self.high * self.wide

    @property
    def family(self) -> object:
        """What makes boxes differ much."""
        return self.vectors


@dataclass(frozen=True)
class Cut:
    """The order of `count` tiles by `panels` panels of weights: in `blocks` blocks of tiles, whose sizes differ by at most one,
    all tiles of a block with one panel after the other."""

    count: int
    blocks: int
    panels: int

    @property
    def most(self) -> int:
        """Tiles of the largest block."""
        return -(-self.count // self.blocks)

    def first(self, block: Expr) -> Expr:
        """The first tile of a block."""
        size, larger = divmod(self.count, self.blocks)
        return block * size + minimum(block, larger) if larger else block * size

    def at(self, u: Expr, body: Callable[[Expr, Expr, Expr], Stmt]) -> Stmt:
        """What to do in step u, given the tile, the panel, and how many tiles of the block went before with this panel."""
        size, larger = divmod(self.count, self.blocks)

        def within(u: Expr, size: int, first: int) -> tuple[Expr, Expr, Expr]:
            passed = u % size
            return first + u // (self.panels * size) * size + passed, u // size % self.panels, passed

        if not larger:
            return body(*within(u, size, 0))
        split = larger * (size + 1)
        before, behind = within(u, size + 1, 0), within(maximum(u - split * self.panels, 0), size, split)
        ends = (self.count, self.panels, self.most)
        vars = tuple(Var(name, INDEX, 0, n - 1) for name, n in zip(("tile", "panel", "passed"), ends))
        inside = body(*vars)
        for v, a, b in zip(vars, before, behind):
            inside = Let(v, select(u < split * self.panels, a, b), inside)
        return inside


def choose_box(height: int, width: int, channels: int, lanes: int, machine: X86) -> tuple[float, Box]:
    """The box that computes a height by width image of `channels` outputs in the fewest cycles per step of the
    reduction, and those cycles."""
    return best_of(boxes(height, width, channels, lanes, machine))


def boxes(height: int, width: int, channels: int, lanes: int, machine: X86) -> Iterator[tuple[float, Box]]:
    """All boxes with those cycles; of the same number, the smallest."""
    costs = costs_of(machine)
    for vectors in range(1, min(6, -(-channels // lanes)) + 1):
        panels = -(-channels // (vectors * lanes))
        for high in (1, 2, 3, 4):
            for wide in range(1, min(width, 28) + 1):
                pixels = high * wide
                if high > height or pixels * vectors + vectors + 1 > machine.registers or (high > 1 and wide < width):
                    continue
                if wide > 1 and -(-width // wide) == -(-width // (wide - 1)):
                    continue
                tiles = -(-height // high) * -(-width // wide)
                step = max(pixels * vectors / machine.fma, costs.latency) + costs.box_load * (pixels + vectors)
                step += costs.box_weights * vectors + costs.box_step
                yield tiles * panels * step, Box(high, wide, vectors)


def covers(op: Op, conv: Op) -> bool:
    """Is there a channels-last kernel for the convolution in `op`?"""
    w = conv.operands[1]
    assert w is not None
    if outside(op, w).constant is None or any(p < 0 for p in conv.attrs["pad"]) or not conv.result.dtype.is_float:
        return False
    outs = conv.result.static_shape[1] // conv.attrs["groups"]
    return outs >= 4 and math.prod(w.static_shape[1:]) * outs >= 16


def first_channels(panel: int, outs: int, tile: Tile) -> list[int]:
    """First channel of each vector of a panel."""
    if outs <= tile.columns:
        return [min(v * tile.lanes, outs - tile.lanes) for v in range(tile.vectors)]
    start = min(panel * tile.columns, outs - tile.columns)
    return [start + v * tile.lanes for v in range(tile.vectors)]


def pack_panels(groups: int, outs: int, starts: list[list[int]], depth: int, tile: Tile, planar: bool, d: DType) -> Packing:
    """[group][panel][step of the reduction][column]"""
    columns = [np.concatenate([s + np.arange(tile.lanes) for s in panel]) for panel in starts]

    def parts(w: np.ndarray) -> Iterator[np.ndarray]:
        for group in w.reshape(groups, outs, *w.shape[1:]):
            ahead = np.moveaxis(group, 0, -1) if planar else np.moveaxis(group, (0, 1), (-1, -2))  # outputs innermost
            for c in columns:
                yield ahead[..., c].astype(d.numpy, copy=False)

    size = groups * len(starts) * depth * tile.columns * d.itemsize
    return Packing(f"last{groups}x{tile.columns}x{tile.lanes}{'planar' if planar else ''}{d}", size, parts)


__all__ = ["Box", "Cut", "boxes", "choose_box", "covers", "first_channels", "pack_panels"]
