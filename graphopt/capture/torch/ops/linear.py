"""Matrix products."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.capture.torch.context import Context, Refusal
from graphopt.capture.torch.table import aten
from graphopt.ir.graph import Value
from graphopt.ir.types import F32


@aten("aten.linear.default")
def _(c: Context, input: Value, weight: Value, bias: Value | None = None) -> Value:
    out = _matmul(c, input, c.swap(weight, 0, 1) if weight.rank == 2 else weight)
    return out if bias is None else c.b.add(out, bias)


@aten("aten.matmul.default", "aten.linalg_matmul.default")
def _(c: Context, x: Value, other: Value) -> Value:
    return _matmul(c, x, other)


@aten("aten.mm.default", "aten.bmm.default", "aten.mv.default", "aten.dot.default", "aten.vdot.default")
def _(c: Context, x: Value, mat2: Value | None = None, vec: Value | None = None, tensor: Value | None = None,
      other: Value | None = None) -> Value:
    return _matmul(c, x, next(v for v in (mat2, vec, tensor, other) if v is not None))


def _matmul(c: Context, a: Value, b: Value) -> Value:
    """torch's matmul: vectors are rows on the left and columns on the right."""
    a_rank, b_rank = a.rank, b.rank
    a = c.unsqueeze(a, 0) if a_rank == 1 else a
    b = c.unsqueeze(b, 1) if b_rank == 1 else b
    out = c.b.matmul(a, b)
    if a_rank == 1 or b_rank == 1:
        shape = list(out.shape)
        if b_rank == 1:
            del shape[-1]
        if a_rank == 1:
            del shape[-1 if b_rank == 1 else -2]
        out = c.reshape(out, shape)
    return out


@aten("aten.addmm.default", "aten.baddbmm.default", "aten.addmv.default", "aten.addbmm.default")
def _(c: Context, x: Value, mat1: Any = None, mat2: Any = None, batch1: Any = None, batch2: Any = None, mat: Any = None,
      vec: Any = None, beta: Any = 1, alpha: Any = 1) -> Value:
    left = next(v for v in (mat1, batch1, mat) if v is not None)
    right = next(v for v in (mat2, batch2, vec) if v is not None)
    out = _matmul(c, left, right)
    if out.rank > len(c.shape):  # addbmm adds up the batch
        out = c.b.reduce_sum(out, axes=(0,))
    at = c.exact(out.dtype, alpha, beta)
    if alpha != 1:
        out = c.cast(c.b.mul(c.cast(out, at), c.scalar(alpha, at)), out.dtype)
    if beta == 0:
        return out
    if beta != 1:
        x = c.cast(c.b.mul(c.cast(x, at), c.scalar(beta, at)), out.dtype)
    return c.b.add(out, c.cast(x, out.dtype))


@aten("aten.bilinear.default")
def _(c: Context, input1: Value, input2: Value, weight: Value, bias: Value | None = None) -> Value:
    """y[o] = sum over i, j of x1[i] w[o, i, j] x2[j]: a product with w as [i, (o, j)], then a weighted sum over j."""
    o, i, j = weight.shape
    rows = _matmul(c, input1, c.reshape(c.permute(weight, (1, 0, 2)), (i, o * j)))
    wide = c.reshape(rows, (*rows.shape[:-1], o, j))
    out = c.b.reduce_sum(c.b.mul(wide, c.unsqueeze(input2, input2.rank - 1)), axes=(wide.rank - 1,))
    return out if bias is None else c.b.add(out, bias)


@aten("aten.outer.default", "aten.ger.default")
def _(c: Context, x: Value, vec2: Value) -> Value:
    return c.b.mul(c.unsqueeze(c.cast(x, c.dtype), 1), c.unsqueeze(c.cast(vec2, c.dtype), 0))


@aten("aten._cdist_forward.default", "aten._euclidean_dist.default")
def _(c: Context, x1: Value, x2: Value, p: float = 2.0) -> Value:
    return _distance(c, c.b.sub(c.unsqueeze(x1, x1.rank - 1), c.unsqueeze(x2, x2.rank - 2)), p)


@aten("aten._pdist_forward.default")
def _(c: Context, x: Value, p: float = 2.0) -> Value:
    """The distances of each row to those behind it."""
    n = x.shape[0]
    if not isinstance(n, int):
        raise Refusal("a symbolic number of rows")
    first, second = np.triu_indices(n, 1)
    return _distance(c, c.b.sub(c.b.gather(x, c.b.const(first), axis=0), c.b.gather(x, c.b.const(second), axis=0)), p)


def _distance(c: Context, difference: Value, p: float) -> Value:
    """The p-norm along the last axis."""
    last = difference.rank - 1
    if p == 2:
        return c.b.sqrt(c.b.reduce_sum(c.b.mul(difference, difference), axes=(last,)))
    size = c.b.abs(difference)
    if p == 0:
        return c.b.reduce_sum(c.cast(c.b.not_equal(difference, c.scalar(0, size.dtype)), size.dtype), axes=(last,))
    if p == 1:
        return c.b.reduce_sum(size, axes=(last,))
    if p == float("inf"):  # of nothing 0, as of any other norm
        return c.b.reduce_max(size, axes=(last,)) if size.shape[last] != 0 else c.full(0, size.shape[:last], size.dtype)
    return c.b.pow(c.b.reduce_sum(c.b.pow(size, c.scalar(p, size.dtype)), axes=(last,)), c.scalar(1 / p, size.dtype))


@aten("aten._weight_norm_interface.default", "aten._weight_norm.default")
def _(c: Context, v: Value, g: Value, dim: int = 0) -> Any:
    axis = dim % v.rank
    wide = c.cast(v, F32) if v.dtype.bits == 16 else v
    norm = c.b.sqrt(c.b.reduce_sum(c.b.mul(wide, wide), axes=[a for a in range(v.rank) if a != axis], keepdims=True))
    out = c.cast(c.b.mul(wide, c.b.div(c.cast(g, wide.dtype), norm)), v.dtype)
    return (out, c.cast(norm, v.dtype)) if isinstance(c.val, (tuple, list)) else out
