"""Pooling over the trailing spatial axes; x is [N, C, spatial...] or without the batch axis."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from graphopt.ir.dims import DimLike
from graphopt.ir.ops.numeric import lowest, widen
from graphopt.ir.ops.windows import check_window, pad_spatial, positions, widest, window_counts, window_dims, windows
from graphopt.ir.table import Operands, Trait, first_rows, op


def _lead(o: Operands, spatial: int) -> int:
    lead = o.x.rank - spatial
    if lead not in (1, 2) or spatial < 1:
        raise o.fail(f"x must be [N, C, ...] or [C, ...] with {spatial} spatial dims, got {o.x}")
    return lead


def _pool_shape(o: Operands) -> tuple[DimLike, ...]:
    spatial = len(o.kernel)
    lead = _lead(o, spatial)
    check_window(o, spatial, kernel=o.kernel, stride=o.stride, pad=o.pad, dilation=o.dilation)
    return (*o.x.shape[:lead],
            *window_dims(o, o.x.shape[lead:], o.kernel, o.stride, o.pad, o.dilation, o.ceil_mode))


def _pool_operations(o: Operands, results) -> DimLike:
    return results[0].size * math.prod(o.kernel)


def _views(x: np.ndarray, kernel, stride, pad, dilation, ceil_mode: bool, value) -> np.ndarray:
    """Windows [..., *out, *kernel] of x padded with `value`, as far as ceil_mode's last window reaches."""
    n = len(kernel)
    sizes = x.shape[x.ndim - n:]
    out = window_counts(sizes, kernel, stride, pad, dilation, ceil_mode)
    reach = [max((o - 1) * s + (k - 1) * d + 1 - (size + p), e)
             for o, s, k, d, size, p, e in zip(out, stride, kernel, dilation, sizes, pad[:n], pad[n:])]
    return windows(pad_spatial(x, (*pad[:n], *reach), value), out, kernel, stride, dilation)


def _kernel_axes(kernel) -> tuple[int, ...]:
    return tuple(range(-len(kernel), 0))


@op("max_pool(x: T; kernel: ints, stride: ints, pad: ints, dilation: ints, ceil_mode: bool = false) -> T", T="number",
    shape=_pool_shape, traits=Trait.REDUCTION, operations=_pool_operations, rows=first_rows)
def max_pool(x, *, kernel, stride, pad, dilation, ceil_mode):
    """The largest element of each window; padding never wins, NaN does (ONNX MaxPool, torch max_pool1d to 3d)."""
    values = widen(x)
    views = _views(values, kernel, stride, pad, dilation, ceil_mode, lowest(x.dtype))
    return views.max(axis=_kernel_axes(kernel)).astype(x.dtype)


@op("max_pool_indices(x: T; kernel: ints, stride: ints, pad: ints, dilation: ints, ceil_mode: bool = false) "
    "-> (values: T, indices: i64)", T="number", shape=_pool_shape, traits=Trait.REDUCTION, operations=_pool_operations)
def max_pool_indices(x, *, kernel, stride, pad, dilation, ceil_mode):
    """`max_pool` with the row-major index of each maximum in the whole of x (ONNX storage_order=0); the first of equals."""
    values = widen(x)
    views = _views(values, kernel, stride, pad, dilation, ceil_mode, lowest(x.dtype))
    best = views.max(axis=_kernel_axes(kernel), keepdims=True)
    index = np.arange(x.size, dtype=np.int64).reshape(x.shape)
    at = _views(index, kernel, stride, pad, dilation, ceil_mode, -1)
    hit = ((views == best) | (views != views)) & (at >= 0)
    lead = views.ndim - len(kernel)
    flat = (*views.shape[:lead], math.prod(kernel))
    first = hit.reshape(flat).argmax(axis=-1)[..., None]
    indices = np.take_along_axis(at.reshape(flat), first, axis=-1)[..., 0]
    return best.reshape(views.shape[:lead]).astype(x.dtype), indices


@op("avg_pool(x: T; kernel: ints, stride: ints, pad: ints, dilation: ints, count_include_pad: bool, ceil_mode: bool = false, "
    "divisor: int? = none) -> T", T="float", shape=_pool_shape, traits=Trait.REDUCTION, operations=_pool_operations,
    rows=first_rows)
