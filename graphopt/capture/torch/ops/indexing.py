"""Gathers and scatters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphopt.capture.torch.context import Context, Refusal, axis_of
from graphopt.capture.torch.table import aten
from graphopt.ir.dims import product
from graphopt.ir.graph import Value
from graphopt.ir.table import broadcast_dims
from graphopt.ir.types import BOOL, I32, I64


@aten("aten.embedding.default")
def _(c: Context, weight: Value, indices: Value) -> Value:
    return c.b.gather(weight, c.indices(indices), axis=0)


@aten("aten._embedding_bag.default", "aten._embedding_bag_forward_only.default")
def _(c: Context, weight: Value, indices: Value, offsets: Value, mode: int = 0, per_sample_weights: Value | None = None,
      include_last_offset: bool = False, padding_idx: int = -1) -> Any:
    """Rows of `weight`, bag by bag (bags start at `offsets`): 0 their sum, 1 their mean, 2 their maximum."""
    bags, n = c.shape[0], indices.shape[0]
    if include_last_offset:
        offsets = c.slice(offsets, 0, 0, bags)
    place = c.b.iota(shape=(n, 1), axis=0, dtype=I64)
    bag = c.b.sub(c.b.reduce_sum(c.cast(c.b.less_equal(c.cast(offsets, I64), place), I64), axes=(1,)), c.scalar(1, I64))
    rows = c.b.gather(weight, c.indices(indices), axis=0)
    kept = c.b.not_equal(indices, c.scalar(padding_idx, indices.dtype))
    at = c.unsqueeze(bag, 1)
    if per_sample_weights is not None:
        rows = c.b.mul(rows, c.unsqueeze(c.cast(per_sample_weights, rows.dtype), 1))
    neutral = c.scalar(float("-inf") if mode == 2 else 0, rows.dtype)
    rows = c.b.where(c.unsqueeze(kept, 1), rows, neutral)
    total = c.b.scatter_nd(c.expand(neutral, c.shape), at, rows, reduction="max" if mode == 2 else "add")
    count = c.b.scatter_nd(c.full(0, (bags,), rows.dtype), at, c.cast(kept, rows.dtype), reduction="add")
    count = c.unsqueeze(count, 1)
    if mode == 1:
        total = c.b.div(total, c.b.maximum(count, c.scalar(1, rows.dtype)))
    if mode == 2:
        total = c.b.where(c.b.greater(count, c.scalar(0, rows.dtype)), total, c.scalar(0, rows.dtype))
    return (total,)


@aten("aten.index_select.default")
def _(c: Context, x: Value, dim: int, index: Value) -> Value:
    if x.rank == 0:
        return x
    return c.b.gather(x, c.reshape(c.indices(index), (product(index.shape),)), axis=axis_of(dim, x.rank))


@aten("aten.take.default")
def _(c: Context, x: Value, index: Value) -> Value:
    return c.b.gather(c.reshape(x, (product(x.shape),)), c.indices(index), axis=0)


@aten("aten.gather.default")
def _(c: Context, x: Value, dim: int, index: Value) -> Value:
    if x.rank == 0:
        return c.reshape(x, c.shape)
    axis = axis_of(dim, x.rank)
    for a in range(x.rank):  # torch takes an index that is smaller than the input on the other axes
        if a != axis and index.shape[a] != x.shape[a]:
            x = c.slice(x, a, 0, index.shape[a])
    return c.b.gather_elements(x, c.indices(index), axis=axis)


# x[i, :, j] -------------------------------------------------------------------------------------
@aten("aten.index.Tensor", "aten._unsafe_index.Tensor")
def _(c: Context, x: Value, indices: Sequence[Value | None]) -> Value:
    axes, tensors = _positions(c, x, indices)
    if len(axes) == 1:
        return c.b.gather(x, tensors[0], axis=axes[0])
    front = c.permute(x, [*axes, *(a for a in range(x.rank) if a not in axes)])
    shape = broadcast_dims(t.shape for t in tensors)
    got = c.b.gather_nd(front, _stacked(c, tensors, shape))
    return _place(c, got, axes, len(shape))


def _positions(c: Context, x: Value, indices: Sequence[Value | None]) -> tuple[list[int], list[Value]]:
    """Indexed axes and their integer indices; a mask becomes the positions where it is true."""
    axes: list[int] = []
    tensors: list[Value] = []
    axis = 0
    for index in indices:
        if index is None:
            axis += 1
        elif index.dtype is BOOL or index.dtype.name == "u8":
            found = c.b.nonzero(index)
            for k in range(index.rank):
                axes.append(axis)
                tensors.append(c.reshape(c.slice(found, 0, k, k + 1), (found.shape[1],)))
                axis += 1
        else:
            axes.append(axis)
            tensors.append(c.indices(index))
            axis += 1
    return axes, tensors


def _stacked(c: Context, tensors: list[Value], shape: Sequence[Any]) -> Value:
    return c.concat([c.unsqueeze(c.expand(c.cast(t, I64), shape), len(shape)) for t in tensors], len(shape))


def _adjacent(axes: list[int]) -> bool:
    return axes == list(range(axes[0], axes[0] + len(axes)))


def _place(c: Context, got: Value, axes: list[int], count: int) -> Value:
    """Move the `count` leading axes that indexing made to where torch puts them: in place of adjacent axes, else in front."""
    if not _adjacent(axes) or axes[0] == 0:
        return got
    rest = list(range(count, got.rank))
    return c.permute(got, rest[:axes[0]] + list(range(count)) + rest[axes[0]:])


@aten("aten.index_put.default", "aten._unsafe_index_put.default", "aten._index_put_impl.default")
def _(c: Context, x: Value, indices: Sequence[Value | None], values: Value, accumulate: bool = False) -> Value:
    given = [i for i in indices if i is not None]
    if len(given) == 1 and given[0].dtype is BOOL and not accumulate and product(values.shape) == 1:
        return _fill_where(c, x, indices, values)
    axes, tensors = _positions(c, x, indices)
    order = [*axes, *(a for a in range(x.rank) if a not in axes)]
    shape = broadcast_dims(t.shape for t in tensors)
    rest = tuple(x.shape[a] for a in order[len(axes):])
    updates = c.cast(values, x.dtype)
    if _adjacent(axes) and axes[0] != 0:  # the values come with the indexed axes in their place
        updates = c.expand(updates, (*rest[:axes[0]], *shape, *rest[axes[0]:]))
        lead = list(range(axes[0], axes[0] + len(shape)))
        updates = c.permute(updates, lead + [a for a in range(updates.rank) if a not in lead])
    else:
        updates = c.expand(updates, (*shape, *rest))
    front = c.permute(x, order)
    put = c.b.scatter_nd(front, _stacked(c, tensors, shape), updates, reduction="add" if accumulate else "none")
    return c.permute(put, [int(a) for a in np.argsort(order)])


def _fill_where(c: Context, x: Value, indices: Sequence[Value | None], values: Value) -> Value:
    """x[mask] = number."""
    axis = next(k for k, i in enumerate(indices) if i is not None)
    mask = indices[axis]
    assert mask is not None
    mask = c.reshape(mask, (*mask.shape, *[1] * (x.rank - axis - mask.rank)))
    return c.b.where(mask, c.reshape(c.cast(values, x.dtype), ()), x)


@aten("aten.masked_select.default")
def _(c: Context, x: Value, mask: Value) -> Value:
    shape = broadcast_dims((x.shape, mask.shape))
    flat = (product(shape),)
    return c.b.compress(c.reshape(c.expand(x, shape), flat), c.reshape(c.expand(mask, shape), flat), axis=0)


@aten("aten.masked_scatter.default")
def _(c: Context, x: Value, mask: Value, source: Value) -> Value:
    """The k-th true place of the mask takes the k-th element of the source."""
    shape = broadcast_dims((x.shape, mask.shape))
    mask = c.expand(mask, shape)
    count = c.b.cumsum(c.cast(c.reshape(mask, (product(shape),)), I64), axis=0)
    at = c.b.maximum(c.b.sub(count, c.scalar(1, I64)), c.scalar(0, I64))
    taken = c.b.gather(c.reshape(c.cast(source, x.dtype), (product(source.shape),)), at, axis=0)
    return c.b.where(mask, c.reshape(taken, shape), c.expand(x, shape))


# Scatters ---------------------------------------------------------------------------------------
_REDUCTIONS = {"sum": "add", "add": "add", "prod": "mul", "multiply": "mul", "amax": "max", "amin": "min"}


def _scatter(c: Context, x: Value, dim: int, index: Value, src: Any, reduction: str) -> Value:
    if x.rank == 0:
        return c.reshape(_scatter(c, c.reshape(x, (1,)), 0, c.reshape(index, (1,)), src if not isinstance(src, Value)
                                  else c.reshape(src, (1,)), reduction), ())
    if isinstance(src, Value):
        updates = c.cast(src, x.dtype)
        for a in range(x.rank):  # torch uses the corner of src that the index covers
            if updates.shape[a] != index.shape[a]:
                updates = c.slice(updates, a, 0, index.shape[a])
    else:
        updates = c.full(src, index.shape, x.dtype)
    return _combined(c, x, c.indices(index), updates, axis_of(dim, x.rank), reduction)


def _combined(c: Context, x: Value, index: Value, updates: Value, axis: int, reduction: str) -> Value:
    """scatter_elements; of booleans a sum is "or" and a product is "and"."""
    if x.dtype.kind != "bool" or reduction == "none":
        return c.b.scatter_elements(x, index, updates, axis=axis, reduction=reduction)
    either = {"add": "max", "mul": "min"}.get(reduction, reduction)
    return c.cast(c.b.scatter_elements(c.cast(x, I32), index, c.cast(updates, I32), axis=axis, reduction=either), x.dtype)


@aten("aten.scatter.src")
def _(c: Context, x: Value, dim: int, index: Value, src: Value) -> Value:
    return _scatter(c, x, dim, index, src, "none")


@aten("aten.scatter.value")
def _(c: Context, x: Value, dim: int, index: Value, value: Any) -> Value:
    return _scatter(c, x, dim, index, value, "none")


@aten("aten.scatter.reduce")
def _(c: Context, x: Value, dim: int, index: Value, src: Value, reduce: str) -> Value:
    return _scatter(c, x, dim, index, src, _REDUCTIONS[reduce])


@aten("aten.scatter.value_reduce")
def _(c: Context, x: Value, dim: int, index: Value, value: Any, reduce: str) -> Value:
    return _scatter(c, x, dim, index, value, _REDUCTIONS[reduce])


@aten("aten.scatter_add.default")
def _(c: Context, x: Value, dim: int, index: Value, src: Value) -> Value:
    return _scatter(c, x, dim, index, src, "add")


@aten("aten.scatter_reduce.two")
def _(c: Context, x: Value, dim: int, index: Value, src: Value, reduce: str, include_self: bool = True) -> Value:
    if reduce not in _REDUCTIONS:
        raise Refusal(f"reduce={reduce}")
    if not include_self:
        neutral: float | None = {"sum": 0, "prod": 1}.get(reduce)
        if neutral is None:
            if not x.dtype.is_float:
                raise Refusal("include_self=False on integers")
            neutral = float("-inf") if reduce == "amax" else float("inf")
        x = _scatter(c, x, dim, index, neutral, "none")
    return _scatter(c, x, dim, index, src, _REDUCTIONS[reduce])


@aten("aten.index_add.default")
def _(c: Context, x: Value, dim: int, index: Value, source: Value, alpha: Any = 1) -> Value:
    if alpha != 1:
        source = c.b.mul(source, c.scalar(alpha, source.dtype))
    return _along(c, x, dim, index, source, "add")


@aten("aten.index_copy.default")
def _(c: Context, x: Value, dim: int, index: Value, source: Value) -> Value:
    return _along(c, x, dim, index, source, "none")


@aten("aten.index_fill.int_Scalar", "aten.index_fill.int_Tensor")
def _(c: Context, x: Value, dim: int, index: Value, value: Any) -> Value:
    axis = axis_of(dim, x.rank)
    return _along(c, x, dim, index, c.full(value, (*x.shape[:axis], index.shape[0], *x.shape[axis + 1:]), x.dtype), "none")


def _along(c: Context, x: Value, dim: int, index: Value, source: Value, reduction: str) -> Value:
    """Whole slices of `source` into the positions `index` of one axis."""
    axis = axis_of(dim, x.rank)
    wide = c.expand(c.reshape(c.indices(index), (index.shape[0] if index.rank else 1, *[1] * (x.rank - axis - 1))), source.shape)
    return _combined(c, x, wide, c.cast(source, x.dtype), axis, reduction)


# Positions --------------------------------------------------------------------------------------
@aten("aten.nonzero.default", "aten.argwhere.default")
def _(c: Context, x: Value) -> Value:
    return c.swap(c.b.nonzero(c.boolean(x)), 0, 1)  # the IR's has an axis in each row, as ONNX has it


@aten("aten.bucketize.Tensor", "aten.bucketize.Scalar")
def _(c: Context, x: Any, boundaries: Value, right: bool = False) -> Value:
    return _count_below(c, c.operand(x, boundaries.dtype) if not isinstance(x, Value) else x, boundaries, right)


@aten("aten.searchsorted.Tensor")
def _(c: Context, sorted_sequence: Value, x: Value, right: bool = False, side: str | None = None, sorter: Any = None) -> Value:
    if sorter is not None or sorted_sequence.rank != 1:
        raise Refusal("a sorter or a sequence of several dims")
    return _count_below(c, x, sorted_sequence, right or side == "right")


def _count_below(c: Context, x: Value, boundaries: Value, right: bool) -> Value:
    """How many boundaries are below each x (or equal to it, with `right`)."""
    at = c.promoted(x, boundaries)
    below = getattr(c.b, "less_equal" if right else "less")(c.cast(boundaries, at), c.unsqueeze(c.cast(x, at), x.rank))
    return c.cast(c.b.reduce_sum(c.cast(below, I64), axes=(x.rank,)), c.dtype)


@aten("aten._unique2.default")
def _(c: Context, x: Value, sorted: bool = True) -> Any:
    values, _, inverse, counts = c.b.unique(c.reshape(x, (product(x.shape),)), sorted=sorted)
    return values, c.reshape(inverse, x.shape), counts


@aten("aten.one_hot.default")
def _(c: Context, x: Value, num_classes: int = -1) -> Value:
    if not isinstance(num_classes, int) or num_classes < 0:
        raise Refusal("the number of classes comes from the data")
    classes = c.b.iota(shape=(num_classes,), axis=0, dtype=I64)
    return c.cast(c.b.equal(c.unsqueeze(c.cast(x, I64), x.rank), classes), c.dtype)
