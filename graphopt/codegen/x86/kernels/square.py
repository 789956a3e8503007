"""A square of elements in vector registers, transposed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from graphopt.codegen.kernel.expr import INDEX, Buffer, Expr, Var, const
from graphopt.codegen.kernel.loops import Alloc, For, Shuffle, Stmt, seq, store
from graphopt.codegen.kernel.spaces import Scope, Space
from graphopt.ir.types import DType


def transposed(w: int, dtype: DType, load: Callable[[int, Expr], Expr], put: Callable[[int, Expr, Expr], Stmt]) -> Stmt:
    """A square of w by w elements in registers, transposed: log2(w) rounds of interleaving its upper and its lower half.

    Each round rotates the bits of an element's row and column, taken together, by one.
    """
    buffers = [Buffer(f"s{k}", dtype, (w * w,), Space.LOCAL) for k in range(w.bit_length())]
    lane = Var("l", INDEX, 0, w - 1)
    vector = lambda s: For(lane, const(w, INDEX), s, Scope.VECTOR)
    parts: list[Stmt] = [vector(store(buffers[0], lane + r * w, load(r, lane))) for r in range(w)]
    for old, new in pairwise(buffers):
        for r in range(w):
            half = r % 2 * (w // 2)
            order = tuple(half + l // 2 + l % 2 * w for l in range(w))
            parts.append(Shuffle(new, r * w, old, r // 2 * w, (r // 2 + w // 2) * w, order))
    parts += [vector(put(c, lane, buffers[-1][lane + c * w])) for c in range(w)]
    body = seq(*parts)
    for b in reversed(buffers):
        body = Alloc(b, body)
    return body