def avg_pool(x, *, kernel, stride, pad, dilation, count_include_pad, ceil_mode, divisor):
    """The sum of each window over its count: the elements inside the input, or with `count_include_pad` inside
    the declared padding as well (never what ceil_mode reaches beyond), or `divisor` where given. A window
    without elements gives 0 (ONNX AveragePool since opset 19, torch avg_pool1d to 3d).
    """
    n = len(kernel)
    axes = _kernel_axes(kernel)
    total = _views(widest(x), kernel, stride, pad, dilation, ceil_mode, 0).sum(axis=axes)
    if divisor is not None:
        return (total / divisor).astype(x.dtype)
    ones = np.ones(x.shape[x.ndim - n:], np.int64)
    if count_include_pad:
        # The mask of the padded input, its overhang beyond that filled with zeros.
        ones = pad_spatial(ones, pad, 1)
        counts = window_counts(x.shape[x.ndim - n:], kernel, stride, pad, dilation, ceil_mode)
        reach = [max((c - 1) * s + (k - 1) * d + 1 - size, 0)
                 for c, s, k, d, size in zip(counts, stride, kernel, dilation, ones.shape)]
        count = windows(pad_spatial(ones, (*[0] * n, *reach), 0), counts, kernel, stride, dilation).sum(axis=axes)
    else:
        count = _views(ones, kernel, stride, pad, dilation, ceil_mode, 0).sum(axis=axes)
    return (total / np.maximum(count, 1)).astype(x.dtype)


def _adaptive_shape(o: Operands) -> tuple[DimLike, ...]:
    lead = _lead(o, len(o.output))
    if any(n < 0 for n in o.output):
        raise o.fail(f"output={list(o.output)} must not be negative")
    return (*o.x.shape[:lead], *o.output)


def _cells(size: int, output: int) -> list[slice]:
    """The stretch of an axis that each output element covers: floor(i*in/out) to ceil((i+1)*in/out)."""
    return [slice(i * size // output, -(-((i + 1) * size) // output)) for i in range(output)]


def _each_cell(x: np.ndarray, output: tuple[int, ...], fill: Callable[[np.ndarray, list[slice], tuple], None]) -> None:
    sizes = x.shape[x.ndim - len(output):]
    cells = [_cells(size, out) for size, out in zip(sizes, output)]
    for at in positions(output):
        box = [c[i] for c, i in zip(cells, at)]
        index: list[Any] = [..., *box]
        fill(x[tuple(index)], box, at)


@op("adaptive_avg_pool(x: T; output: ints) -> T", T="float", shape=_adaptive_shape, traits=Trait.REDUCTION,
    operations=lambda o, results: o.x.size, rows=first_rows)
def adaptive_avg_pool(x, *, output):
    """The mean of each of `output` cells per spatial axis, cell i from floor(i*in/out) to ceil((i+1)*in/out) (torch)."""
    lead = x.ndim - len(output)
    y = np.zeros((*x.shape[:lead], *output), np.float64)

    def fill(cell: np.ndarray, box: list[slice], at: tuple) -> None:
        y[(..., *at)] = cell.mean(axis=_kernel_axes(output))

    _each_cell(x.astype(np.float64), output, fill)
    return y.astype(x.dtype)


@op("adaptive_max_pool(x: T; output: ints) -> (values: T, indices: i64)", T="number", shape=_adaptive_shape,
    traits=Trait.REDUCTION, operations=lambda o, results: o.x.size, rows=first_rows)
def adaptive_max_pool(x, *, output):
    """The maximum of each cell (as in `adaptive_avg_pool`) and its flat index within the channel's plane; first of equals."""
    lead = x.ndim - len(output)
    sizes = x.shape[lead:]
    values = np.zeros((*x.shape[:lead], *output), x.dtype)
    indices = np.zeros(values.shape, np.int64)

    def fill(cell: np.ndarray, box: list[slice], at: tuple) -> None:
        flat = cell.reshape(*cell.shape[:lead], -1)
        best = flat.argmax(axis=-1)
        values[(..., *at)] = np.take_along_axis(flat, best[..., None], axis=-1)[..., 0].astype(x.dtype)
        inside = np.unravel_index(best, cell.shape[lead:])
        indices[(..., *at)] = np.ravel_multi_index([i + s.start for i, s in zip(inside, box)], sizes)

    if x.size:
        _each_cell(widen(x), output, fill)
    return values, indices
