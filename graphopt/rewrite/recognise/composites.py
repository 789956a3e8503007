"""Composite ops out of the primitives that exporters write them in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

from graphopt.ir.graph import Builder, Graph, Op, Value
from graphopt.rewrite.engine.common import known_shape, same_type
from graphopt.rewrite.engine.context import Context
from graphopt.rewrite.engine.manager import RulePass
from graphopt.rewrite.engine.pattern import Match
from graphopt.rewrite.engine.rules import Rewriter, Rule


def _float(m: Match) -> bool:
    return bool(m.result.dtype.is_float)


def _products(*factors: str) -> Iterator[str]:
    """Three factors multiplied, in each of the three orders that commutativity does not cover."""
    a, b, c = factors
    yield f"mul(mul({a}, {b}), {c})"
    yield f"mul(mul({a}, {c}), {b})"
    yield f"mul(mul({b}, {c}), {a})"


def _activations() -> Iterator[Rule]:
    yield Rule("sigmoid", "reciprocal(add(exp!(neg!(%x)), 1))", "sigmoid(%x)", ulps=4)
    yield Rule("silu", "mul(%x, sigmoid(%x))", "silu(%x)", ulps=4)
    yield Rule("mish", "mul(%x, tanh(softplus(%x) {beta=1.0}))", "mish(%x)", ulps=4)
    for inner in ("div(%x, ~1.41421356)", "mul(%x, ~0.70710678)"):
        for whole in _products("%x", "0.5", f"add(erf({inner}), 1)"):
            yield Rule("gelu", whole, "gelu(%x)", ulps=8)
    cubed = [f"mul(add(%x, mul({cube}, ~0.044715)), ~0.79788456)" for cube in ("pow(%x, 3)", "mul(mul(%x, %x), %x)")]
    factored = "add(mul(mul(%x, %x), ~0.044715), 1)"
    for argument in (*cubed, f"mul(mul(%x, ~0.79788456), {factored})", f"mul(mul(%x, {factored}), ~0.79788456)"):
        for whole in _products("%x", "0.5", f"add(tanh({argument}), 1)"):
            yield Rule("gelu by tanh", whole, 'gelu(%x) {approximate="tanh"}', ulps=16)
    shifted = "add(%x, 3)"
    for clipped in (f"minimum(maximum({shifted}, 0), 6)", f"maximum(minimum({shifted}, 6), 0)", f"minimum(relu({shifted}), 6)"):
        for sixth in (f"div({clipped}, 6)", f"mul({clipped}, ~0.16666667)"):
            yield Rule("hard sigmoid", sixth, "hard_sigmoid(%x) {alpha=0.16666666666666666, beta=0.5}", ulps=4, when=_float)
            yield Rule("hard swish", f"mul(%x, {sixth})", "hard_swish(%x)", ulps=4)
        yield Rule("hard swish", f"div(mul(%x, {clipped}), 6)", "hard_swish(%x)", ulps=4)
        yield Rule("hard swish", f"mul(mul(%x, {clipped}), ~0.16666667)", "hard_swish(%x)", ulps=4)
    yield Rule("hard swish", "mul(%x, hard_sigmoid(%x) {alpha=~0.16666667, beta=0.5})", "hard_swish(%x)", ulps=4)


# Softmax and normalisations -----------------------------------------------------------------
def _softmax(m: Match) -> Value | None:
    return m.build.softmax(m.x, axis=m.axes[0]) if len(m.axes) == 1 else None


def _tail_axis(m: Match) -> int | None:
    """The first of the axes where they are all from there to the last."""
    first = min(m.axes, default=None)
    return first if first is not None and sorted(m.axes) == list(range(first, m.x.rank)) else None


def _epsilon(m: Match) -> float | None:
    eps = m.array("eps")
    return float(eps.reshape(-1)[0]) if eps.size == 1 else None


def _layer_norm(m: Match) -> Value | None:
    axis, eps = _tail_axis(m), _epsilon(m)
    if axis is None or eps is None or not same_type(m.x, m.result):
        return None
    return m.build.layer_norm(m.x, axis=axis, eps=eps)


def _rms_norm(m: Match) -> Value | None:
    axis, eps = _tail_axis(m), _epsilon(m)
    if axis is None or eps is None or not same_type(m.x, m.result):
        return None
    return m.build.rms_norm(m.x, axis=axis, eps=eps)


def _fits(m: Match, name: str) -> bool:
    """Has %name the shape that is normalised over?"""
    shape, axis = known_shape(m.y), m.y.op.attrs["axis"] if m.y.op is not None else 0
    return shape is not None and known_shape(m.values[name]) == shape[axis:]


def _with_scale(m: Match) -> Value | None:
    norm = m.y.op
    assert norm is not None
    if not _fits(m, "c") or any(v is not None for v in norm.operands[1:]):
        return None
    return m.build.op(norm.name, [m.x, m.c], norm.attrs).result


def _with_bias(m: Match) -> Value | None:
    norm = m.y.op
    assert norm is not None
    if not _fits(m, "c") or norm.operand("bias") is not None:
        return None
    return m.build.op(norm.name, [m.x, norm.operand("scale"), m.c], norm.attrs).result


def _norms() -> Iterator[Rule]:
    shifted = "%d=sub(%x, reduce_max(%x) {axes=?axes, keepdims=true})"
    yield Rule("softmax", f"div(%e=exp({shifted}), reduce_sum(%e=exp(%d)) {{axes=?axes, keepdims=true}})", _softmax, ulps=16)
    centred = "%d=sub(%x, reduce_mean(%x) {axes=?axes, keepdims=true})"
    for square in ("mul(%d, %d)", "pow(%d, 2)"):
        variance = f"add(reduce_mean({square}) {{axes=?axes, keepdims=true}}, #eps)"
        for whole in (f"div({centred}, sqrt({variance}))", f"mul({centred}, rsqrt({variance}))",
                      f"mul({centred}, reciprocal(sqrt({variance})))"):
            yield Rule("layer norm", whole, _layer_norm, ulps=64)
    for square in ("mul(%x, %x)", "pow(%x, 2)"):
        mean = f"add(reduce_mean({square}) {{axes=?axes, keepdims=true}}, #eps)"
        for whole in (f"div(%x, sqrt({mean}))", f"mul(%x, rsqrt({mean}))", f"mul(%x, reciprocal(sqrt({mean})))"):
            yield Rule("rms norm", whole, _rms_norm, ulps=64)
    yield Rule("scale of a norm", "mul(%y=layer_norm|rms_norm!(%x, ...), %c)", _with_scale, ulps=8)
    yield Rule("bias of a norm", "add(%y=layer_norm!(%x, ...), %c)", _with_bias, ulps=8)


# Attention ----------------------------------------------------------------------------------
def _split_scale(v: Value) -> tuple[Value, float]:
    """(u, c) with v = u * c for a number c."""
    op = v.op
    if op is None or op.name not in ("mul", "div") or op.operands[0] is None or op.operands[1] is None:
        return v, 1.0
    u, c = op.operands[0], op.operands[1].constant
    if c is None or c.size != 1 or not same_type(u, v):
        return v, 1.0
    number = float(c.reshape(-1)[0])
    if not math.isfinite(number) or number == 0:
        return v, 1.0
    return u, number if op.name == "mul" else 1 / number


def _split_mask(scores: Value, b: Builder) -> tuple[Value, Value | None]:
    """(u, mask) with scores = u + mask; mask None where nothing is added. Of several masks it is their sum."""
    found = _split_masks(scores, b)
    if found is None:
        return scores, None
    u, masks = found
    total: Value | None = None
    for mask in masks:
        total = mask if total is None else b.add(total, mask)
    return u, total


def _split_masks(scores: Value, b: Builder) -> tuple[Value, list[Value]] | None:
    """(u, masks) with scores = u + all masks and u a product; None where there is none. Where each window of a picture has a
    mask, windows and pictures are two axes while it is added: reshape(add(reshape(u), mask))."""
    if _is_scores(scores):
        return scores, []
    op = scores.op
    if op is None or known_shape(scores) is None:
        return None
    wide = op.operands[0] if op.name == "reshape" else scores
    add = wide.op if wide is not None else None
    if add is None or wide is None or add.name != "add" or (wide is not scores and len(wide.uses) != 1):
        return None
    for u, mask in (add.operands, add.operands[::-1]):
        if u is None or mask is None or known_shape(mask) is None or not same_type(u, wide):
            continue
        if wide is not scores:
            if u.op is None or u.op.name != "reshape" or u.op.operands[0] is None or not same_type(u.op.operands[0], scores):
                continue
            merged = _of_one_axis(mask, wide, scores, b)
            if merged is None:
                continue
            u, mask = u.op.operands[0], merged
        rest = _split_masks(u, b)
        if rest is not None:
            return rest[0], [*rest[1], mask]
    return None


def _of_one_axis(mask: Value, wide: Value, scores: Value, b: Builder) -> Value | None:
    """A mask for `wide` as one for `scores`, in which the leading axes of `wide` are one."""
    tail = scores.shape[1:]
    lead = wide.shape[:len(wide.shape) - len(tail)] if known_shape(wide) is not None else ()
    if not lead or wide.shape[len(lead):] != tail or mask.rank > len(wide.shape):
        return None
    shape = (1,) * (len(wide.shape) - mask.rank) + tuple(mask.shape)
    of_mask, rest = shape[:len(lead)], shape[len(lead):]
    if all(n == 1 for n in of_mask):
        return b.reshape(mask, shape=(1, *rest))
    if of_mask != tuple(lead):
        mask = b.expand(mask, shape=(*lead, *rest))
    return b.reshape(mask, shape=(scores.shape[0], *rest))


def _split_choice(scores: Value) -> tuple[Value, Value, Value, bool] | None:
    """(u, cond, lowest, kept) of scores = where(cond, u, lowest), or with the branches the other way (kept false).

    `lowest` is -inf, or so low that adding a score to it changes nothing.
    """
    op = scores.op
    if op is None or op.name != "where" or any(v is None or known_shape(v) is None for v in op.operands):
        return None
    cond, a, b = op.operands
    for u, lowest, kept in ((a, b, True), (b, a, False)):
        assert cond is not None and u is not None and lowest is not None
        c = lowest.constant
        if c is not None and c.size == 1 and same_type(u, scores):
            number = float(c.reshape(-1)[0])
            if number == -math.inf or number <= -1e30:
                return u, cond, lowest, kept
    return None


def _attention(keeps: Callable[[Op], bool], m: Match) -> Value | None:
    """softmax(q kᵀ c + mask) v. With `%zero`, NaN of the softmax of a query that sees no key was replaced by zeros."""
    weights, v = m.w, m.v
    rank = weights.rank if known_shape(weights) is not None else 0
    if m.axis != rank - 1 or rank not in (3, 4) or known_shape(v) is None or v.rank != rank:
        return None
    choice = _split_choice(m.s)
    scores, mask = _split_mask(m.s if choice is None else choice[0], m.build)
    scores, scale = _split_scale(scores)
    product = scores.op
    if product is None or product.name != "matmul" or len(scores.uses) != 1:
        return None
    q, kt = product.operands
    if q is None or kt is None or known_shape(q) is None or known_shape(kt) is None or q.rank != rank or kt.rank != rank:
        return None
    q, of_q = _split_scale(q)
    kt, of_k = _split_scale(kt)
    if q.shape[:-2] != kt.shape[:-2] or q.shape[:-2] != v.shape[:-2]:
        return None
    if choice is not None:
        _, cond, lowest, kept = choice
        rest = m.build.const(0, m.s.dtype) if mask is None else mask
        mask = m.build.where(cond, rest, lowest) if kept else m.build.where(cond, lowest, rest)
    k = m.build.transpose(kt, perm=[*range(rank - 2), rank - 1, rank - 2])
    if rank == 3:  # [B·H, S, D]: one head
        q, k, v, mask = (t if t is None or t.rank < 3 else m.build.reshape(t, shape=(t.shape[0], 1, *t.shape[1:]))
                         for t in (q, k, v, mask))
    y = m.build.attention(q, k, v, mask, scale=scale * of_q * of_k,
                          empty="zero" if "zero" in m.values else "nan")
    if not keeps(y.op):
        return None
    return y if rank == 4 else m.build.reshape(y, shape=m.result.shape)


def _is_scores(v: Value) -> bool:
    product = _split_scale(v)[0].op
    return product is not None and product.name == "matmul"


RULES = [*_activations(), *_norms()]


class Recognise(RulePass):
    """Before: a canonical, simplified graph. After: silu, mish, gelu, hard_sigmoid, hard_swish, sigmoid, softmax, layer_norm
    and rms_norm are one op each, in whichever of the usual ways they were written out; attention too where the target keeps
    it (taken apart again it would cost more than what was written)."""

    name = "recognise"
    rules = RULES

    def run_on(self, graph: Graph, context: Context) -> bool:
        pattern = "matmul(%w=softmax!(%s) {axis=?axis}, %v)"
        nanless = "matmul(where!(isnan!(%w=softmax(%s) {axis=?axis}), %zero, %w=softmax(%s) {axis=?axis}), %v)"
        rules = [*self.rules, *(Rule("attention", p, partial(_attention, context.target.keeps), when=_float, ulps=64)
                                for p in (pattern, nanless))]
        return Rewriter(rules, graph, context).run() > 0
