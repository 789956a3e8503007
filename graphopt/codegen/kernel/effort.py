"""What evaluating an expression costs, and whether lanes of a vector are worth it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from graphopt.codegen.kernel.expr import INDEX, TRANSCENDENTAL, Apply, Expr, Load, Reduce, Var, free_vars, linear, postorder


def reduces_in(values: Sequence[Expr]) -> list[Reduce]:
    return [n for n in postorder(*values) if isinstance(n, Reduce)]


def work(e: Expr) -> int:
    """Scalar operations that evaluating `e` once costs, reductions multiplied out (as if nothing were hoisted)."""
    cost: dict[int, int] = {}
    for node in postorder(e):
        own = sum(cost[id(c)] for c in node.children)
        if isinstance(node, Reduce):
            own *= math.prod(node.extents)
        elif node.dtype is not INDEX and isinstance(node, (Apply, Load)):
            own += 1
        cost[id(node)] = own
    return cost[id(e)]


def transcendental(e: Expr) -> bool:
    """Whether evaluating `e` once more would cost."""
    return any(isinstance(node, Apply) and node.kind in TRANSCENDENTAL for node in postorder(e))


def vectorisable(values: Sequence[Expr], var: Var) -> bool:
    """Whether lanes along `var` are worth it: no libm call, no reduction inside a reduction, mostly unit strides."""
    memo: dict[int, frozenset[Var]] = {}
    unit = strided = 0
    for node in postorder(*values):
        if isinstance(node, Apply) and node.kind in SCALAR_ONLY and node.dtype.name == "f64":
            return False
        if isinstance(node, Apply) and node.kind in ("div", "floordiv", "floormod", "fmod") and node.dtype is not INDEX \
                and node.dtype.is_integer:
            return False
        if isinstance(node, Reduce) and any(isinstance(c, Reduce) for c in postorder(node.body)):
            return False
        if isinstance(node, Load) and var in free_vars(node, memo):
            coefficients, rest, _ = linear(node.index[-1])
            if abs(coefficients.get(var, 0)) in (1, 2) and not any(var in free_vars(r, memo) for r in rest):
                unit += 1
            else:
                strided += 1
    return strided == 0 or unit > strided or not _heavy(values)


def _heavy(values: Sequence[Expr]) -> bool:
    return any(isinstance(n, Reduce) for v in values for n in postorder(v))


# Expanded to polynomials in f32; calls to libm, one lane at a time, in f64.
SCALAR_ONLY = frozenset(("exp", "log", "log1p", "expm1", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh",
                         "asinh", "acosh", "atanh", "erf", "pow", "atan2", "fmod"))

__all__ = ["reduces_in", "transcendental", "vectorisable", "work"]
