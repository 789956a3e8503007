"""Gathers and scatters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphopt.capture.torch.context import Context, Refusal, axis_of
from graphopt.capture.torch.table import aten
from graphopt.ir.dims import product
from graphopt.ir.graph import Value
from graphopt.ir.table import broadcast_dims
from graphopt.ir.types import BOOL, I32, I64, DType


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


@aten("aten.put.default")
def _(c: Context, x: Value, index: Value, source: Value, accumulate: bool = False) -> Value:
    """Elements of the flat input; of several for one place the last stays."""
    count = product(index.shape)
    if count == 0:
        return x
    flat, at = c.reshape(x, (product(x.shape),)), c.reshape(c.indices(index), (count,))
    updates = c.reshape(c.cast(source, x.dtype), (count,))
    return c.reshape(c.b.scatter_elements(flat, at, updates, axis=0, reduction="add" if accumulate else "none"), x.shape)


@aten("aten.gather.default")
def _(c: Context, x: Value, dim: int, index: Value) -> Value:
    if x.rank == 0:
        return c.expand(c.reshape(x, (1,) * len(c.shape)), c.shape)
    if product(index.shape) == 0:  # of any rank
        return c.full(0, c.shape, c.dtype)
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
    if product(index.shape) == 0:  # of any rank
        return x
    if x.rank == 0:
        flat = lambda v: c.reshape(v, (product(v.shape),)) if isinstance(v, Value) else v
        return c.reshape(_scatter(c, flat(x), 0, flat(index), flat(src), reduction), ())
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
    return _reduced(c, x, reduce, include_self, lambda base, updates, how: _scatter(
        c, base, dim, index, src if updates is None else updates, how))


@aten("aten.index_reduce.default")
def _(c: Context, x: Value, dim: int, index: Value, source: Value, reduce: str, include_self: bool = True) -> Value:
    def put(base: Value, updates: Any, how: str) -> Value:
        given = source if updates is None else c.full(updates, source.shape, base.dtype)
        return _along(c, base, dim, index, given, how)

    return _reduced(c, x, reduce, include_self, put)


def _reduced(c: Context, x: Value, reduce: str, include_self: bool, put: Any) -> Value:
    """What `put(base, updates, reduction)` scatters (the operator's own updates for None, or a number) combined with x, or
    among itself alone where anything comes. A mean is the sum over how many were added; of integers it is rounded down."""
    if reduce == "mean":
        start = x if include_self else put(x, 0, "none")
        total = put(start, None, "add")
        count = put(c.full(1, x.shape, x.dtype), 0, "none") if not include_self else c.full(1, x.shape, x.dtype)
        count = c.b.maximum(put(count, 1, "add"), c.scalar(1, x.dtype))
        return c.b.div(total, count) if x.dtype.is_float else c.b.floor_div(total, count)
    if not include_self:
        x = put(x, _neutral(reduce, x.dtype), "none")
    return put(x, None, _REDUCTIONS[reduce])


def _neutral(reduce: str, d: DType) -> Any:
    """What changes nothing when it is combined."""
    if reduce in ("sum", "prod"):
        return 0 if reduce == "sum" else 1
    low = reduce == "amax"
    if d.is_float:
        return -math.inf if low else math.inf
    if d.kind == "int":
        return -(1 << d.bits - 1) if low else (1 << d.bits - 1) - 1
    return 0 if low else (1 << d.bits) - 1


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
    axis, count = axis_of(dim, x.rank), product(index.shape)
    return _along(c, x, dim, index, c.full(value, (*x.shape[:axis], count, *x.shape[axis + 1:]), x.dtype), "none")


def _along(c: Context, x: Value, dim: int, index: Value, source: Value, reduction: str) -> Value:
    """Whole slices of `source` into the positions `index` of one axis."""
    if x.rank == 0:
        return c.reshape(_along(c, c.reshape(x, (1,)), 0, index, c.reshape(source, (product(source.shape),)), reduction), ())
    axis = axis_of(dim, x.rank)
    wide = c.expand(c.reshape(c.indices(index), (index.shape[0] if index.rank else 1, *[1] * (x.rank - axis - 1))), source.shape)
    return _combined(c, x, wide, c.cast(source, x.dtype), axis, reduction)


# Positions --------------------------------------------------------------------------------------
@aten("aten.nonzero.default", "aten.argwhere.default")
def _(c: Context, x: Value) -> Value:
    return c.swap(c.b.nonzero(c.boolean(x)), 0, 1)  # the IR's has an axis in each row, as ONNX has it


@aten("aten.nonzero_static.default")
def _(c: Context, x: Value, size: int, fill_value: int = -1) -> Value:
    """The first `size` positions that are not zero, and `fill_value` where there are fewer."""
    count = product(x.shape)
    if not all(isinstance(d, int) for d in (size, *x.shape)):
        raise Refusal("symbolic sizes")
    if 0 in (count, size, x.rank):
        return c.full(fill_value, c.shape, I64)
    kept = c.boolean(c.reshape(x, (count,)))
    rank = c.b.sub(c.b.cumsum(c.cast(kept, I64), axis=0), c.scalar(1, I64))
    rank = c.b.minimum(c.b.where(kept, rank, c.scalar(size, I64)), c.scalar(size, I64))
    at = c.b.iota(shape=(count,), axis=0, dtype=I64)
    flat = c.slice(c.b.scatter_elements(c.full(-1, (size + 1,), I64), rank, at, axis=0), 0, 0, size)
    columns, stride = [], count
    for d in x.shape:
        stride //= d
        place = c.b.mod(c.b.floor_div(flat, c.scalar(stride, I64)), c.scalar(d, I64))
        columns.append(c.unsqueeze(c.b.where(c.b.less(flat, c.scalar(0, I64)), c.scalar(fill_value, I64), place), 1))
    return c.concat(columns, 1)


@aten("aten.bucketize.Tensor", "aten.bucketize.Scalar")
def _(c: Context, x: Any, boundaries: Value, right: bool = False) -> Value:
    return _count_below(c, c.operand(x, boundaries.dtype) if not isinstance(x, Value) else x, boundaries, right)


@aten("aten.searchsorted.Tensor", "aten.searchsorted.Scalar")
def _(c: Context, sorted_sequence: Value, x: Any, right: bool = False, side: str | None = None,
      sorter: Value | None = None) -> Value:
    right = right or side == "right"
    if sorter is not None:
        sorted_sequence = c.b.gather_elements(sorted_sequence, c.indices(sorter), axis=sorted_sequence.rank - 1)
    if not isinstance(x, Value):
        x = c.scalar(x, sorted_sequence.dtype)
    if sorted_sequence.rank > 1:  # row by row
        at = c.promoted(x, sorted_sequence)
        rows = c.unsqueeze(c.cast(sorted_sequence, at), sorted_sequence.rank - 1)
        beyond = getattr(c.b, "greater" if right else "greater_equal")(rows, c.unsqueeze(c.cast(x, at), x.rank))
        return c.cast(c.b.reduce_sum(c.cast(c.b.not_(beyond), I64), axes=(x.rank,)), c.dtype)
    return _count_below(c, x, sorted_sequence, right)


def _count_below(c: Context, x: Value, boundaries: Value, right: bool) -> Value:
    """How many boundaries are below each x (or equal to it, with `right`); all of them are below NaN."""
    at = c.promoted(x, boundaries)
    x = c.cast(x, at)
    found = c.b.search_sorted(x, c.cast(boundaries, at), right=right)
    if at.is_float:
        found = c.b.where(c.b.isnan(x), c.scalar(boundaries.shape[0], I64), found)
    return c.cast(found, c.dtype)


@aten("aten._unique2.default")
def _(c: Context, x: Value, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False) -> Any:
    values, _, inverse, counts = c.b.unique(c.reshape(x, (product(x.shape),)), sorted=True)
    return values, c.reshape(inverse, x.shape) if return_inverse else _none(c), counts if return_counts else _none(c)


@aten("aten.unique_dim.default")
def _(c: Context, x: Value, dim: int, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False) -> Any:
    values, _, inverse, counts = c.b.unique(x, axis=axis_of(dim, x.rank), sorted=True)
    return values, inverse if return_inverse else _none(c), counts if return_counts else _none(c)


@aten("aten.unique_consecutive.default")
def _(c: Context, x: Value, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None) -> Any:
    """Slices that differ from the one before, how often each comes, and which one each is of."""
    shape = x.shape
    if dim is not None and len(c.val[0].shape) != x.rank:  # type: ignore[index]
        raise Refusal("along an axis, for which torch states a shape of another rank than the result's")
    if dim is None:
        x, dim = c.reshape(x, (product(shape),)), 0
    axis = axis_of(dim, x.rank)
    n = x.shape[axis]
    differs = c.b.not_equal(c.slice(x, axis, 1, n), c.slice(x, axis, 0, n - 1)) if n != 0 else None
    others = tuple(a for a in range(x.rank) if a != axis)
    if differs is None:
        return x, c.full(0, c.type(c.val[1]).shape, I64), _none(c)  # type: ignore[index, arg-type]
    changes = c.reshape(c.b.reduce_any(differs, axes=others), (n - 1,))
    first = c.concat([c.full(True, (1,), BOOL), changes], 0)
    values = c.b.compress(x, first, axis=axis)
    inverse = c.b.sub(c.b.cumsum(c.cast(first, I64), axis=0), c.scalar(1, I64))
    inverse = c.reshape(inverse, shape) if len(shape) != 1 and x.rank == 1 else inverse
    if not return_counts:
        return values, inverse if return_inverse else _none(c), _none(c)
    ends = c.b.compress(c.b.iota(shape=(n,), axis=0, dtype=I64), c.concat([changes, c.full(True, (1,), BOOL)], 0), axis=0)
    starts = c.b.compress(c.b.iota(shape=(n,), axis=0, dtype=I64), first, axis=0)
    counts = c.b.add(c.b.sub(ends, starts), c.scalar(1, I64))
    return values, inverse if return_inverse else _none(c), counts


def _none(c: Context) -> Value:
    """torch's result for what is not asked for."""
    return c.full(0, (0,), I64)


@aten("aten.one_hot.default")
def _(c: Context, x: Value, num_classes: int = -1) -> Value:
    if not isinstance(num_classes, int) or num_classes < 0:
        raise Refusal("the number of classes comes from the data")
    classes = c.b.iota(shape=(num_classes,), axis=0, dtype=I64)
    return c.cast(c.b.equal(c.unsqueeze(c.cast(x, I64), x.rank), classes), c.dtype)


@aten("aten.repeat_interleave.Tensor")
def _(c: Context, repeats: Value, output_size: Any = None) -> Value:
    return _repeated(c, repeats, 0)


@aten("aten.repeat_interleave.self_Tensor")
def _(c: Context, x: Value, repeats: Value, dim: int | None = None, output_size: Any = None) -> Value:
    if dim is None:
        x, dim = c.reshape(x, (product(x.shape),)), 0
    axis = axis_of(dim, x.rank)
    if repeats.rank == 0 or repeats.shape == (1,):
        repeats = c.expand(c.reshape(repeats, (1,)), (x.shape[axis],))
    return c.b.gather(x, _repeated(c, repeats, axis), axis=axis)


def _repeated(c: Context, repeats: Value, axis: int) -> Value:
    """The index k repeats[k] times, for all k in order, as many as the result's axis has. Where that is known, place p belongs
    to the index that comes after all that end at or before it."""
    repeats = c.cast(repeats, I64)
    try:
        size = c.shape[axis]
    except Refusal:  # a size computed from the data
        return c.b.repeats(repeats)
    ends = c.b.cumsum(repeats, axis=0)
    return c.b.search_sorted(c.b.iota(shape=(size,), axis=0, dtype=I64), ends, right=True)


@aten("aten.segment_reduce.default")
def _(c: Context, data: Value, reduce: str, lengths: Value | None = None, indices: Value | None = None,
      offsets: Value | None = None, axis: int = 0, initial: Any = None) -> Value:
    """Stretches along an axis, combined: their lengths (or where they begin and end) lie on the last axis of a tensor that shares
    the axes before."""
    if indices is not None or (lengths is None and offsets is None):
        raise Refusal("segments by indices")
    if lengths is not None:
        ends = c.b.cumsum(c.cast(lengths, I64), axis=axis)
    else:
        assert offsets is not None
        ends = c.slice(c.cast(offsets, I64), axis, 1, offsets.shape[axis])
    place = c.b.iota(shape=(data.shape[axis], 1), axis=0, dtype=I64)
    below = c.b.less_equal(c.unsqueeze(ends, axis), place)  # [.., size, segments]
    segment = c.b.reduce_sum(c.cast(below, I64), axes=(axis + 1,))
    shape = (*data.shape[:axis], ends.shape[axis], *data.shape[axis + 1:])
    wide = c.expand(c.reshape(segment, (*segment.shape, *[1] * (data.rank - axis - 1))), data.shape)
    how = {"max": "amax", "min": "amin"}.get(reduce, reduce)
    neutral = _neutral("sum" if reduce == "mean" else how, data.dtype) if initial is None else initial
    # One more place, for what lies behind the last stretch.
    room = (*shape[:axis], shape[axis] + 1, *shape[axis + 1:])
    combine = "add" if reduce == "mean" else _REDUCTIONS[how]
    out = c.b.scatter_elements(c.full(neutral, room, data.dtype), wide, data, axis=axis, reduction=combine)
    out = c.slice(out, axis, 0, shape[axis])
    if reduce != "mean":
        return out
    count = c.b.scatter_elements(c.full(0, room, data.dtype), wide, c.full(1, data.shape, data.dtype), axis=axis, reduction="add")
    count = c.slice(count, axis, 0, shape[axis])
    if initial is None:
        return c.b.div(out, count)
    none = c.b.equal(count, c.scalar(0, data.dtype))
    return c.b.where(none, out, c.b.div(out, count))
