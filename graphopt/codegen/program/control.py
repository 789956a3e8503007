"""Branches and loops as steps of a program: which control flow can be one, and the steps around the kernels of its bodies."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.codegen.lower import registry
from graphopt.codegen.program.steps import Branch, Repeat, Slot, Step, Stride, bound
from graphopt.ir.graph import Graph, Op, Value
from graphopt.ir.ops.control import trip_count
from graphopt.ir.table import Trait
from graphopt.ir.types import TensorType

WORD = 8  # bytes of an iteration's number, and what a condition's byte is given


@dataclass(frozen=True)
class Planned:
    """The steps of a branch or body over its own inputs, outputs and arena, and the bytes of that arena."""

    steps: tuple[Step, ...]
    size: int


Copy = Callable[[Value, Slot, Slot], Step]  # a value like this one, from here to there
Clear = Callable[[Value, Slot], Step]  # zeros into a value like this one, there


# What can be one ---------------------------------------------------------------------------------
def why_not(op: Op, templated: Collection[str] = ()) -> str | None:
    """Why a program cannot hold an op, as a kernel or as control flow around kernels; None where it can."""
    if not op.definition.has(Trait.CONTROL):
        return registry.why_not(op, templated)
    said = _branch(op) if op.name == "if" else _loop(op) if op.name == "loop" else f"{op.name} has no lowering"
    return said or registry.why_not_values(op) or next((r for g in op.regions if (r := _body(g, templated))), None)


def _branch(op: Op) -> str | None:
    then, other = op.regions
    for k, (a, b) in enumerate(zip(then.outputs, other.outputs)):
        if a.type != b.type:
            return f"its branches give result {k} as {a.type} and as {b.type}: which, is known only when running"
    return _entries([*zip(then.inputs, op.operands[1:]), *zip(other.inputs, op.operands[1:])])


def _loop(op: Op) -> str | None:
    body, carried = op.regions[0], op.attrs["carried"]
    for k in range(carried):
        start, before, after = op.operands[2 + k], body.inputs[2 + k], body.outputs[1 + k]
        assert start is not None
        if before.type != after.type or start.type != before.type:
            return f"carried value {k} changes its shape: it starts as {start.type}, then {before.type} becomes {after.type}"
    if op.attrs["rows"] is not None and known_trip(op) not in range(op.attrs["rows"] + 1):
        return f"it may have more iterations than the {op.attrs['rows']} rows of its scan outputs"
    if op.results[carried:] and op.attrs["rows"] is None and iterations(op) is None:
        return "its number of iterations, and with it the length of its scan outputs, is known only when running"
    trip = op.operand("trip")
    if trip is not None and (not isinstance(trip.type, TensorType) or trip.dtype.name not in ("i64", "i32")):
        return f"its trip count is {trip.type}"
    return _entries(list(zip(body.inputs[2:], op.operands[2:])))


def _entries(pairs: Sequence[tuple[Value, Value | None]]) -> str | None:
    for inside, outside in pairs:
        if outside is not None and inside.type != outside.type and isinstance(outside.type, TensorType):
            return f"%{outside.name or '?'} is {outside.type}, and {inside.type} where it is used within"
    return None


def _body(graph: Graph, templated: Collection[str]) -> str | None:
    for v in (*graph.inputs, *graph.outputs):
        if not isinstance(v.type, TensorType) or not v.type.is_static:
            return f"the shape of {v.type} within it is not known before running"
    for inner in graph.ops:
        if inner.name != "const" and (reason := why_not(inner, templated)):
            return f"within it, {inner.where()}: {reason}"
    return None


# How it becomes one ------------------------------------------------------------------------------
def branch(op: Op, bodies: Sequence[Planned], arena: Slot, operands: Sequence[Slot | None], results: Sequence[Slot]) -> Branch:
    """The steps of an `if`: both branches compute in the same `arena`, straight into the results."""
    assert operands[0] is not None
    given = [s for s in operands[1:] if s is not None]
    then, other = (bound(b.steps, given, results, arena) for b in bodies)
    return Branch(op, operands[0], then, other)


class Loop:
    """A `loop` as steps. In its stretch of the arena lie the iteration's number, a true condition and that of the next
    iteration (where the body reads or makes them), two places for every carried value, which iterations read and write in turn,
    and the arena of the body; scan outputs are written where they belong."""

    def __init__(self, op: Op, number: int) -> None:
        self.op, self.number = op, number
        self.body, self.carried = op.regions[0], op.attrs["carried"]
        self.count = known_trip(op)  # at most so many iterations
        after = self.body.outputs[0]
        stays = after is self.body.inputs[1] or (after.constant is not None and bool(after.constant.all()))
        self.again = None if stays else after
        self.unused = frozenset({0} if stays else ())  # outputs of the body that nobody asks for

    def layout(self, body: Planned, room: Callable[[int], int]) -> int:
        """Decide what lies where; the bytes of all of it. `room` rounds sizes up."""
        at = 3 * WORD
        at = room(at)
        self.states: list[tuple[int, int]] = []  # the first place of a carried value, and from there to the second
        for v in self.body.inputs[2:2 + self.carried]:
            size = room(max(nbytes(v), 1))
            self.states.append((at, size))
            at += 2 * size
        self.arena_at = at
        return at + body.size

    def steps(self, body: Planned, arena: Slot, operands: Sequence[Slot | None], results: Sequence[Slot], copy: Copy,
              clear: Clear) -> Repeat:
        op = self.op
        counter, alive, again = (arena.shifted(k * WORD) for k in range(3))
        start = operands[2:2 + self.carried]
        here = [arena.shifted(at, Stride(self.number, size, True)) for at, size in self.states]
        there = [arena.shifted(at + size, Stride(self.number, -size, True)) for at, size in self.states]
        scans = [s.shifted(0, Stride(self.number, nbytes(v)))
                 for s, v in zip(results[self.carried:], self.body.outputs[1 + self.carried:])]
        captures = [s for s in operands[2 + self.carried:] if s is not None]
        inside = bound(body.steps, [counter, alive, *here, *captures], [again, *there, *scans], arena.shifted(self.arena_at))
        before = [copy(v, s, arena.shifted(at)) for v, s, (at, _) in zip(self.body.inputs[2:], start, self.states)
                  if s is not None]
        if op.attrs["rows"] is not None:  # those behind the last iteration's are zero
            before += [clear(v, r) for v, r in zip(op.results[self.carried:], results[self.carried:])]
        after = [copy(v, s, r) for v, s, r in zip(op.results, here, results) if v.uses]
        cond, trip = op.operand("cond"), op.operand("trip")
        if cond is not None and cond.constant is not None and cond.constant.all():
            cond = None
        bounded: int | tuple[Slot, object] | None = self.count
        if trip is not None and self.count is None:
            assert operands[0] is not None
            bounded = (operands[0], trip.dtype)
        return Repeat(op, self.number, bounded, None if cond is None else operands[1],  # type: ignore[arg-type]
                      counter if self.body.inputs[0].uses else None, alive if self.body.inputs[1].uses else None,
                      tuple(before), inside, None if self.again is None else again, tuple(after))

    def row(self, op: Op, root: Value) -> int | None:
        """The bytes of a row of what a gather, whose index is the value `root` (or its memory), takes one row an iteration of;
        None where it is no such gather. The row is then read where it lies."""
        if op.name != "gather" or root is not self.body.inputs[0] or op.attrs["axis"] != 0 or self.count is None:
            return None
        x, index = op.operands[0], op.operands[1]
        assert x is not None and index is not None
        if index.type.size != 1 or x.static_shape[0] < self.count:  # type: ignore[union-attr]
            return None
        return nbytes(op.result)


def known_trip(op: Op) -> int | None:
    """The most iterations that a loop can have, where its trip count is a constant."""
    trip = op.operand("trip")
    if trip is None or trip.constant is None:
        return None
    return max(int(np.asarray(trip.constant).reshape(-1)[0]), 0)


def iterations(op: Op) -> int | None:
    """How many iterations a loop always has; None where only running can tell."""
    count = trip_count(op.view(), op.regions[0])
    return count if isinstance(count, int) else None


def nbytes(v: Value) -> int:
    """Bytes of a row-major value of static shape."""
    assert isinstance(v.type, TensorType)
    return int(np.prod(v.static_shape, dtype=np.int64)) * v.dtype.itemsize


__all__ = ["Loop", "Planned", "branch", "iterations", "known_trip", "why_not"]
