"""Transposes and reshapes: they meet, and cancel."""

from __future__ import annotations

import math
from collections.abc import Sequence

from graphopt.ir.graph import Graph, Op, Value
from graphopt.ir.table import Trait
from graphopt.rewrite.clean.canonicalise import RULES as CANONICAL
from graphopt.rewrite.engine.common import inverse, known_shape, static_shape
from graphopt.rewrite.engine.context import Context
from graphopt.rewrite.engine.manager import RulePass
from graphopt.rewrite.engine.pattern import Match, merge_locs
from graphopt.rewrite.engine.rules import Rule, erase_dead

REACH = 32  # how many elementwise ops a transpose may sink through to meet another


def _transposed_back(m: Match) -> Value | None:
    """A transpose, a reshape that only adds or drops axes of size 1, and a transpose, as one transpose and one reshape."""
    shape, between = static_shape(m.x), static_shape(m.y)
    if shape is None or between is None or [d for d in between if d != 1] != [shape[p] for p in m.p if shape[p] != 1]:
        return None
    # The axes of x longer than 1, in the order in which they come out at the end.
    long = [p for p in m.p if shape[p] != 1]
    place = dict(zip([i for i, d in enumerate(between) if d != 1], long))
    final = [place[i] for i in m.q if i in place]
    ones = [i for i in range(len(shape)) if shape[i] == 1]
    merged = m.build.transpose(m.x, perm=[*final, *ones])
    return m.build.reshape(merged, shape=m.result.shape)


def _reduced_axes(m: Match) -> Value | None:
    """A reduction of a transpose is a reduction over the axes where they came from, then a transpose of what is left."""
    axes = tuple(sorted(m.perm[a] for a in m.axes))
    attrs = {**m.root.attrs, "axes": axes}
    reduced = m.build.op(m.root.name, [m.x], attrs).result
    if m.keepdims:
        return m.build.transpose(reduced, perm=m.perm)
    left = [p for i, p in enumerate(m.perm) if i not in m.axes]
    rank = {p: i for i, p in enumerate(sorted(left))}
    perm = [rank[p] for p in left]
    return reduced if perm == sorted(perm) else m.build.transpose(reduced, perm=perm)


def _matmul_of_transposes(m: Match) -> Value | None:
    """(Bᵀ Aᵀ) = (A B)ᵀ where the result is transposed back: transpose(matmul(aᵀ, bᵀ)) is matmul(b, a)."""
    swap = (*range(len(m.q) - 2), len(m.q) - 1, len(m.q) - 2)
    if m.p != swap or m.q != swap or m.r != swap:
        return None
    return m.build.matmul(m.b, m.a)


def _split_of_concat(m: Match) -> Sequence[Value] | None:
    """split gives back what concat put together."""
    cat = m.parts.op
    assert cat is not None
    parts, axis = cat.variadic(), m.root.attrs["axis"]
    if cat.attrs["axis"] != axis or any(known_shape(p) is None for p in parts):
        return None
    return parts if tuple(p.shape[axis] for p in parts) == m.root.attrs["sizes"] else None


def _concat_of_transposes(m: Match) -> Value | None:
    """Parts that were all transposed alike, each for this only, are joined first and transposed once."""
    parts = m.root.variadic()
    producers = [v.op for v in parts]
    if len(set(parts)) < 2 or any(op is None or op.name != "transpose" or v.users != [m.root] for op, v in zip(producers, parts)):
        return None
    perm = producers[0].attrs["perm"]  # type: ignore[union-attr]
    sources = [op.operands[0] for op in producers if op is not None and op.attrs["perm"] == perm]
    if len(sources) < len(parts):
        return None
    return m.build.transpose(m.build.concat(*sources, axis=perm[m.root.attrs["axis"]]), perm=perm)


RULES = [
    *(r for r in CANONICAL if r.node.names[0] in ("transpose", "reshape", "cast", "expand")),
    Rule("transposes around a reshape of ones", "transpose(%y=reshape!(transpose!(%x) {perm=?p})) {perm=?q}", _transposed_back),
    Rule("reduction of a transpose",
         "reduce_sum|reduce_mean|reduce_max|reduce_min|reduce_prod|reduce_any|reduce_all(transpose!(%x) {perm=?perm}) "
         "{axes=?axes, keepdims=?keepdims}", _reduced_axes, ulps=2),  # another order of the sum
    Rule("product of transposes, transposed",
         "transpose(matmul!(transpose(%a) {perm=?p}, transpose(%b) {perm=?r})) {perm=?q}", _matmul_of_transposes, ulps=2),
    Rule("concat of transposes", "concat(...)", _concat_of_transposes),
    Rule("split of a concat", "split(%parts=concat(...))", _split_of_concat),
]


