"""Reductions and scans along axes. Float sums and products are carried in f64 and rounded once; integers wrap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graphopt.ir.dims import Shape
from graphopt.ir.graph import Builder, Op, Value
from graphopt.ir.ops.numeric import accumulator, highest, lowest, narrow, widen
from graphopt.ir.table import Operands, Trait, decomposition, op, rows_beside, same_shape


def _reduced(o: Operands) -> Shape:
    rank = o.x.rank
    if any(not 0 <= a < rank for a in o.axes) or len(set(o.axes)) != len(o.axes):
        raise o.fail(f"axes {list(o.axes)} must be different and within 0..{rank - 1} for {o.x}")
    return tuple(1 if i in o.axes else d for i, d in enumerate(o.x.shape) if o.keepdims or i not in o.axes)


def _reduction(name: str, dtypes: str, doc: str, f: Callable[..., np.ndarray], trait: Trait = Trait.REDUCTION) -> None:
    """Define `reduce_name(x; axes, keepdims)`; `f` gets the array, axis= and keepdims=."""

    def run(x: np.ndarray, *, axes: tuple[int, ...], keepdims: bool) -> np.ndarray:
        return narrow(f(x, axis=axes, keepdims=keepdims), x.dtype)

    run.__doc__ = doc + " Over no axes it is `x` itself."
    op(f"reduce_{name}(x: T; axes: ints, keepdims: bool = false) -> T", T=dtypes, shape=_reduced, traits=trait,
       rows=rows_beside)(run)


def _sum(x: np.ndarray, **how: Any) -> np.ndarray:
    return np.sum(widen(x), dtype=accumulator(x.dtype), **how)


def _prod(x: np.ndarray, **how: Any) -> np.ndarray:
    return np.prod(widen(x), dtype=accumulator(x.dtype), **how)


def _mean(x: np.ndarray, axis: tuple[int, ...], keepdims: bool) -> np.ndarray:
    count = int(np.prod([x.shape[a] for a in axis], dtype=np.int64))
    wide = widen(x)
    if wide.dtype.kind == "f":
        return np.divide(np.sum(wide, dtype=np.float64, axis=axis, keepdims=keepdims), count)
    divisor = max(count, 1)
    if wide.dtype.kind == "u":
        return np.floor_divide(np.sum(wide, dtype=np.uint64, axis=axis, keepdims=keepdims), np.uint64(divisor))
    total = np.sum(wide, dtype=np.int64, axis=axis, keepdims=keepdims)
    return np.sign(total) * (np.abs(total) // divisor)


def _logsumexp(x: np.ndarray, axis: tuple[int, ...], keepdims: bool) -> np.ndarray:
    wide = widen(x).astype(np.float64)
    if not axis:
        return wide
    top = np.max(wide, axis=axis, keepdims=True, initial=-np.inf)
    shift = np.where(np.isinf(top), 0, top)
    out = np.log(np.sum(np.exp(wide - shift), axis=axis, keepdims=True)) + shift
    return out if keepdims else np.squeeze(out, axis)


_reduction("sum", "number", "The sum along `axes`; 0 of nothing.", _sum)
_reduction("mean", "number", "The mean along `axes`; of integers truncated towards zero. Of nothing NaN, or 0 for integers.",
           _mean)
_reduction("prod", "number", "The product along `axes`; 1 of nothing.", _prod)
_reduction("max", "number", "The greatest along `axes`, NaN where there is one; of nothing -inf or the least integer.",
           lambda x, **how: np.max(widen(x), initial=lowest(x.dtype), **how))
_reduction("min", "number", "The least along `axes`, NaN where there is one; of nothing +inf or the greatest integer.",
           lambda x, **how: np.min(widen(x), initial=highest(x.dtype), **how))
_reduction("any", "bool", "Whether any along `axes` holds; not of nothing.", np.any)
_reduction("all", "bool", "Whether all along `axes` hold; so of nothing.", np.all)
_reduction("logsumexp", "float", "log(sum(exp(x))) along `axes`, without overflow; -inf of nothing.", _logsumexp,
           Trait.REDUCTION | Trait.COMPOSITE)


@decomposition("reduce_logsumexp")
def _build_logsumexp(b: Builder, op: Op) -> Value:
    x, axes, result = op.operands[0], op.attrs["axes"], op.result
    assert x is not None
    if not axes:
        return x
    wide = b.cast(x, to="f32") if x.dtype.bits < 32 else x
    top = b.reduce_max(wide, axes=axes, keepdims=True)
    shift = b.where(b.isinf(top), b.const(0, wide.dtype), top)
    total = b.reduce_sum(b.exp(b.sub(wide, shift)), axes=axes, keepdims=True)
    out = b.add(b.log(total), shift)
    if not op.attrs["keepdims"]:
        out = b.reshape(out, shape=result.shape)
    return b.cast(out, to=result.dtype) if out.dtype is not result.dtype else out


def _arg_shape(o: Operands) -> Shape:
    if not 0 <= o.axis < o.x.rank:
        raise o.fail(f"axis {o.axis} is out of range for {o.x}")
    if o.x.shape[o.axis] == 0:
        raise o.fail(f"axis {o.axis} of {o.x} is empty, so that nothing is the first")
    return tuple(1 if i == o.axis else d for i, d in enumerate(o.x.shape) if o.keepdims or i != o.axis)


def _arg(f: Callable[..., np.ndarray], x: np.ndarray, axis: int, keepdims: bool, select_last: bool) -> np.ndarray:
    wide = widen(x)
    if not select_last:
        return f(wide, axis=axis, keepdims=keepdims)
    return x.shape[axis] - 1 - f(np.flip(wide, axis), axis=axis, keepdims=keepdims)


@op("argmax(x: T; axis: int, keepdims: bool = false, select_last: bool = false) -> i64", T="number",
    shape=_arg_shape, traits=Trait.REDUCTION, rows=rows_beside)
def argmax(x, *, axis, keepdims, select_last):
    """Index of the greatest along `axis`, the first of equals (or the last); NaN counts as the greatest."""
    return _arg(np.argmax, x, axis, keepdims, select_last)


@op("argmin(x: T; axis: int, keepdims: bool = false, select_last: bool = false) -> i64", T="number",
    shape=_arg_shape, traits=Trait.REDUCTION, rows=rows_beside)
def argmin(x, *, axis, keepdims, select_last):
    """Index of the least along `axis`, the first of equals (or the last); NaN counts as the least."""
    return _arg(np.argmin, x, axis, keepdims, select_last)


def _scan_shape(o: Operands) -> Shape:
    if not 0 <= o.axis < o.x.rank:
        raise o.fail(f"axis {o.axis} is out of range for {o.x}")
    return same_shape(o)


def _scan(f: Callable[..., np.ndarray], first: int, x: np.ndarray, axis: int, exclusive: bool, reverse: bool) -> np.ndarray:
    wide = np.flip(widen(x), axis) if reverse else widen(x)
    out = f(wide, axis=axis, dtype=accumulator(x.dtype))
    if exclusive:
        ahead = np.full_like(np.take(out, [], axis), first, shape=[1 if i == axis else n for i, n in enumerate(x.shape)])
        out = np.take(np.concatenate([ahead, out], axis), range(x.shape[axis]), axis)
    return narrow(np.flip(out, axis) if reverse else out, x.dtype)


@op("cumsum(x: T; axis: int, exclusive: bool = false, reverse: bool = false) -> T", T="number", shape=_scan_shape)
def cumsum(x, *, axis, exclusive, reverse):
    """Running sums along `axis`: of the elements up to and with each, or (`exclusive`) before it; from the back if `reverse`."""
    return _scan(np.cumsum, 0, x, axis, exclusive, reverse)


@op("cumprod(x: T; axis: int, exclusive: bool = false, reverse: bool = false) -> T", T="number", shape=_scan_shape)
def cumprod(x, *, axis, exclusive, reverse):
    """Running products along `axis`, as `cumsum` does sums."""
    return _scan(np.cumprod, 1, x, axis, exclusive, reverse)


def _scan_pair(o: Operands) -> list[Shape]:
    return [_scan_shape(o)] * 2


def _running(x: np.ndarray, axis: int, ahead: Callable[..., np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The best so far along `axis` and its last index; `ahead(new, old)` says where an element takes over."""
    lines = np.moveaxis(widen(x), axis, 0)
    values, indices = np.empty_like(lines), np.empty(lines.shape, np.int64)
    for k in range(len(lines)):
        new = ahead(lines[k], values[k - 1]) | np.isnan(lines[k]) if k else np.ones(lines.shape[1:], bool)
        values[k] = np.where(new, lines[k], values[k - 1])
        indices[k] = np.where(new, k, indices[k - 1])
    return narrow(np.moveaxis(values, 0, axis), x.dtype), np.moveaxis(indices, 0, axis)


@op("cummax(x: T; axis: int) -> (values: T, indices: i64)", T="number", shape=_scan_pair)
def cummax(x, *, axis):
    """The greatest up to and with each element along `axis`, NaN from the first one on, and its index: of equals the last, of
    NaN the last too."""
    return _running(x, axis, np.greater_equal)


@op("cummin(x: T; axis: int) -> (values: T, indices: i64)", T="number", shape=_scan_pair)
def cummin(x, *, axis):
    """The least up to and with each element along `axis`, as `cummax` does the greatest."""
    return _running(x, axis, np.less_equal)


@op("cumlogsumexp(x: T; axis: int) -> T", T="float", shape=_scan_shape)
def cumlogsumexp(x, *, axis):
    """log(sum(exp(x))) up to and with each element along `axis`, without overflow."""
    return narrow(np.logaddexp.accumulate(widen(x).astype(np.float64), axis), x.dtype)
