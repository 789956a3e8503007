"""Reductions, scans and sorting."""

from __future__ import annotations

import math
from typing import Any

import torch

from graphopt.capture.torch.context import Context, Refusal, axes_of, axis_of, product
from graphopt.capture.torch.table import aten
from graphopt.ir.graph import Value
from graphopt.ir.types import BOOL, F32, DType


def _wide(d: DType) -> DType:
    """The dtype in which torch accumulates several steps of a half type."""
    return F32 if d.is_float and d.bits == 16 else d


@aten("aten.sum.default", "aten.sum.dim_IntList")
def _(c: Context, x: Value, dim: Any = None, keepdim: bool = False) -> Value:
    return c.b.reduce_sum(c.cast(x, c.dtype), axes=axes_of(dim, x.rank), keepdims=keepdim)


@aten("aten.mean.default", "aten.mean.dim")
def _(c: Context, x: Value, dim: Any = None, keepdim: bool = False) -> Value:
    return c.b.reduce_mean(c.cast(x, c.dtype), axes=axes_of(dim, x.rank), keepdims=keepdim)


@aten("aten.prod.default", "aten.prod.dim_int")
def _(c: Context, x: Value, dim: Any = None, keepdim: bool = False) -> Value:
    return c.b.reduce_prod(c.cast(x, c.dtype), axes=axes_of(dim, x.rank), keepdims=keepdim)


@aten("aten.amax.default")
def _(c: Context, x: Value, dim: Any = (), keepdim: bool = False) -> Value:
    return _extreme(c, "reduce_max", x, axes_of(dim, x.rank), keepdim)


@aten("aten.amin.default")
def _(c: Context, x: Value, dim: Any = (), keepdim: bool = False) -> Value:
    return _extreme(c, "reduce_min", x, axes_of(dim, x.rank), keepdim)


@aten("aten.max.default")
def _(c: Context, x: Value) -> Value:
    return _extreme(c, "reduce_max", x, axes_of(None, x.rank), False)


@aten("aten.min.default")
def _(c: Context, x: Value) -> Value:
    return _extreme(c, "reduce_min", x, axes_of(None, x.rank), False)


@aten("aten.max.dim")
def _(c: Context, x: Value, dim: int, keepdim: bool = False) -> Any:
    return _extreme_with_index(c, "max", x, dim, keepdim)


@aten("aten.min.dim")
def _(c: Context, x: Value, dim: int, keepdim: bool = False) -> Any:
    return _extreme_with_index(c, "min", x, dim, keepdim)


def _extreme(c: Context, ir: str, x: Value, axes: tuple[int, ...], keepdim: bool) -> Value:
    if x.dtype is BOOL:
        return getattr(c.b, "reduce_any" if ir == "reduce_max" else "reduce_all")(x, axes=axes, keepdims=keepdim)
    return getattr(c.b, ir)(x, axes=axes, keepdims=keepdim)


def _extreme_with_index(c: Context, which: str, x: Value, dim: int, keepdim: bool) -> Any:
    if x.rank == 0:
        return x, c.scalar(0, c.dtype_of(torch.int64))
    axis = axis_of(dim, x.rank)
    values = _extreme(c, f"reduce_{which}", x, (axis,), keepdim) if c.uses(0) else None
    return values, _arg(c, which, x, axis, keepdim) if c.uses(1) else None


def _arg(c: Context, which: str, x: Value, axis: int, keepdim: bool) -> Value:
    if x.dtype is BOOL:
        x = c.cast(x, c.dtype_of(torch.uint8))
    return getattr(c.b, f"arg{which}")(x, axis=axis, keepdims=keepdim)


@aten("aten.argmax.default")
def _(c: Context, x: Value, dim: int | None = None, keepdim: bool = False) -> Value:
    return _arg_of(c, "max", x, dim, keepdim)


@aten("aten.argmin.default")
def _(c: Context, x: Value, dim: int | None = None, keepdim: bool = False) -> Value:
    return _arg_of(c, "min", x, dim, keepdim)


