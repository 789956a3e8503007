"""Trees that an exporter took apart are put together: what is computed of a leaf is in the leaf, and sums of trees are forests.

scikit-learn's isolation forest comes as hundreds of trees of one operator each, with a dozen operators behind each that turn the
leaf's number into a path's length, and a sum over them all.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.errors import GraphOptError
from graphopt.ir.dims import product
from graphopt.ir.graph import Graph, Op, Value
from graphopt.ir.table import Trait
from graphopt.ir.types import TensorType
from graphopt.rewrite.engine.context import Context
from graphopt.rewrite.engine.manager import GraphPass

TREES = "tree_ensemble"


class Forests(GraphPass):
    """Before: tree ensembles, and ops on what they give. After: a function of one tree's result is in what its leaves hold, and
    sums of ensembles over the same rows are one."""

    name = "forests"
    ulps = 100.0  # functions of leaves are numpy's, and forests of several trees add up in another order

    def run_on(self, graph: Graph, context: Context) -> bool:
        changed = False
        for op in graph.ops:
            if op.name == TREES and _constant(op):
                changed |= _into_leaves(op, context)
        for op in graph.ops:
            if op.name == "add":
                changed |= _into_one(op, context)
        return changed


def _constant(op: Op) -> bool:
    """Are all tables known?"""
    return all(v is None or v.constant is not None for v in op.operands[1:])


def _table(op: Op, name: str) -> np.ndarray | None:
    v = op.operand(name)
    return None if v is None else v.constant


def _known(op: Op, name: str) -> np.ndarray:
    found = _table(op, name)
    assert found is not None
    return found


# Functions of a leaf ------------------------------------------------------------------------
def _into_leaves(op: Op, context: Context) -> bool:
    """One tree's result takes a value for each leaf, and so does what is computed of it and of numbers alone."""
    if _known(op, "root").size != 1 or op.attrs["columns"] != 1:
        return False
    held = {op.result: _known(op, "weights")[:, 0]}
    rows = op.result.shape[0]
    taken: list[Op] = []
    waiting = list(op.result.users)
    while waiting:
        user = waiting.pop()
        if user in taken:
            continue
        made = _of_leaves(user, held, rows)
        if made is not None:
            taken.append(user)
            held[user.result] = made
            waiting += user.result.users
    inside = set(taken)
    ends = [v for v in held if any(u not in inside for u in v.users)]
    if len(ends) != 1 or ends[0] is op.result or ends[0].dtype is not op.result.dtype:
        return False
    (end,) = ends
    if not context.take("a function of a tree's result into its leaves", op):
        return False
    last = end.op
    assert last is not None and last.graph is not None
    graph = last.graph
    weights = graph.constant(np.ascontiguousarray(held[end][:, None]), loc=op.loc, before=last)
    new = graph.add(TREES, [*op.operands[:-1], weights], op.attrs, loc=(*op.loc, *last.loc), before=last).result
    if new.type != end.type:
        new = graph.add("reshape", [new], {"shape": end.shape}, loc=last.loc, before=last).result
    new.name = end.name
    end.replace_all_uses_with(new)
    return True


