"""Decision trees, walked together."""

from __future__ import annotations

import numpy as np

from graphopt.ir.dims import DimLike, Shape
from graphopt.ir.table import Operands, first_rows, op

AGGREGATES = ("sum", "min", "max")


def _shape(o: Operands) -> Shape:
    if o.x.rank != 2 or o.child.rank != 2 or o.child.shape[1] != 2 or o.weights.rank != 2:
        raise o.fail(f"x, child and weights must be [rows, features], [nodes, 2] and [leaves, columns], "
                     f"got {o.x}, {o.child} and {o.weights}")
    nodes, trees = o.child.shape[:1], o.root.shape
    tables = {"feature": nodes, "low": nodes, "high": nodes, "nan": nodes, "leaf": nodes, "root": trees, "depth": trees,
              "column": trees}
    for name, shape in tables.items():
        t = getattr(o, name)
        if t is not None and (t.rank != 1 or t.shape != shape):
            raise o.fail(f"{name} is {t}, but there are {nodes[0]} nodes and {trees[0] if trees else '?'} trees")
    if o.aggregate not in AGGREGATES:
        raise o.fail(f"aggregate={o.aggregate!r}, known: {', '.join(AGGREGATES)}")
    if o.columns < 1 or o.weights.shape[1] != (o.columns if o.column is None else 1):
        raise o.fail(f"weights {o.weights} do not give {o.columns} columns")
    return (o.x.shape[0], o.columns)


def _operations(o: Operands, results: object) -> DimLike:
    """Some ten levels of four loads and a comparison for each row and tree."""
    return o.x.shape[0] * o.root.shape[0] * 50


@op("tree_ensemble(x: T, feature: i32, low?: T, high: T, nan?: bool, child: i32, leaf: i32, root: i32, depth: i32, "
    "column?: i32, weights: T; columns: int, aggregate: str) -> T", T="f32|f64", shape=_shape, rows=first_rows,
    operations=_operations)
def tree_ensemble(x, feature, low, high, nan, child, leaf, root, depth, column, weights, *, columns, aggregate):
    """What the leaves hold that each row of x [rows, features] reaches, added up over all trees (or the least, or greatest).

    Node n leads to child[n, 1] where low[n] <= x[row, feature[n]] <= high[n], to child[n, 0] where not; without `low` there is
    no lower bound, and a NaN goes by nan[n] (false without). Tree t is entered at root[t] and walked depth[t] steps: a leaf
    that is reached before leads to itself. There weights[leaf[n]] counts, for all columns or, with `column`, for column[t].
    Trees are added up one after the other, in the dtype of x.
    """
    rows = np.arange(len(x))[:, None]
    at = np.broadcast_to(root, (len(x), len(root)))
    for step in range(int(depth.max(initial=0))):
        value = x[rows, feature[at]]
        inside = value <= high[at]
        if low is not None:
            inside &= value >= low[at]
        if nan is not None:
            inside |= nan[at] & np.isnan(value)
        at = np.where(step < depth, child[at, inside.astype(np.int64)], at)
    reached = leaf[at]
    start, combine = {"sum": (0, np.add), "min": (np.inf, np.minimum), "max": (-np.inf, np.maximum)}[aggregate]
    out = np.full((len(x), columns), start, x.dtype)
    for t in range(len(root)):
        of = slice(None) if column is None else slice(column[t], column[t] + 1)
        out[:, of] = combine(out[:, of], weights[reached[:, t]])
    return out
