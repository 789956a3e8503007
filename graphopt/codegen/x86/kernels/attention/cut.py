"""How attention is cut into tasks, blocks and tiles: by counting cycles, as for matrix products."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from graphopt.codegen.lower.schedule import Style
from graphopt.codegen.x86.costs import costs_of
from graphopt.codegen.x86.kernels.blocking import step, tiles
from graphopt.codegen.x86.kernels.tile import Tile
from graphopt.ir.dims import ceil_div
from graphopt.targets.x86 import X86

MAX_KEYS = 512  # of a block
MAX_VECTORS = 8  # of a tile


@dataclass(frozen=True)
class Problem:
    """`heads` times so many `queries` and `keys` of `size` components, with values of `vectors` vectors."""

    heads: int
    queries: int
    keys: int
    size: int
    vectors: int
    itemsize: int
    causal: bool = False


@dataclass(frozen=True)
class Cut:
    """`keys` a block, `queries` a task; tiles of `tile` rows, with so many vectors of scores and of values. The scores of
    `groups` such rows at a time are in memory."""

    keys: int
    queries: int
    tile: int
    score_vectors: int
    value_vectors: int
    groups: int

    @property
    def family(self) -> object:
        """What makes cuts differ much."""
        return self.keys, self.tile


def cuts(p: Problem, lanes: int, machine: X86, threads: int) -> Iterator[tuple[float, Cut]]:
    """All cuts, with the cycles of the thread that has most to do: multiply-adds, exponentials, copies."""

    def pace(t: Tile, depth: int) -> float:
        """Cycles of one step of a tile."""
        return step(t, machine, depth * t.columns * p.itemsize > machine.l1 // 2)

    costs = costs_of(machine)
    packing = p.keys * (costs.packed_keys * p.size / lanes + costs.packed_values * p.vectors)
    fewest = ceil_div(p.keys, MAX_KEYS)
    for keys in sorted({ceil_div(ceil_div(p.keys, n), lanes) * lanes for n in range(fewest, fewest + 8)}):
        blocks, vectors = ceil_div(p.keys, keys), keys // lanes
        # With causality, blocks that no row of a part sees are left out: of a square, half and half a block.
        seen = min((p.keys + keys) / (2 * p.keys), 1.0) if p.causal and p.queries >= p.keys else 1.0
        for rows in range(1, min(p.queries, 14) + 1):
            fits = [t for t in tiles(rows, MAX_VECTORS * lanes, lanes, machine.registers) if t.rows == rows]
            score, score_vectors = min((ceil_div(vectors, t.vectors) * (p.size * pace(t, p.size) + costs.tile_start), t.vectors)
                                       for t in fits if t.vectors <= vectors)
            value, value_vectors = min((p.vectors // t.vectors * (keys * pace(t, keys) + costs.tile_start), t.vectors)
                                       for t in fits if p.vectors % t.vectors == 0)
            softmax = costs.exponentials * vectors + costs.softmax_row
            softmax += costs.rescaled * p.vectors + costs.rescaled_row if blocks > 1 else 0
            row = seen * blocks * ((score + value) / rows + softmax)
            for chunks in range(1, ceil_div(p.queries, rows) + 1):
                queries = ceil_div(ceil_div(p.queries, chunks), rows) * rows
                rounds = ceil_div(p.heads * ceil_div(p.queries, queries), threads)
                held = max(machine.l1 // 3 // (rows * keys * p.itemsize), 1)
                yield rounds * (queries * row + packing), Cut(
                    keys, queries, rows, score_vectors, value_vectors, min(held, queries // rows))
                if queries == rows:
                    break


@dataclass(frozen=True)
class Shape:
    """What is to be computed: `heads` of queries, of which groups read the same one of the `shared` heads of keys and values."""

    batch: int
    heads: int
    shared: int
    queries: int
    keys: int
    size: int
    width: int
    causal: bool

    @property
    def group(self) -> int:
        """Heads that read the same keys."""
        return self.heads // self.shared

    @property
    def multiply_adds(self) -> int:
        return self.batch * self.heads * self.queries * self.keys * (self.size + self.width)


@dataclass(frozen=True)
class Choice:
    """Which rows make a task, and how they and the keys are cut.

    `merged`: the heads of a group read the same keys, and few queries of each are rows of one task. There are `parts` such heads
    or groups in an image, each of `total` rows. `causal`: blocks of keys that no row sees are left out. The values'
    `vectors` have `padded` elements. `values_in_place`: values that a single row of tiles reads are read where they are.
    """

    cut: Cut
    merged: bool
    parts: int
    total: int
    causal: bool
    vectors: int
    padded: int
    values_in_place: bool
    keys: int
    width: int
    batch: int

    @property
    def block_keys(self) -> int:
        return self.cut.keys

    @property
    def rows(self) -> int:
        """Of a task."""
        return self.cut.queries

    @property
    def blocks(self) -> int:
        """Of keys."""
        return ceil_div(self.keys, self.cut.keys)

    @property
    def chunks(self) -> int:
        """Tasks of a part."""
        return ceil_div(self.total, self.rows)

    @property
    def tasks(self) -> int:
        return self.batch * self.parts * self.chunks

    @property
    def is_whole(self) -> bool:
        """Do the blocks end where the keys do?"""
        return self.blocks * self.block_keys == self.keys

    @property
    def direct(self) -> bool:
        """Do results go from registers to where they belong?"""
        return self.blocks == 1 and self.padded == self.width


def choose(s: Shape, lanes: int, itemsize: int, as_computed: bool, style: Style, machine: X86) -> Choice:
    """The cut by its model or as is wanted. `as_computed`: the values are of the dtype that is computed in."""
    merged = s.group > 1 and s.queries < 2 * lanes
    parts, total = (s.shared, s.group * s.queries) if merged else (s.heads, s.queries)
    causal, vectors = s.causal and not merged, ceil_div(s.width, lanes)
    problem = Problem(s.batch * parts, total, s.keys, s.size, vectors, itemsize, causal)
    cut: Cut = style.pick("cut", cuts(problem, lanes, machine, style.threads))
    in_place = cut.queries == cut.tile and vectors * lanes == s.width and as_computed
    return Choice(cut, merged, parts, total, causal, vectors, vectors * lanes, in_place, s.keys, s.width, s.batch)


__all__ = ["Choice", "Cut", "Problem", "Shape", "choose", "cuts"]