class Transposes(RulePass):
    """Before: a canonical graph. After: transposes, reshapes and casts that undo each other are gone, also where elementwise
    ops stand between them, and elementwise ops of several operands transposed alike work on the untransposed ones."""

    name = "transposes"
    rules = RULES

    def run_on(self, graph: Graph, context: Context) -> bool:
        changed = super().run_on(graph, context)
        while sink(graph, context):
            changed = True
            super().run_on(graph, context)
        return changed


def sink(graph: Graph, context: Context) -> bool:
    """Move transposes below elementwise ops where that lets at least one of them go; one walk over the graph."""
    changed = False
    worth: dict[Value, int] = {}
    for op in reversed(list(graph.ops)):
        _meets(op, worth)
    for op in graph.ops:
        if not op.definition.has(Trait.ELEMENTWISE) or len(op.results) != 1:
            continue
        perm = _common_perm(op)
        if perm is None:
            continue
        transposes = {v.op for v in op.operands if v is not None and v.op is not None and v.op.name == "transpose"}
        dying = sum(all(u is op for u in t.results[0].users) for t in transposes if t is not None)
        if dying == 0 or (dying < 2 and worth.get(op.results[0], -1) < 0):
            continue
        context.subject = op
        if not context.take("sink a transpose", op):
            return False
        _sink_through(graph, op, perm, context)
        changed = True
    return changed


def _meets(op: Op, worth: dict[Value, int]) -> None:
    """worth[v] >= 0: a transpose of v would meet other transposes only, through at most that many more elementwise ops."""
    if len(op.results) != 1 or not op.definition.has(Trait.ELEMENTWISE):
        return
    result = op.results[0]
    left = REACH
    for user in result.users:
        if user.name == "transpose":
            continue
        if not user.definition.has(Trait.ELEMENTWISE) or len(user.results) != 1 or worth.get(user.results[0], -1) < 1 \
                or any(v is not result and v.constant is None and not _is_single(v) for v in user.operands if v is not None):
            return
        left = min(left, worth[user.results[0]] - 1)
    if result.uses:
        worth[result] = left


def _is_single(v: Value) -> bool:
    shape = static_shape(v)
    return shape is not None and math.prod(shape) == 1


def _common_perm(op: Op) -> tuple[int, ...] | None:
    """The permutation that every operand has been through, but for single elements and constants; None if there is none."""
    perm: tuple[int, ...] | None = None
    rank = len(known_shape(op.results[0]) or ())
    for v in op.operands:
        if v is None or _is_single(v):
            continue
        if v.op is not None and v.op.name == "transpose":
            p = v.op.attrs["perm"]
            if len(p) != rank or perm not in (None, p):
                return None
            perm = p
        elif v.constant is None or len(v.shape) > rank:
            return None
    return perm


def _sink_through(graph: Graph, op: Op, perm: tuple[int, ...], context: Context) -> None:
    """op(transpose(x), ...) becomes transpose(op(x, ...))."""
    back = inverse(perm)
    operands: list[Value | None] = []
    sources = []
    for v in op.operands:
        if v is not None and v.op is not None and v.op.name == "transpose" and len(v.op.attrs["perm"]) == len(perm) \
                and v.op.attrs["perm"] == perm:
            operands.append(v.op.operands[0])
            sources.append(v.op)
        elif v is None or _is_single(v):
            operands.append(v)
        else:
            full = (1,) * (len(perm) - len(v.shape)) + tuple(v.shape)
            if len(v.shape) < len(perm):
                v = graph.add("reshape", [v], {"shape": full}, loc=op.loc, before=op).result
            operands.append(graph.add("transpose", [v], {"perm": back}, loc=op.loc, before=op).result)
    inner = graph.add(op.name, operands, op.attrs, loc=op.loc, before=op).result
    outer = graph.add("transpose", [inner], {"perm": perm}, loc=merge_locs(sources), before=op).result
    context.because(op, f"the transpose {list(perm)} of its operands moved below it, where it meets another")
    op.replace_with(outer)
    erase_dead(sources)
