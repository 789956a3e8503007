"""Indexing: gathers as loads at loaded indices, scatters and selection of the k largest as loops."""

from __future__ import annotations

from graphopt.codegen.expr import INDEX, Expr, const
from graphopt.codegen.lower.common import wrapped
from graphopt.codegen.lower.registry import OpView, compute


@compute("gather")
def gather(o: OpView, *i: Expr) -> Expr:
    axis = o.axis
    rank = len(o.types[1].static_shape)
    picked = o.indices(*i[axis:axis + rank])
    return o.x(*i[:axis], wrapped(picked, o.shape("x")[axis]), *i[axis + rank:])


@compute("gather_elements")
def gather_elements(o: OpView, *i: Expr) -> Expr:
    picked = wrapped(o.indices(*i), o.shape("x")[o.axis])
    return o.x(*i[:o.axis], picked, *i[o.axis + 1:])


@compute("gather_nd")
def gather_nd(o: OpView, *i: Expr) -> Expr:
    shape = o.shape("x")
    *outer, depth = o.shape("indices")
    at = i[:len(outer)]
    b = o.batch_dims
    picked = [wrapped(o.indices(*at, const(k, INDEX)), shape[b + k]) for k in range(depth)]
    return o.x(*i[:b], *picked, *i[len(outer):])
