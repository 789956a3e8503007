"""Decision trees: several walks at a time, whose loads wait for each other's and not for their own.

A step of one walk is four loads of which each needs the one before, so several walks go in step: over LANES rows of x, each tree
for a whole block of rows while its nodes lie in the first cache; over TREES trees for the rows that are left. Leaves lead to
themselves, so that no step branches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from graphopt.codegen.kernel.expr import INDEX, Buffer, Expr, ExprLike, binary, call, cast, const, maximum, minimum, select
from graphopt.codegen.kernel.loops import Stmt, alloc, let, loop, nest, seq
from graphopt.codegen.kernel.spaces import Scope
from graphopt.codegen.lower.common import PARALLEL_FROM, TRUE, read, wrapped, write
from graphopt.codegen.lower.registry import OpView, loops
from graphopt.ir.types import I32

LANES = 8
TREES = 16
BLOCK = 64  # rows at most that go through a tree before the next one does
SHARES = 16  # into which rows are parted at least, for threads
LEVELS = 8  # that a tree is taken to have where nothing is known of it

_COMBINE: dict[str, Callable[[Expr, Expr], Expr]] = {"sum": lambda a, b: a + b, "min": minimum, "max": maximum}
_START = {"sum": 0.0, "min": np.inf, "max": -np.inf}


def _safe(o: OpView, table: str, size: int) -> bool:
    """Is it known that all elements of a table are indices below `size`?"""
    known = o.value(table)
    return known is not None and bool(((known >= 0) & (known < size)).all())


@loops("tree_ensemble")
def tree_ensemble(o: OpView, ins: Sequence[Buffer], outs: Sequence[Buffer]) -> Stmt:
    (x, feature, low, high, nan, child, leaf, root, depth, column, weights), (y,) = ins, outs
    rows, features = x.shape
    trees = root.shape[0]
    combine, start = _COMBINE[o.aggregate], const(_START[o.aggregate], y.dtype)
    begin = nest(y.shape, lambda r, k: write(y, [r, k], start), ("r", "k"))
    if not (rows and features and trees and child.shape[0] and weights.shape[0]):
        return begin

    def index(table: str, element: Expr, size: int) -> Expr:
        return cast(element, INDEX) if _safe(o, table, size) else wrapped(element, size)

    def step(at: Buffer, lane: int, row: Expr, goes: Expr) -> Stmt:
        """One level down, for a walk that goes on."""
        here = lambda n: let("v", read(x, row, index("feature", feature[n], features)), lambda v: down(n, v))

        def down(n: Expr, v: Expr) -> Stmt:
            inside = binary("le", v, high[n])
            if low is not None:
                inside = inside & binary("le", low[n], v)
            if nan is not None:
                inside = inside | (nan[n] & call("isnan", v))
            return write(at, [lane], select(goes, child[n, select(inside, const(1, INDEX), const(0, INDEX))], at[lane]))

        return let("n", node(at, lane), here)

    nodes_safe = _safe(o, "child", child.shape[0]) and _safe(o, "root", child.shape[0])

    def node(at: Buffer, lane: int) -> Expr:
        return cast(at[lane], INDEX) if nodes_safe else wrapped(at[lane], child.shape[0])

    def levels(of: Expr) -> Expr:
        return maximum(cast(of, INDEX), 0)

    def count(at: Buffer, lane: int, row: Expr, tree: Expr) -> Stmt:
        """What the leaf holds, added to the row."""
        def put(held: Expr) -> Stmt:
            if column is not None:
                return let("c", index("column", column[tree], y.shape[1]),
                           lambda c: write(y, [row, c], combine(read(y, row, c), read(weights, held, const(0, INDEX)))))
            return loop(y.shape[1], lambda k: write(y, [row, k], combine(read(y, row, k), read(weights, held, k))), name="k")

        return let("held", index("leaf", leaf[node(at, lane)], weights.shape[0]), put)

    def walks(lanes: int, row: Callable[[int], Expr], tree: Callable[[int], Expr], deep: Expr, same: bool = True) -> Stmt:
        """`lanes` walks of at most `deep` levels, of just as many where they are the `same`."""
        def together(at: Buffer) -> Stmt:
            every = range(lanes)
            goes = lambda l, level: TRUE if same else level < cast(depth[tree(l)], INDEX)
            return seq(*(write(at, [l], root[tree(l)]) for l in every),
                       loop(deep, lambda level: seq(*(step(at, l, row(l), goes(l, level)) for l in every)), name="level"),
                       *(count(at, l, row(l), tree(l)) for l in every))

        return alloc("at", I32, (lanes,), together)

    def over_rows(first: Expr, groups: ExprLike) -> Stmt:
        """All trees for `groups` times LANES rows from `first` on."""
        def tree(t: Expr) -> Stmt:
            return let("deep", levels(depth[t]), lambda deep: loop(
                groups, lambda g: walks(LANES, lambda l: first + g * LANES + l, lambda l: t, deep), name="g"))

        return loop(trees, tree, name="t")

    def over_trees(row: Expr) -> Stmt:
        """All trees for one row."""
        def group(g: Expr) -> Stmt:
            deep: Expr = depth[g * TREES]
            for l in range(1, TREES):
                deep = maximum(deep, depth[g * TREES + l])
            return let("deep", levels(deep), lambda d: walks(TREES, lambda l: row, lambda l: g * TREES + l, d, same=False))

        whole = trees // TREES
        rest = loop(trees - whole * TREES, lambda t: walks(
            1, lambda l: row, lambda l: t + whole * TREES, levels(depth[t + whole * TREES])), name="t")
        return seq(loop(whole, group, name="g"), rest)

    known = o.value("depth")
    work = rows * (4 * int(known.sum()) if known is not None else 4 * LEVELS * trees)
    scope = Scope.PARALLEL if work >= PARALLEL_FROM else Scope.SERIAL
    groups = rows // LANES
    block = max(1, min(BLOCK, rows // SHARES) // LANES)  # groups that stay together
    blocks = -(-groups // block)

    def stretch(b: Expr) -> Stmt:
        return over_rows(b * (block * LANES), block if groups % block == 0 else minimum(groups - b * block, block))

    return seq(begin, loop(blocks, stretch, scope, name="b"),
               loop(rows - groups * LANES, lambda r: over_trees(r + groups * LANES), name="r"))


__all__ = ["tree_ensemble"]
