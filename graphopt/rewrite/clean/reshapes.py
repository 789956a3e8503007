"""Reshapes out of the way of epilogues."""

from __future__ import annotations

import math
from collections.abc import Sequence

from graphopt.ir.graph import Graph, Op, Value
from graphopt.ir.table import Trait
from graphopt.rewrite.engine.common import static_shape
from graphopt.rewrite.engine.context import Context
from graphopt.rewrite.engine.manager import GraphPass
from graphopt.rewrite.engine.rules import erase_dead


class Reshapes(GraphPass):
    """Before: a canonical graph. After: no reshape stands between a contraction and the elementwise ops that follow it, as
    it does where a linear layer flattens its batch: the ops work on the contraction's own shape, and the reshape comes
    after them. Their other operands are reshaped instead, which costs nothing."""

    name = "reshapes"

    def run_on(self, graph: Graph, context: Context) -> bool:
        changed = False
        epilogue: set[Value] = set()  # results of contractions, and of elementwise ops on those alone
        for op in graph.ops:
            context.subject = op
            if len(op.results) != 1:
                continue
            if op.definition.has(Trait.CONTRACTION) and not op.definition.has(Trait.COMPOSITE):
                epilogue.add(op.results[0])
                continue
            if not op.definition.has(Trait.ELEMENTWISE) or op.definition.has(Trait.VIEW):
                continue
            reshape = _reshaped_contraction(op, epilogue)
            if reshape is not None:
                operands = _operands(op, reshape)
                if operands is not None:
                    if not context.take("sink a reshape", op):
                        return changed
                    epilogue.add(_sink(graph, op, reshape, operands, context))
                    changed = True
                    continue
            shape = static_shape(op.results[0])
            if any(v in epilogue and len(v.users) == 1 and static_shape(v) == shape for v in op.operands if v is not None):
                epilogue.add(op.results[0])
        return changed


def _reshaped_contraction(op: Op, epilogue: set[Value]) -> Op | None:
    """The reshape before `op` that a contraction's result comes through, and that nothing else uses."""
    for v in op.operands:
        reshape = v.op if v is not None else None
        if reshape is None or reshape.name != "reshape" or v is None or v.users != [op]:
            continue
        source = reshape.operands[0]
        if source in epilogue and source is not None and len(source.users) == 1 and static_shape(v) is not None \
                and static_shape(v) == static_shape(op.results[0]) and static_shape(source) is not None:
            return reshape
    return None


def _operands(op: Op, reshape: Op) -> list[tuple[Value, tuple[int, ...] | None] | None] | None:
    """For every operand, the shape to give it (None: as it is); None where one of them cannot be followed."""
    source, full = static_shape(reshape.operands[0]), static_shape(reshape.results[0])
    assert source is not None and full is not None
    out: list[tuple[Value, tuple[int, ...] | None] | None] = []
    for v in op.operands:
        if v is None:
            out.append(None)
            continue
        shape = static_shape(v)
        if shape is None:
            return None
        if math.prod(shape) == 1:
            out.append((v, (1,) * min(len(source), 1) if len(shape) > len(source) else None))
        elif shape == full:
            out.append((v, source))
        elif source[-1:] == full[-1:] == shape[-1:] and math.prod(shape) == shape[-1]:
            out.append((v, shape[-1:]))
        else:
            return None
    return out


def _sink(graph: Graph, op: Op, reshape: Op, operands: Sequence[tuple[Value, tuple[int, ...] | None] | None],
          context: Context) -> Value:
    """op(reshape(x), y) becomes reshape(op(x, reshape(y))); returns the new op's result."""
    inner: list[Value | None] = []
    for item in operands:
        if item is None:
            inner.append(None)
            continue
        v, shape = item
        while v.op is not None and v.op.name == "reshape" and shape is not None and v.op.operands[0] is not None:
            v = v.op.operands[0]
        if shape is not None and static_shape(v) != shape:
            v = graph.add("reshape", [v], {"shape": shape}, loc=op.loc, before=op).result
        inner.append(v)
    new = graph.add(op.name, inner, op.attrs, loc=op.loc, before=op).result
    outer = graph.add("reshape", [new], {"shape": reshape.attrs["shape"]}, loc=reshape.loc, before=op).result
    context.because(op, "works on the shape of the contraction before it; the reshape comes after")
    op.replace_with(outer)
    erase_dead([reshape])
    return new
