"""How a recurrent layer is cut: panels of units, blocks of sequences, chunks of steps, and what each thread takes.

Counted in cycles, as matrix products are in `blocking`: multiply-adds, or the weights that a step reads where that takes
longer, and what threads wait for each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from graphopt.codegen.lower.tuning import best_of
from graphopt.codegen.x86.costs import costs_of
from graphopt.targets.x86 import X86


@dataclass(frozen=True)
class Layer:
    """`rounds`: the gates, each round's (first, count), whose products with the state a step takes one after the other."""

    steps: int
    batch: int
    width: int
    hidden: int
    directions: int
    rounds: tuple[tuple[int, int], ...]
    lanes: int
    itemsize: int

    @property
    def gates(self) -> int:
        return sum(count for _, count in self.rounds)


@dataclass(frozen=True)
class Part:
    """Packed weights of `gates` gates from `first` on: panels of `vectors` vectors of units each, `depth` elements long."""

    first: int
    gates: int
    depth: int
    vectors: int
    panels: int
    lanes: int

    @property
    def wide(self) -> int:
        """Units of a panel."""
        return self.vectors * self.lanes

    @property
    def padded(self) -> int:
        return self.panels * self.wide

    @property
    def size(self) -> int:
        return self.gates * self.depth * self.padded


@dataclass(frozen=True)
class Cut:
    """Sequences in `groups` of `rows`, tasks of their own for each direction, `parallel` or not; or one group, the panels of
    a step shared among threads (`by_units`). `chunk`: steps whose products with the input are taken at a time."""

    groups: int
    rows: int
    chunk: int
    parallel: bool
    by_units: bool


def most_rows(part: Part, machine: X86) -> int:
    """Rows of a register block: accumulators, the weights of one k, and one broadcast."""
    across = part.gates * part.vectors
    return max(1, (machine.registers - 1 - across) // across)


def even(rows: int, most: int) -> list[tuple[int, int]]:
    """(count, size) of blocks of at most so many rows whose sizes differ by at most one."""
    blocks = -(-rows // most)
    size, larger = divmod(rows, blocks)
    return [(n, s) for n, s in ((larger, size + 1), (blocks - larger, size)) if n]


def parted(layer: Layer, rows: int, first: int, gates: int, depth: int, machine: X86) -> Part:
    """Those gates' panels for a product of so many rows: the width that takes the fewest cycles."""
    units = -(-layer.hidden // layer.lanes)
    widest = max(1, min(units, -(-costs_of(machine).sums // gates)))
    return best_of((compute(part, rows, machine, part.panels), part) for v in range(1, widest + 1)
                   for part in [Part(first, gates, depth, v, -(-units // v), layer.lanes)])[1]


def compute(part: Part, rows: int, machine: X86, panels: int) -> float:
    """Cycles of the multiply-adds of so many panels."""
    costs, across, cycles = costs_of(machine), part.gates * part.vectors, 0.0
    for count, size in even(rows, most_rows(part, machine)):
        pace = max(size * across / machine.fma, (size + across) / costs.loads, costs.latency)
        cycles += count * (part.depth * pace + costs.tile_start)
    return panels * cycles


def cuts(layer: Layer, machine: X86, threads: int) -> Iterator[tuple[float, Cut]]:
    """All ways, with the cycles of the thread that has most to do."""
    wait = costs_of(machine).wait
    for groups in range(1, min(layer.batch, max(threads, 1)) + 1):
        rows = -(-layer.batch // groups)
        if groups > 1 and -(-layer.batch // rows) != groups:
            continue
        tasks = groups * layer.directions
        chunk = _chunk(layer, rows, machine)
        one = _cycles(layer, rows, chunk, machine, 1)
        if groups == 1:
            yield layer.directions * one, Cut(1, rows, chunk, False, False)
        if threads > 1 and tasks > 1:
            yield -(-tasks // threads) * one + wait, Cut(groups, rows, chunk, True, False)
    if threads > 1:
        chunk = _chunk(layer, layer.batch, machine)
        waits = (layer.steps * len(layer.rounds) + -(-layer.steps // chunk)) * wait
        yield layer.directions * (_cycles(layer, layer.batch, chunk, machine, threads) + waits), \
            Cut(1, layer.batch, chunk, False, True)


def _chunk(layer: Layer, rows: int, machine: X86) -> int:
    """Steps whose products with the input take no more than a quarter of the L2 cache, all chunks about as long."""
    row = layer.gates * layer.hidden * layer.itemsize
    most = max(1, min(layer.steps, machine.l2 // 4 // (row * rows)))
    return -(-layer.steps // -(-layer.steps // most))


def _cycles(layer: Layer, rows: int, chunk: int, machine: X86, threads: int) -> float:
    """Cycles of one direction of one task, panels shared among `threads`."""
    costs = costs_of(machine)
    rounds = [parted(layer, rows, *r, layer.hidden, machine) for r in layer.rounds]
    given = parted(layer, rows * chunk, 0, layer.gates, layer.width, machine)
    held = sum(p.size for p in rounds) * layer.itemsize / threads
    pace = costs.bytes_from_l2 if held < 0.75 * machine.l2 else costs.bytes_from_l3

    def product(part: Part, n: int) -> float:
        panels = -(-part.panels // threads)
        read = panels * part.depth * part.gates * part.wide * layer.itemsize
        return max(compute(part, n, machine, panels), read / pace)

    cells = rows * math.ceil(layer.hidden / layer.lanes / threads) * costs.cell
    return layer.steps * (sum(product(p, rows) for p in rounds) + cells) + -(-layer.steps // chunk) * product(given, chunk * rows)


__all__ = ["Cut", "Layer", "Part", "compute", "cuts", "even", "most_rows", "parted"]