def _arg_of(c: Context, which: str, x: Value, dim: int | None, keepdim: bool) -> Value:
    if dim is None or x.rank == 0:
        flat = c.reshape(x, (product(x.shape),))
        return c.reshape(_arg(c, which, flat, 0, False), c.shape)
    return _arg(c, which, x, axis_of(dim, x.rank), keepdim)


@aten("aten.any.default", "aten.any.dim", "aten.any.dims")
def _(c: Context, x: Value, dim: Any = None, keepdim: bool = False) -> Value:
    return c.cast(c.b.reduce_any(c.boolean(x), axes=axes_of(dim, x.rank), keepdims=keepdim), c.dtype)


@aten("aten.all.default", "aten.all.dim", "aten.all.dims")
def _(c: Context, x: Value, dim: Any = None, keepdim: bool = False) -> Value:
    return c.cast(c.b.reduce_all(c.boolean(x), axes=axes_of(dim, x.rank), keepdims=keepdim), c.dtype)


@aten("aten.logsumexp.default")
def _(c: Context, x: Value, dim: Any, keepdim: bool = False) -> Value:
    return c.b.reduce_logsumexp(c.cast(x, c.dtype), axes=axes_of(dim, x.rank), keepdims=keepdim)


@aten("aten.var.correction", "aten.var.dim", "aten.var.default")
def _(c: Context, x: Value, dim: Any = None, correction: Any = None, unbiased: Any = None, keepdim: bool = False) -> Value:
    return c.cast(_variance(c, x, dim, _correction(correction, unbiased), keepdim)[0], c.dtype)


@aten("aten.std.correction", "aten.std.dim", "aten.std.default")
def _(c: Context, x: Value, dim: Any = None, correction: Any = None, unbiased: Any = None, keepdim: bool = False) -> Value:
    return c.cast(c.b.sqrt(_variance(c, x, dim, _correction(correction, unbiased), keepdim)[0]), c.dtype)


@aten("aten.var_mean.correction", "aten.var_mean.dim", "aten.var_mean.default")
def _(c: Context, x: Value, dim: Any = None, correction: Any = None, unbiased: Any = None, keepdim: bool = False) -> Any:
    return tuple(c.cast(v, c.dtype) for v in _variance(c, x, dim, _correction(correction, unbiased), keepdim))


@aten("aten.std_mean.correction", "aten.std_mean.dim", "aten.std_mean.default")
def _(c: Context, x: Value, dim: Any = None, correction: Any = None, unbiased: Any = None, keepdim: bool = False) -> Any:
    variance, mean = _variance(c, x, dim, _correction(correction, unbiased), keepdim)
    return c.cast(c.b.sqrt(variance), c.dtype), c.cast(mean, c.dtype)


def _correction(correction: Any, unbiased: Any) -> float:
    if correction is not None:
        return correction
    return 1 if unbiased is None or unbiased else 0


def _variance(c: Context, x: Value, dim: Any, correction: float, keepdim: bool) -> tuple[Value, Value]:
    """(sum of squared deviations / (n - correction), mean) along the dims, two passes as torch's Welford is accurate."""
    axes = axes_of(dim, x.rank)
    at = _wide(c.dtype)
    x = c.cast(x, at)
    mean = c.b.reduce_mean(x, axes=axes, keepdims=True)
    deviation = c.b.sub(x, mean)
    total = c.b.reduce_sum(c.b.mul(deviation, deviation), axes=axes, keepdims=keepdim)
    count = product(x.shape[a] for a in axes)
    if isinstance(count, int):
        divisor = c.scalar(max(count - correction, 0), at)
    elif correction == int(correction):
        divisor = c.scalar(count - int(correction), at)
    else:
        raise Refusal("a fractional correction over a symbolic dim")
    if not keepdim:
        mean = c.reshape(mean, total.shape)
    return c.b.div(total, divisor), mean


@aten("aten.linalg_vector_norm.default")
def _(c: Context, x: Value, ord: float = 2, dim: Any = None, keepdim: bool = False) -> Value:
    return _norm(c, x, ord, dim, keepdim)


