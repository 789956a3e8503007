"""Multiply-adds of formulas: products that are added, written as `fma`, so that the formulas themselves stay readable."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from graphopt.codegen.kernel.expr import Apply, Const, Expr, Reduce, const, fma, postorder_until, rebuild, unary

P = ParamSpec("P")


def fused(e: Expr, given: tuple[Expr, ...] = ()) -> Expr:
    """`e` with every float product that is added or subtracted, and used for nothing else, rounded together with that sum.

    What was `given` to the formula, and the operands of that, is left as it is: its roundings are somebody else's.
    """
    memo: dict[int, Expr] = {id(x): x for g in given for x in (g, *g.children)}
    memo.update((id(r), r) for r in postorder_until(e, memo) if isinstance(r, Reduce))
    nodes = postorder_until(e, memo)
    uses: dict[int, int] = {id(e): 1}
    for node in nodes:
        for child in node.children:
            uses[id(child)] = uses.get(id(child), 0) + 1
    free = {id(n) for n in nodes if isinstance(n, Apply) and n.kind == "mul" and n.dtype.is_float and uses[id(n)] == 1}
    for node in nodes:
        children = [memo[id(c)] for c in node.children]
        done = _sum(node, free, children)
        if done is None:
            done = node if all(a is b for a, b in zip(node.children, children)) else rebuild(node, children)
        memo[id(node)] = done
    return memo[id(e)]


def _sum(node: Expr, free: set[int], children: list[Expr]) -> Expr | None:
    """A sum or difference as a multiply-add, where one of its sides is a product of its own."""
    if not (isinstance(node, Apply) and node.kind in ("add", "sub")):
        return None
    (a, b), minus = children, node.kind == "sub"
    if id(node.args[0]) in free:
        x, y = a.children
        return fma(x, y, _negated(b) if minus else b)
    if id(node.args[1]) in free:
        x, y = b.children
        if minus:
            x, y = (x, _negated(y)) if isinstance(y, Const) or _magnitude(x) else (_negated(x), y)
        return fma(x, y, a)
    return None


def _negated(x: Expr) -> Expr:
    return const(-x.value, x.dtype) if isinstance(x, Const) else unary("neg", x)


def _magnitude(x: Expr) -> bool:
    """What takes an instruction to negate: the sign of anything else goes into the multiply-add."""
    return isinstance(x, Apply) and x.kind == "abs"


def fuses(formula: Callable[P, Expr]) -> Callable[P, Expr]:
    """The formula with its products and sums `fused`."""

    @wraps(formula)
    def run(*args: P.args, **named: P.kwargs) -> Expr:
        return fused(formula(*args, **named), tuple(a for a in args if isinstance(a, Expr)))

    return run


__all__ = ["fused", "fuses"]
