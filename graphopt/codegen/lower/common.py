"""What several lowering rules need: flat indices, wrapped indices, guarded loads, dtype-aware reads and writes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from graphopt.codegen.kernel.expr import (
    INDEX,
    Buffer,
    Expr,
    ExprLike,
    as_expr,
    binary,
    bounds,
    call,
    cast,
    clamp,
    const,
    select,
)
from graphopt.codegen.kernel.index import split_index
from graphopt.codegen.kernel.loops import Stmt, loop, nest, store
from graphopt.codegen.kernel.spaces import Scope
from graphopt.codegen.lower.registry import computed
from graphopt.ir.types import BOOL, DType

ZERO = const(0, INDEX)
PARALLEL_FROM = 1 << 16  # scalar operations from which independent lines are shared among threads
TRUE = const(True, BOOL)


def wrapped(i: Expr, n: int) -> Expr:
    """An index read from a tensor: negative ones count from the end, and what is still outside is held at the border."""
    position = cast(i, INDEX)
    return clamp(select(position < 0, position + n, position), 0, max(n - 1, 0))


def inside(position: Expr, n: int) -> Expr:
    """Whether 0 <= position < n, as a bool."""
    return binary("le", ZERO, position) & (position < n)


def all_of(conditions: Sequence[Expr]) -> Expr:
    out: Expr = TRUE
    for c in conditions:
        out = out & c
    return out


def guarded(access: Callable[..., Expr], positions: Sequence[Expr], shape: Sequence[int], otherwise: ExprLike) -> Expr:
    """`access(*positions)` where the positions lie within `shape`, else `otherwise`; the load never leaves the buffer."""
    held = [clamp(p, 0, max(n - 1, 0)) for p, n in zip(positions, shape)]
    element = access(*held)
    return select(all_of([inside(p, n) for p, n in zip(positions, shape)]), element, as_expr(otherwise, element.dtype))


def choose(index: Expr, values: Sequence[ExprLike], like: DType) -> Expr:
    """`values[index]` of a short list known at compile time."""
    low, high = bounds(index)
    out = as_expr(values[-1], like)
    for k in reversed(range(len(values) - 1)):
        if low <= k <= high:
            out = select(index.eq(k), as_expr(values[k], like), out)
    return out


def is_nan(x: Expr) -> Expr:
    """isnan of a float, false of anything else."""
    return call("isnan", x) if x.dtype.is_float else const(False, BOOL)


# Within loop rules -------------------------------------------------------------------------------
def read(buffer: Buffer, *index: ExprLike) -> Expr:
    """An element in the dtype that arithmetic on it happens in."""
    element = buffer[tuple(index)]
    return cast(element, computed(element.dtype))


def lines(shape: Sequence[int], body: Callable[..., Stmt], work: int) -> Stmt:
    """`body` at every index of `shape`, in any order; `work` is about how many scalar operations all of it takes."""
    count = math.prod(shape)
    if work < PARALLEL_FROM or count < 2:
        return nest(shape, body)
    return loop(count, lambda p: body(*split_index(p, shape)), Scope.PARALLEL, name="p")


def write(buffer: Buffer, index: Sequence[ExprLike], value: Expr) -> Stmt:
    """Store, rounding to what the buffer holds."""
    return store(buffer, tuple(index), cast(value, buffer.dtype))
