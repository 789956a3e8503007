"""Concatenation in place: the parts are computed where the whole is read."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

from graphopt.ir.graph import Graph, Op, Value
from graphopt.ir.types import Layout, TensorType
from graphopt.rewrite.engine.context import Context
from graphopt.rewrite.engine.manager import GraphPass


class Join(GraphPass):
    """Before: `concat` copies its operands. After: where every operand is some kernel's result that can be written anywhere,
    it is a `join`, whose operands lie in its own memory one behind the other: next to each other in every pixel where
    images lie channels last, in stretches where nothing stands before the axis.
    """

    name = "join"

    def run_on(self, graph: Graph, context: Context) -> bool:
        placed: dict[Value, tuple[Value, int]] = {}  # value -> (the whole that it lies in, its first element there)
        joined: list[Op] = []
        # Backwards: a network that appends to one tensor again and again has all the earlier ones inside the last.
        for op in reversed(list(graph.ops)):
            if op.name == "concat" and _joinable(op, context) and _place(op, placed):
                if not context.take("concatenate in place", op):
                    break
                joined.append(op)
        _agree(placed, context)
        for op in joined:
            join = graph.add("join", op.variadic(), op.attrs, types=[op.result.type], loc=op.loc, before=op)
            context.because(op, "joined in place: its operands are computed where it is read")
            op.replace_with(join.results)
        return bool(joined)


def _joinable(op: Op, context: Context) -> bool:
    parts, result = op.variadic(), op.result
    if not all(isinstance(v.type, TensorType) and v.type.is_static for v in (*parts, result)) or len(set(parts)) != len(parts):
        return False
    axis, layout = op.attrs["axis"], _layout(result)
    if layout is None:
        if math.prod(result.static_shape[:axis]) != 1 or any(_layout(v) is not None for v in parts):
            return False
    elif axis != 1 or any(_layout(v) is None for v in parts) or not _anywhere(result, context):
        return False
    if len({x.fill for v in (*parts, result) if (x := _layout(v)) is not None}) > 1:
        return False  # there is one border
    if any(0 in v.static_shape for v in parts):
        return False
    return all(_movable(v, context) for v in parts)


def _layout(v: Value) -> Layout | None:
    return v.type.layout if isinstance(v.type, TensorType) else None


def _anywhere(v: Value, context: Context) -> bool:
    """Do all readers of `v` follow a pitch?"""
    return all(u.name in ("concat", "join") or context.target.joins(u) for u in v.users)


def _movable(v: Value, context: Context) -> bool:
    """May `v` be written anywhere? Its kernel then stores it there, and every reader follows."""
    op = v.op
    if op is None or op.name == "const" or op.definition.may_view or op.graph is None:
        return False
    if any(user is op.graph.return_op for user in v.users):
        return False
    return context.target.joins(op) and (_layout(v) is None or _anywhere(v, context))


def _place(op: Op, placed: dict[Value, tuple[Value, int]]) -> bool:
    """Give the operands places in the result, or the result the place where they lie behind each other already."""
    parts = op.variadic()
    known = [placed.get(v) for v in parts]
    whole, first = known[0] or placed.get(op.result, (op.result, 0))
    ends = list(itertools.accumulate((_extent(v) for v in parts), initial=first))
    places = [(whole, at) for at in ends[:-1]]
    if not any(known):
        placed.update(zip(parts, places))
        return True
    if known != places or placed.get(op.result, known[0]) != known[0]:
        return False
    placed[op.result] = places[0]
    return True


def _extent(v: Value) -> int:
    """Elements that `v` takes of the joined axis: channels of a pixel, or all of it."""
    return v.static_shape[1] if _layout(v) is not None else math.prod(v.static_shape)


def _agree(placed: dict[Value, tuple[Value, int]], context: Context) -> None:
    """One halo and one pitch for all that lie in one whole."""
    members: dict[Value, list[Value]] = {}
    for v, (whole, _) in placed.items():
        members.setdefault(whole, [whole]).append(v)
    for whole, values in members.items():
        layouts = [layout for v in values if (layout := _layout(v)) is not None]
        if not layouts:
            continue
        channels, size = whole.static_shape[1], whole.dtype.itemsize
        pitch = channels + context.target.room_between(channels, size)
        for v in values:
            assert isinstance(v.type, TensorType)
            v.type = replace(v.type, layout=replace(layouts[0], halo=max(x.halo for x in layouts), pitch=pitch))
