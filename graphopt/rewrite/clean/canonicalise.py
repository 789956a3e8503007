"""One form for each thing: what does nothing goes away, what can be said in two ways is said in one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.ir.dims import is_static
from graphopt.ir.graph import Graph, Value
from graphopt.ir.table import Trait
from graphopt.rewrite.engine.common import as_result, is_float, known_shape, operand_as_result, same_type, widens
from graphopt.rewrite.engine.context import Context
from graphopt.rewrite.engine.manager import RulePass
from graphopt.rewrite.engine.pattern import Match
from graphopt.rewrite.engine.rules import Rule


def _unchanged_shape(m: Match) -> bool:
    return same_type(m.x, m.result)


def _whole_slice(m: Match) -> bool:
    """A result as long as its operand, walked forwards, is the operand."""
    if not same_type(m.x, m.result):
        return False
    return all(step == 1 or m.x.shape[axis] == 1 for axis, step in zip(m.axes, m.steps))


def _reduces_ones(m: Match) -> bool:
    shape = known_shape(m.x)
    return shape is not None and bool(m.axes) and all(shape[a] == 1 for a in m.axes)


def _chosen(m: Match) -> Value | None:
    """`where` with a condition known everywhere."""
    cond = m.array("cond")
    if cond.size == 0 or not (cond.all() or not cond.any()):
        return None
    return as_result(m, m.a if cond.all() else m.b)


def _constant_shape(m: Match) -> Value | None:
    shape = known_shape(m.x)
    if shape is None:
        return None
    if is_static(shape):
        return m.build.const(np.array(shape, dtype=np.int64))
    return m.build.dims(values=shape)


def _static_dims(m: Match) -> Value | None:
    return m.build.const(np.array(m.values_, dtype=np.int64)) if is_static(m.values_) else None


def _drop_empty_parts(m: Match) -> Value | None:
    """concat without its empty operands, or of one operand."""
    axis, parts = m.root.attrs["axis"], m.root.variadic()
    if any(known_shape(p) is None for p in parts):
        return None
    kept = [p for p in parts if p.shape[axis] != 0] or parts[:1]
    if len(kept) == 1 and same_type(kept[0], m.result):
        return kept[0]
    return m.build.concat(*kept, axis=axis) if len(kept) < len(parts) else None


def _one_part(m: Match) -> Sequence[Value] | None:
    return [m.x] if len(m.root.results) == 1 and same_type(m.x, m.root.results[0]) else None


def _flip_of_long_axes(m: Match) -> Value | None:
    shape = known_shape(m.x)
    if shape is None:
        return None
    axes = [a for a in m.axes if shape[a] != 1]
    if len(axes) == len(m.axes):
        return None
    return m.build.flip(m.x, axes=axes) if axes else m.x


def _transpose_of_ones(m: Match) -> Value | None:
    """A transpose that moves only axes of size 1 is a reshape, which costs nothing."""
    shape = known_shape(m.x)
    if shape is None:
        return None
    moving = [p for p in m.perm if shape[p] != 1]
    if moving != sorted(moving):
        return None
    return m.x if m.perm == tuple(sorted(m.perm)) else m.build.reshape(m.x, shape=m.result.shape)


def _is_power_of_two(c: np.ndarray) -> bool:
    """Is every element a power of two whose reciprocal is a normal number?"""
    mantissa, exponent = np.frexp(c.astype(np.float64))
    small = {np.dtype(np.float16): 14, np.dtype(np.float32): 126, np.dtype(np.float64): 1022}.get(c.dtype, 126)
    return bool(c.size and np.all(np.abs(mantissa) == 0.5) and np.all(np.abs(exponent) < small))


def _divide_by_power_of_two(m: Match) -> Value | None:
    c = m.array("c")
    if not is_float(m) or not _is_power_of_two(c):
        return None
    return m.build.mul(m.x, m.build.const((1.0 / c.astype(np.float64)).astype(c.dtype)))


def _subtract_constant(m: Match) -> Value | None:
    c = m.array("c")
    with np.errstate(all="ignore"):
        return m.build.add(m.x, m.build.const(np.asarray(np.negative(c)).astype(c.dtype)))


def _cast_twice(m: Match) -> Value | None:
    """Casting to a dtype that holds everything, and on, is casting there at once."""
    if not widens(m.x.dtype, m.mid):
        return None
    if m.x.dtype is m.root.attrs["to"]:
        return m.x
    return m.build.cast(m.x, **m.root.attrs)


IDEMPOTENT = "abs|relu|floor|ceil|round|trunc|sign"

RULES = [
    Rule("identity", "identity(%x)", "%x"),
    Rule("cast to its own dtype", "cast(%x) {to=?to}", "%x", when=lambda m: m.x.dtype is m.to),
    Rule("bitcast to its own dtype", "bitcast(%x) {to=?to}", "%x", when=lambda m: m.x.dtype is m.to),
    Rule("cast through a wider dtype", "cast(cast(%x) {to=?mid})", _cast_twice),
    Rule("reshape to its own shape", "reshape(%x)", "%x", when=_unchanged_shape),
    Rule("reshape of a reshape", "reshape(reshape(%x)) {shape=?s}", "reshape(%x) {shape=?s}"),
    Rule("transpose in place", "transpose(%x) {perm=?perm}", _transpose_of_ones),
    Rule("transpose of a transpose", "transpose(transpose(%x) {perm=?p}) {perm=?q}",
         lambda m: m.build.transpose(m.x, perm=[m.p[i] for i in m.q])),
    Rule("expand to its own shape", "expand(%x)", "%x", when=_unchanged_shape),
    Rule("expand of an expand", "expand(expand(%x)) {shape=?s}", "expand(%x) {shape=?s}"),
    Rule("slice of everything", "slice(%x) {axes=?axes, steps=?steps}", "%x", when=_whole_slice),
    Rule("pad by nothing", "pad(%x, ...) {pads=?p}", "%x", when=lambda m: not any(m.p)),
    Rule("tile once", "tile(%x) {repeats=?r}", "%x", when=lambda m: all(r == 1 for r in m.r)),
    Rule("flip of one element", "flip(%x) {axes=?axes}", _flip_of_long_axes),
    Rule("flip of a flip", "flip(flip(%x) {axes=?a}) {axes=?b}",
         lambda m: m.build.flip(m.x, axes=sorted(set(m.a) ^ set(m.b))) if set(m.a) != set(m.b) else m.x),
    Rule("empty parts of a concat", "concat(...)", _drop_empty_parts),
    Rule("split into one part", "split(%x)", _one_part),
    Rule("reduction over no axes", "reduce_sum|reduce_mean|reduce_max|reduce_min|reduce_prod|reduce_any|reduce_all(%x) {axes=[]}",
         "%x", when=lambda m: m.x.dtype is m.result.dtype),
    Rule("reduction over axes of size 1",
         "reduce_sum|reduce_mean|reduce_max|reduce_min|reduce_prod|reduce_any|reduce_all(%x) {axes=?axes}",
         lambda m: m.build.reshape(m.x, shape=m.result.shape),
         when=lambda m: _reduces_ones(m) and m.x.dtype is m.result.dtype),
    Rule("where with a known condition", "where(#cond, %a, %b)", _chosen),
    Rule("where of two equals", "where(%cond, %x, %x)", operand_as_result("x")),
    Rule("where of a negation", "where(not(%cond), %a, %b)", "where(%cond, %b, %a)"),
    Rule("shape of a known rank", "shape(%x)", _constant_shape),
    Rule("known dims", "dims() {values=?values_}", _static_dims),
    Rule("double negation", "neg(neg(%x))", "%x"),
    Rule("double not", "not(not(%x))", "%x"),
    Rule("double complement", "bit_not(bit_not(%x))", "%x"),
    Rule("not equal", "not(equal!(%x, %y))", "not_equal(%x, %y)"),
    Rule("not unequal", "not(not_equal!(%x, %y))", "equal(%x, %y)"),
    Rule("absolute value of a negation", "abs(neg(%x))", "abs(%x)"),
    Rule("minus a negation", "sub(%x, neg(%y))", "add(%x, %y)"),
    Rule("plus a negation", "add(%x, neg(%y))", "sub(%x, %y)"),
    Rule("product of negations", "mul(neg(%x), neg(%y))", "mul(%x, %y)"),
    Rule("minus a constant", "sub(%x, #c)", _subtract_constant, when=lambda m: m.x.constant is None),
    Rule("division by a power of two", "div(%x, #c)", _divide_by_power_of_two),
    *(Rule(f"{op} twice", f"{op}({op}(%x))", f"{op}(%x)") for op in IDEMPOTENT.split("|")),
]


class Canonicalise(RulePass):
    """Before: any graph. After: constants stand to the right in commutative ops; no op that returns its operand unchanged;
    chains of reshapes, transposes, flips, expands and exact casts are one op; a transpose moves more than axes of size 1;
    `sub` of a constant is `add`, division by a power of two is `mul`; static shapes are constants."""

    name = "canonicalise"
    rules = RULES

    def run_on(self, graph: Graph, context: Context) -> bool:
        changed = False
        for op in graph.ops:
            if op.definition.has(Trait.COMMUTATIVE):
                a, b = op.operands[:2]
                if a is not None and b is not None and _is_const(a) and not _is_const(b):
                    if not context.take("constant to the right", op):
                        return changed
                    op.set_operand(0, b)
                    op.set_operand(1, a)
                    changed = True
        return super().run_on(graph, context) or changed


def _is_const(v: Value) -> bool:
    return v.op is not None and v.op.name == "const"