@aten("aten.norm.ScalarOpt_dim", "aten.norm.Scalar", "aten.norm.ScalarOpt_dtype", "aten.norm.ScalarOpt_dim_dtype")
def _(c: Context, x: Value, p: Any = 2, dim: Any = None, keepdim: bool = False) -> Value:
    return _norm(c, x, 2 if p is None else p, dim, keepdim)


def _norm(c: Context, x: Value, order: float, dim: Any, keepdim: bool) -> Value:
    axes, at = axes_of(dim, x.rank), _wide(c.dtype)
    x = c.cast(x, at)
    size = c.b.abs(x)
    if order == math.inf:
        out = c.b.reduce_max(size, axes=axes, keepdims=keepdim)
    elif order == -math.inf:
        out = c.b.reduce_min(size, axes=axes, keepdims=keepdim)
    elif order == 0:
        out = c.b.reduce_sum(c.cast(c.boolean(x), at), axes=axes, keepdims=keepdim)
    elif order == 1:
        out = c.b.reduce_sum(size, axes=axes, keepdims=keepdim)
    elif order == 2:
        out = c.b.sqrt(c.b.reduce_sum(c.b.mul(x, x), axes=axes, keepdims=keepdim))
    else:
        powers = c.b.pow(size, c.scalar(order, at))
        out = c.b.pow(c.b.reduce_sum(powers, axes=axes, keepdims=keepdim), c.scalar(1 / order, at))
    return c.cast(out, c.dtype)


# Scans and sorting ----------------------------------------------------------------------------
@aten("aten.cumsum.default")
def _(c: Context, x: Value, dim: int) -> Value:
    return c.cast(x, c.dtype) if x.rank == 0 else c.b.cumsum(c.cast(x, c.dtype), axis=axis_of(dim, x.rank))


@aten("aten.cumprod.default")
def _(c: Context, x: Value, dim: int) -> Value:
    return c.cast(x, c.dtype) if x.rank == 0 else c.b.cumprod(c.cast(x, c.dtype), axis=axis_of(dim, x.rank))


@aten("aten.topk.default")
def _(c: Context, x: Value, k: Any, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    if not isinstance(k, int):
        raise Refusal("a symbolic k")
    return c.b.top_k(x, k=k, axis=axis_of(dim, x.rank), largest=largest, sorted=sorted)


@aten("aten.sort.default", "aten.sort.stable")
def _(c: Context, x: Value, dim: int = -1, descending: bool = False) -> Any:
    if x.rank == 0:
        return x, c.scalar(0, c.dtype_of(torch.int64))
    axis = axis_of(dim, x.rank)
    if not isinstance(x.shape[axis], int):
        raise Refusal("sorting a symbolic dim")
    key = c.cast(x, c.dtype_of(torch.uint8)) if x.dtype is BOOL else x
    values, indices = c.b.top_k(key, k=x.shape[axis], axis=axis, largest=descending, sorted=True)
    return c.cast(values, x.dtype), indices


@aten("aten.kthvalue.default")
def _(c: Context, x: Value, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    axis = axis_of(dim, x.rank)
    return _ranked(c, x, k - 1, axis)


@aten("aten.median.dim")
def _(c: Context, x: Value, dim: int, keepdim: bool = False) -> Any:
    axis = axis_of(dim, x.rank)
    size = x.shape[axis]
    if not isinstance(size, int):
        raise Refusal("the median of a symbolic dim")
    return _ranked(c, x, (size - 1) // 2, axis)


def _ranked(c: Context, x: Value, position: int, axis: int) -> Any:
    """The element at `position` in ascending order, and its index."""
    found = c.b.top_k(x, k=position + 1, axis=axis, largest=False, sorted=True)
    return tuple(c.reshape(c.slice(v, axis, position, position + 1), c.shape) for v in found)


@aten("aten.median.default")
def _(c: Context, x: Value) -> Value:
    count = product(x.shape)
    if not isinstance(count, int):
        raise Refusal("the median of a symbolic dim")
    position = (count - 1) // 2
    values, _ = c.b.top_k(c.reshape(x, (count,)), k=position + 1, axis=0, largest=False, sorted=True)
    return c.reshape(c.slice(values, 0, position, position + 1), ())
