"""Row-major positions and indices: the two directions of one conversion."""

from __future__ import annotations

import math
from collections.abc import Sequence

from graphopt.codegen.kernel.expr import INDEX, Expr, const


def flat_index(index: Sequence[Expr], shape: Sequence[int]) -> Expr:
    """The row-major position of `index` in `shape`."""
    position: Expr = const(0, INDEX)
    for i, n in zip(index, shape):
        position = position * n + i
    return position


def split_index(position: Expr, shape: Sequence[int]) -> list[Expr]:
    """The index in `shape` of a row-major position within it; the reverse of `flat_index`."""
    out: list[Expr] = []
    for k, n in enumerate(shape):
        part = position // max(math.prod(shape[k + 1:]), 1)
        out.append(const(0, INDEX) if n == 1 else part if k == 0 else part % max(n, 1))
    return out
