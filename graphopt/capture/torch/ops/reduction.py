"""Reductions, scans and sorting."""

from __future__ import annotations

import math
from typing import Any

import torch

from graphopt.capture.torch.context import Context, Refusal, axes_of, axis_of, product
from graphopt.capture.torch.table import aten
from graphopt.ir.graph import Value
from graphopt.ir.types import BOOL, F32, I64, DType


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
    if x.rank == 0:
        return x, c.scalar(0, I64)
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
    if x.rank == 0:
        return x, c.scalar(0, I64)
    return _ranked(c, x, k - 1, axis_of(dim, x.rank))


def _ranked(c: Context, x: Value, position: int, axis: int) -> Any:
    """The element at `position` in ascending order, and its index; NaN stands behind all."""
    found = c.b.top_k(x, k=position + 1, axis=axis, largest=False, sorted=True)
    return tuple(c.reshape(c.slice(v, axis, position, position + 1), c.shape) for v in found)


@aten("aten.median.dim")
def _(c: Context, x: Value, dim: int, keepdim: bool = False) -> Any:
    return _median(c, x, axis_of(dim, x.rank), ignore_nan=False)


@aten("aten.nanmedian.dim")
def _(c: Context, x: Value, dim: int, keepdim: bool = False) -> Any:
    return _median(c, x, axis_of(dim, x.rank), ignore_nan=True)


@aten("aten.median.default")
def _(c: Context, x: Value) -> Value:
    return _median(c, c.reshape(x, (product(x.shape),)), 0, ignore_nan=False)[0]


@aten("aten.nanmedian.default")
def _(c: Context, x: Value) -> Value:
    return _median(c, c.reshape(x, (product(x.shape),)), 0, ignore_nan=True)[0]


def _median(c: Context, x: Value, axis: int, ignore_nan: bool) -> tuple[Value, Value]:
    """The lower median along an axis and its index: a NaN where there is one, or (`ignore_nan`) where there is nothing else."""
    if x.rank == 0:
        return x, c.scalar(0, I64)
    size = x.shape[axis]
    if not isinstance(size, int):
        raise Refusal("the median of a symbolic dim")
    if size == 0:  # of a whole tensor; of an axis torch refuses it
        return c.full(math.nan if x.dtype.is_float else _least(x.dtype), c.shape, x.dtype), c.full(-1, c.shape, I64)
    if not x.dtype.is_float:
        values, indices = _ranked(c, x, (size - 1) // 2, axis)
        return values, indices
    lost = c.b.isnan(x)
    if ignore_nan:
        found = c.b.top_k(x, k=size, axis=axis, largest=False, sorted=True)
        count = c.b.reduce_sum(c.cast(c.b.not_(lost), I64), axes=(axis,), keepdims=True)
        at = c.b.shift_right(c.b.maximum(c.b.sub(count, c.scalar(1, I64)), c.scalar(0, I64)), c.scalar(1, I64))
        values, indices = (c.reshape(c.b.gather_elements(v, at, axis=axis), c.shape) for v in found)
        return values, indices
    values, indices = _ranked(c, x, (size - 1) // 2, axis)
    any_lost = c.reshape(c.b.reduce_any(lost, axes=(axis,)), c.shape)
    first = c.reshape(c.b.argmax(x, axis=axis), c.shape)  # NaN counts as the greatest
    return c.b.where(any_lost, c.scalar(math.nan, x.dtype), values), c.b.where(any_lost, first, indices)


def _least(d: DType) -> int:
    return -(1 << d.bits - 1) if d.kind == "int" else 0


@aten("aten.mode.default")
def _(c: Context, x: Value, dim: int = -1, keepdim: bool = False) -> Any:
    """The most frequent along an axis, of several the least, and its last index: runs of the sorted elements are counted."""
    if x.rank == 0:
        return x, c.scalar(0, I64)
    axis = axis_of(dim, x.rank)
    size = x.shape[axis]
    if not isinstance(size, int):
        raise Refusal("the mode of a symbolic dim")
    key = c.cast(x, c.dtype_of(torch.uint8)) if x.dtype is BOOL else x
    values, indices = c.b.top_k(key, k=size, axis=axis, largest=False, sorted=True)
    equal = c.b.equal(c.unsqueeze(values, axis), c.unsqueeze(values, axis + 1))
    count = c.b.maximum(c.b.reduce_sum(c.cast(equal, I64), axes=(axis,)), c.scalar(1, I64))
    most = c.b.argmax(count, axis=axis, keepdims=True)
    last = c.b.sub(c.b.add(most, c.b.reduce_max(count, axes=(axis,), keepdims=True)), c.scalar(1, I64))
    found = (c.reshape(c.b.gather_elements(v, last, axis=axis), c.shape) for v in (values, indices))
    value, index = found
    return c.cast(value, x.dtype), index


# Running extremes -------------------------------------------------------------------------------
@aten("aten.cummax.default", "aten._cummax_helper.default")
def _(c: Context, x: Value, dim: int) -> Any:
    return _running_extreme(c, "cummax", x, dim)


@aten("aten.cummin.default")
def _(c: Context, x: Value, dim: int) -> Any:
    return _running_extreme(c, "cummin", x, dim)


def _running_extreme(c: Context, ir: str, x: Value, dim: int) -> Any:
    if x.rank == 0:
        return x, c.scalar(0, I64)
    key = c.cast(x, c.dtype_of(torch.uint8)) if x.dtype is BOOL else x
    values, indices = getattr(c.b, ir)(key, axis=axis_of(dim, x.rank))
    return c.cast(values, x.dtype), indices


@aten("aten.logcumsumexp.default")
def _(c: Context, x: Value, dim: int) -> Value:
    return x if x.rank == 0 else c.b.cumlogsumexp(x, axis=axis_of(dim, x.rank))


# Ranges of the data -----------------------------------------------------------------------------
@aten("aten.dist.default")
def _(c: Context, x: Value, other: Value, p: Any = 2) -> Value:
    return _norm(c, c.b.sub(c.cast(x, c.dtype), c.cast(other, c.dtype)), p, None, False)