def _of_leaves(op: Op, held: dict[Value, np.ndarray], rows: object) -> np.ndarray | None:
    """The op's result for each leaf, None where it is not a function of the leaf alone, or not one element a row."""
    if len(op.results) != 1 or not isinstance(op.result.type, TensorType) or op.result.type.shape is None:
        return None
    definition, shape = op.definition, op.result.shape
    looks_up = op.name == "gather" and op.operands[0] is not None and op.operands[0].constant is not None
    if not (looks_up or definition.has(Trait.ELEMENTWISE | Trait.VIEW)) or definition.has(Trait.RANDOM) or product(shape) != rows:
        return None
    arrays: list[np.ndarray | None] = []
    leaves = 0
    for k, v in enumerate(op.operands):
        if v is None:
            arrays.append(None)
        elif v in held:
            arrays.append(held[v])
            leaves = len(held[v])
        elif v.constant is not None and looks_up and k == 0 and v.constant.ndim == 1:
            arrays.append(v.constant)
        elif v.constant is not None and v.constant.size == 1:
            arrays.append(v.constant.reshape(()))
        else:
            return None
    if looks_up and op.operands[1] not in held:
        return None
    if definition.has(Trait.VIEW) and not definition.has(Trait.ELEMENTWISE):
        return arrays[0] if op.result.dtype is op.operands[0].dtype else None  # type: ignore[union-attr]
    try:
        with np.errstate(all="ignore"):
            made = np.asarray(definition.evaluate(*arrays, **op.attrs))
    except (GraphOptError, ValueError, IndexError):
        return None  # for a leaf that no row reaches, perhaps: left as it is
    return np.broadcast_to(made, (leaves,)) if made.dtype == op.result.dtype.numpy and made.size in (1, leaves) else None


# Sums of forests ----------------------------------------------------------------------------
def _into_one(first: Op, context: Context) -> bool:
    """A chain of additions of ensembles, from its first on."""
    a, b = (_ensemble(v) for v in first.operands)
    if a is None or b is None or a is b or not _fit(a, b) or first.operands[0].type != first.operands[1].type:  # type: ignore[union-attr]
        return False
    parts, last = [a, b], first
    while len(last.result.uses) == 1:
        (user, place), = last.result.uses
        other = user.operands[1 - place] if user.name == "add" else None
        more = _ensemble(other)
        if more is None or not _fit(a, more) or other.type != last.result.type:  # type: ignore[union-attr]
            break
        parts.append(more)
        last = user
    if not context.take(f"{len(parts)} ensembles into one", last):
        return False
    graph = last.graph
    assert graph is not None
    new = _joined(graph, parts, last)
    if new.type != last.result.type:
        new = graph.add("reshape", [new], {"shape": last.result.shape}, loc=last.loc, before=last).result
    new.name = last.result.name
    last.result.replace_all_uses_with(new)
    return True


def _ensemble(v: Value | None) -> Op | None:
    """The ensemble whose sums a value is, nothing else using them."""
    if v is not None and v.op is not None and v.op.name == "reshape" and len(v.uses) == 1:
        v = v.op.operands[0]
    if v is None or v.op is None or v.op.name != TREES or len(v.uses) != 1:
        return None
    return v.op if v.op.attrs["aggregate"] == "sum" and _constant(v.op) else None


def _fit(a: Op, b: Op) -> bool:
    return (a.operands[0] is b.operands[0] and a.attrs["columns"] == b.attrs["columns"]
            and (a.operand("column") is None) == (b.operand("column") is None))


def _joined(graph: Graph, parts: Sequence[Op], before: Op) -> Value:
    """One ensemble of all their trees, in order."""
    nodes = np.cumsum([0, *(len(_known(p, "feature")) for p in parts)])
    leaves = np.cumsum([0, *(len(_known(p, "weights")) for p in parts)])

    def together(name: str, shift: np.ndarray | None = None, fill: object = None) -> Value | None:
        tables = [_table(p, name) for p in parts]
        if all(t is None for t in tables):
            return None
        like = next(t for t in tables if t is not None)
        filled = [np.full(nodes[k + 1] - nodes[k], fill, like.dtype) if t is None else t for k, t in enumerate(tables)]
        if shift is not None:
            filled = [(t + shift[k]).astype(t.dtype) for k, t in enumerate(filled)]
        return graph.constant(np.concatenate(filled), loc=before.loc, before=before)

    operands = [parts[0].operands[0], together("feature"), together("low", fill=-np.inf), together("high"),
                together("nan", fill=False), together("child", nodes), together("leaf", leaves), together("root", nodes),
                together("depth"), together("column"), together("weights")]
    locs = tuple(dict.fromkeys(at for p in parts for at in p.loc))
    return graph.add(TREES, operands, parts[0].attrs, loc=locs, before=before).result


__all__ = ["Forests"]
