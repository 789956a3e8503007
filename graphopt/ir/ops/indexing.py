"""Ops that pick or place elements by computed indices. Negative indices count from the back; out of range is an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graphopt.errors import EvaluationError
from graphopt.ir.dims import DimLike, Shape
from graphopt.ir.ops.numeric import narrow, widen
from graphopt.ir.table import Operands, Trait, op

REDUCTIONS: dict[str, Callable[..., Any] | None] = {
    "none": None, "add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum,
}


def _check_axis(o: Operands) -> None:
    if not 0 <= o.axis < o.x.rank:
        raise o.fail(f"axis {o.axis} is out of range for {o.x}")


def _differ(a: DimLike, b: DimLike) -> bool:
    """Whether two dims are known to be different."""
    return isinstance(a, int) and isinstance(b, int) and a != b


def _in_range(indices: np.ndarray, n: int) -> np.ndarray:
    """Non-negative indices into an axis of `n`."""
    wrong = (indices < -n) | (indices >= n)
    if wrong.any():
        raise EvaluationError(f"index {indices[wrong][0]} is out of range for an axis of {n}")
    return np.where(indices < 0, indices + n, indices).astype(np.int64)


def _along_axis(o: Operands) -> tuple[Any, ...]:
    return (o.x.shape[o.axis],)


def _along_axes(o: Operands, first: int) -> tuple[Any, ...]:
    return tuple(o.x.shape[first:first + o.indices.shape[-1]])


# Gather -------------------------------------------------------------------------------------
def _gather_shape(o: Operands) -> Shape:
    _check_axis(o)
    return (*o.x.shape[:o.axis], *o.indices.shape, *o.x.shape[o.axis + 1:])


@op("gather(x: T, indices: I; axis: int) -> T", T="any", I="i32|i64", shape=_gather_shape, traits=Trait.MOVEMENT,
    picks="x", bounds=_along_axis)
def gather(x, indices, *, axis):
    """The slices of `x` at `indices` along `axis`, which the axes of `indices` take the place of."""
    return np.take(x, _in_range(indices, x.shape[axis]), axis)


def _elements_shape(o: Operands) -> Shape:
    _check_axis(o)
    if o.indices.rank != o.x.rank:
        raise o.fail(f"x {o.x} and indices {o.indices} differ in rank")
    for i, (d, n) in enumerate(zip(o.indices.shape, o.x.shape)):
        if i != o.axis and isinstance(d, int) and isinstance(n, int) and d > n:
            raise o.fail(f"indices {o.indices} reach past axis {i} of {o.x}")
    return o.indices.shape


def _element_index(indices: np.ndarray, axis: int, n: int) -> tuple[np.ndarray, ...]:
    """The full index of every element of `indices`: its own place, but for `axis`."""
    places: list[np.ndarray] = list(np.indices(indices.shape, sparse=True))
    places[axis] = _in_range(indices, n)
    return tuple(places)


@op("gather_elements(x: T, indices: I; axis: int) -> T", T="any", I="i32|i64", shape=_elements_shape, traits=Trait.MOVEMENT,
    picks="x", bounds=_along_axis)
def gather_elements(x, indices, *, axis):
    """x[i, indices[i, j, k], k] for axis 1 of three: each index picks along `axis` at its own place on the others."""
    return x[_element_index(indices, axis, x.shape[axis])]


def _nd_depth(o: Operands, batch: int) -> int:
    """How many axes of x one index tuple addresses: the last dim of `indices`."""
    if not o.indices.shape or not isinstance(o.indices.shape[-1], int):
        raise o.fail(f"the last dim of indices must be known, got {o.indices}")
    depth: int = o.indices.shape[-1]
    if not 0 <= batch < o.indices.rank or batch + depth > o.x.rank:
        raise o.fail(f"tuples of {depth} after {batch} batch axes do not index {o.x}")
    return depth


def _gather_nd_shape(o: Operands) -> Shape:
    depth, batch = _nd_depth(o, o.batch_dims), o.batch_dims
    if any(_differ(a, b) for a, b in zip(o.x.shape[:batch], o.indices.shape[:batch])):
        raise o.fail(f"x {o.x} and indices {o.indices} differ in their {batch} batch dims")
    return (*o.indices.shape[:-1], *o.x.shape[batch + depth:])


def _nd_index(indices: np.ndarray, shape: tuple[int, ...], batch: int = 0) -> tuple[np.ndarray, ...]:
    places = [p[..., 0] for p in np.indices((*indices.shape[:-1], 1), sparse=True)[:batch]]
    return (*places, *(_in_range(indices[..., i], shape[batch + i]) for i in range(indices.shape[-1])))


@op("gather_nd(x: T, indices: I; batch_dims: int = 0) -> T", T="any", I="i32|i64", shape=_gather_nd_shape,
    traits=Trait.MOVEMENT, picks="x", bounds=lambda o: _along_axes(o, o.batch_dims))
def gather_nd(x, indices, *, batch_dims):
    """x[b, indices[b, i]]: the last axis of `indices` holds tuples that address the axes of `x` after the batch axes."""
    if indices.shape[-1] == 0:  # the empty tuple picks the whole of its batch element
        lead = x.reshape(x.shape[:batch_dims] + (1,) * (indices.ndim - 1 - batch_dims) + x.shape[batch_dims:])
        return np.broadcast_to(lead, indices.shape[:-1] + x.shape[batch_dims:])
    return x[_nd_index(indices, x.shape, batch_dims)]


# Scatter ------------------------------------------------------------------------------------
def _check_reduction(o: Operands) -> None:
    if o.reduction not in REDUCTIONS:
        raise o.fail(f"reduction must be one of {', '.join(REDUCTIONS)}, got {o.reduction!r}")
    if o.reduction != "none" and o.x.dtype.kind not in ("int", "uint", "float"):
        raise o.fail(f"reduction {o.reduction} needs numbers, got {o.x}")


def _scatter_elements_shape(o: Operands) -> Shape:
    _check_reduction(o)
    _elements_shape(o)
    if o.updates.rank != o.indices.rank or any(_differ(a, b) for a, b in zip(o.updates.shape, o.indices.shape)):
        raise o.fail(f"updates {o.updates} and indices {o.indices} differ in shape")
    return o.x.shape


def _scatter(x: np.ndarray, index: tuple[np.ndarray, ...], updates: np.ndarray, reduction: str) -> np.ndarray:
    combine = REDUCTIONS[reduction]
    out = np.array(widen(x))
    if combine is None:
        out[index] = widen(updates)
    else:
        combine.at(out, index, widen(updates))  # type: ignore[attr-defined]
    return narrow(out, x.dtype)


@op('scatter_elements(x: T, indices: I, updates: T; axis: int, reduction: str = "none") -> T', T="any", I="i32|i64",
    shape=_scatter_elements_shape, bounds=_along_axis)
def scatter_elements(x, indices, updates, *, axis, reduction):
    """`x` with updates[i, j, k] put at [i, indices[i, j, k], k] for axis 1 of three, or combined with what is there.

    Where several go to one place they combine in row-major order; without a reduction the last one stays.
    """
    return _scatter(x, np.broadcast_arrays(*_element_index(indices, axis, x.shape[axis])), updates, reduction)


def _scatter_nd_shape(o: Operands) -> Shape:
    _check_reduction(o)
    wanted = (*o.indices.shape[:-1], *o.x.shape[_nd_depth(o, 0):])
    if o.updates.rank != len(wanted) or any(_differ(a, b) for a, b in zip(o.updates.shape, wanted)):
        raise o.fail(f"updates {o.updates} must have shape [{', '.join(map(str, wanted))}]")
    return o.x.shape


@op('scatter_nd(x: T, indices: I, updates: T; reduction: str = "none") -> T', T="any", I="i32|i64", shape=_scatter_nd_shape,
    bounds=lambda o: _along_axes(o, 0))
def scatter_nd(x, indices, updates, *, reduction):
    """`x` with updates[i] put at x[indices[i]], or combined with what is there; the last axis of `indices` holds tuples.

    Where several go to one place they combine in row-major order; without a reduction the last one stays.
    """
    depth = indices.shape[-1]
    flat = indices.reshape(int(np.prod(indices.shape[:-1])), depth)
    index = _nd_index(flat, x.shape) if depth else (np.zeros(len(flat), np.int64),)
    there = x if depth else x[None]
    out = _scatter(there, index, updates.reshape(len(flat), *x.shape[depth:]), reduction)
    return out.reshape(x.shape)


# Search -------------------------------------------------------------------------------------
def _sorted_shape(o: Operands) -> Shape:
    if o.keys.rank != 1:
        raise o.fail(f"keys must be a vector, got {o.keys}")
    return o.x.shape


@op("search_sorted(x: T, keys: T; right: bool = false) -> i64", T="number", shape=_sorted_shape)
def search_sorted(x, keys, *, right):
    """How many of the keys, which ascend, are less than each element, or (`right`) not greater; than NaN none is."""
    found = np.searchsorted(widen(keys), widen(x), "right" if right else "left").astype(np.int64)
    return np.where(np.isnan(x), 0, found) if x.dtype.kind not in "iu" else found


# Selection ----------------------------------------------------------------------------------
def _top_k_shape(o: Operands) -> Shape:
    _check_axis(o)
    n = o.x.shape[o.axis]
    if o.k < 0 or (isinstance(n, int) and o.k > n):
        raise o.fail(f"there are no {o.k} elements along axis {o.axis} of {o.x}")
    return tuple(o.k if i == o.axis else d for i, d in enumerate(o.x.shape))


@op("top_k(x: T; k: int, axis: int, largest: bool = true, sorted: bool = true) -> (values: T, indices: i64)", T="number",
    shape=_top_k_shape)
def top_k(x, *, k, axis, largest, sorted):
    """The `k` greatest (or least) along `axis`, best first, and where they stand; of equals the lower index comes first.

    NaN counts as the greatest. Without `sorted` the order is free; here it is the same.
    """
    if k > x.shape[axis]:
        raise EvaluationError(f"there are no {k} elements along an axis of {x.shape[axis]}")
    wide = widen(x)
    if largest:  # reversed twice, so that the stable sort still puts the lower index first among equals
        order = np.flip(x.shape[axis] - 1 - np.argsort(np.flip(wide, axis), axis, kind="stable"), axis)
    else:
        order = np.argsort(wide, axis, kind="stable")
    order = np.take(order, range(k), axis)
    return np.take_along_axis(x, order, axis), order.astype(np.int64)


def _unique_shape(o: Operands) -> list[Any]:
    if o.axis is None:
        return [(None,), (None,), (o.x.size,), (None,)]
    _check_axis(o)
    values = tuple(None if i == o.axis else d for i, d in enumerate(o.x.shape))
    return [values, (None,), (o.x.shape[o.axis],), (None,)]


@op("unique(x: T; axis: int?, sorted: bool = true) -> (values: T, first_indices: i64, inverse: i64, counts: i64)", T="any",
    shape=_unique_shape, traits=Trait.DATA_DEPENDENT)
def unique(x, *, axis, sorted):
    """The different elements of the flattened `x`, or its different slices along `axis`, in ascending order.

    Unsorted they stand in the order of first appearance. Also: where each appears first, which one each element
    of `x` is (1-D), and how often each appears. NaN equals NaN here.
    """
    given = x.reshape(-1) if axis is None else x
    along = 0 if axis is None else axis
    values, first, inverse, counts = _unique(widen(given), along)
    if not sorted:
        order = np.argsort(first, kind="stable")
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        values, first, inverse, counts = np.take(values, order, along), first[order], rank[inverse], counts[order]
    return (narrow(values, x.dtype), *(a.reshape(-1).astype(np.int64) for a in (first, inverse, counts)))


def _unique(x: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    if x.ndim == 1 or x.dtype != object:
        return np.unique(x, return_index=True, return_inverse=True, return_counts=True, axis=None if x.ndim == 1 else axis)
    codes = np.unique(x, return_inverse=True)[1].reshape(x.shape)  # strings compare as their ranks
    _, *rest = np.unique(codes, return_index=True, return_inverse=True, return_counts=True, axis=axis)
    return np.take(x, rest[0], axis), rest[0], rest[1], rest[2]


@op("nonzero(x: T) -> i64", T="any", shape=lambda o: (o.x.rank, None), traits=Trait.DATA_DEPENDENT)
def nonzero(x):
    """Indices of the elements that are not zero, in row-major order: one column each, one row an axis."""
    found = np.flatnonzero(widen(x))
    if x.ndim == 0:
        return np.empty((0, len(found)), np.int64)
    return np.array(np.unravel_index(found, x.shape), np.int64)


def _repeats_shape(o: Operands) -> Shape:
    if o.counts.rank != 1:
        raise o.fail(f"counts must have one axis, got {o.counts}")
    return (None,)  # type: ignore[return-value]


@op("repeats(counts: I) -> i64", I="i32|i64", shape=_repeats_shape, traits=Trait.DATA_DEPENDENT)
def repeats(counts):
    """The index k counts[k] times, for all k in order; no count is negative."""
    if (counts < 0).any():
        raise EvaluationError(f"{counts.min()} is no number of repeats")
    return np.repeat(np.arange(len(counts), dtype=np.int64), counts)


def _compress_shape(o: Operands) -> Shape:
    if o.condition.rank != 1:
        raise o.fail(f"condition must have one axis, got {o.condition}")
    known = o.value("condition")
    kept = None if known is None else int(np.count_nonzero(known))  # a condition that is too long fails where it runs
    if o.axis is None:
        return (kept,)  # type: ignore[return-value]
    _check_axis(o)
    return tuple(kept if i == o.axis else d for i, d in enumerate(o.x.shape))  # type: ignore[misc]


@op("compress(x: T, condition: bool; axis: int?) -> T", T="any", shape=_compress_shape, traits=Trait.DATA_DEPENDENT)
def compress(x, condition, *, axis):
    """The slices of `x` along `axis` (elements of the flattened `x`, if none) where `condition` holds.

    A condition shorter than the axis leaves the rest out.
    """
    return np.compress(condition, x, axis)


def _nms_shape(o: Operands) -> Shape:
    if o.boxes.rank != 3 or o.scores.rank != 3 or _differ(o.boxes.shape[2], 4):
        raise o.fail(f"needs boxes [B, N, 4] and scores [B, C, N], got {o.boxes} and {o.scores}")
    if _differ(o.boxes.shape[0], o.scores.shape[0]) or _differ(o.boxes.shape[1], o.scores.shape[2]):
        raise o.fail(f"boxes {o.boxes} and scores {o.scores} differ in batch or number of boxes")
    return (None, 3)  # type: ignore[return-value]


@op("nms(boxes: T, scores: T; max_output: int, iou_threshold: float, score_threshold: float, center_point_box: bool) -> i64",
    T="float", shape=_nms_shape, traits=Trait.DATA_DEPENDENT)
def nms(boxes, scores, *, max_output, iou_threshold, score_threshold, center_point_box):
    """Greedy non-maximum suppression for each batch and class, as ONNX's: rows (batch, class, box), best score first.

    A box is a candidate if its score is above `score_threshold` (which may be -inf), and is kept if its
    intersection over union with every box kept before is at most `iou_threshold`. At most `max_output` are kept
    for each class. Boxes are two opposite corners (y, x, y, x), or (x, y, width, height) about the centre.
    Of equal scores the lower index goes first.
    """
    boxes, scores = widen(boxes), widen(scores)
    if center_point_box:
        centre, half = boxes[..., [1, 0]], boxes[..., [3, 2]] / 2
        low, high = centre - half, centre + half
    else:
        low, high = np.minimum(boxes[..., :2], boxes[..., 2:]), np.maximum(boxes[..., :2], boxes[..., 2:])
    rows = [(b, c, i) for b in range(len(boxes)) for c in range(scores.shape[1])
            for i in _keep(low[b], high[b], scores[b, c], max_output, iou_threshold, score_threshold)]
    return np.array(rows, np.int64).reshape(-1, 3)


def _keep(low: np.ndarray, high: np.ndarray, scores: np.ndarray, most: int, iou: float, score: float) -> list[int]:
    area = np.prod(high - low, axis=-1)
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        if len(kept) >= most:
            break
        if not scores[i] > score and score != -np.inf:
            continue
        overlap = np.prod(np.maximum(np.minimum(high[i], high[kept]) - np.maximum(low[i], low[kept]), 0), axis=-1)
        union = area[i] + area[kept] - overlap
        if not np.any((overlap > 0) & (overlap / union > iou)):
            kept.append(int(i))
    return kept
