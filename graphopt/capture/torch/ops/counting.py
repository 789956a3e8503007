"""Histograms: how many elements fall into each bin."""

from __future__ import annotations

from typing import Any

from graphopt.capture.torch.context import Context, Refusal, product
from graphopt.capture.torch.table import aten
from graphopt.ir.graph import Value
from graphopt.ir.types import I64


def _flat(c: Context, x: Value) -> Value:
    return c.reshape(x, (product(x.shape),))


def _range(c: Context, x: Value, low: float, high: float, beside: float) -> tuple[Value, Value]:
    """The ends of the outer bins: those of the data where none are given, and `beside` to each side where they coincide."""
    if low == high and product(x.shape) != 0:
        least, most = (f(x, axes=tuple(range(x.rank))) for f in (c.b.reduce_min, c.b.reduce_max))
    else:
        least, most = c.scalar(low, x.dtype), c.scalar(high, x.dtype)
    alike, one = c.b.equal(least, most), c.scalar(beside, x.dtype)
    return c.b.where(alike, c.b.sub(least, one), least), c.b.where(alike, c.b.add(most, one), most)


def _counts(c: Context, place: Value, kept: Value, weight: Value | None, bins: int) -> Value:
    """The sum of the weights (or ones) of what is kept, by place."""
    dtype = c.dtype
    each = c.full(1, place.shape, dtype) if weight is None else c.cast(weight, dtype)
    each = c.b.where(kept, each, c.scalar(0, dtype))
    held = c.b.where(kept, place, c.scalar(0, I64))
    held = c.b.minimum(c.b.maximum(held, c.scalar(0, I64)), c.scalar(bins - 1, I64))
    return c.b.scatter_elements(c.full(0, (bins,), dtype), held, each, axis=0, reduction="add")


@aten("aten.histc.default")
def _(c: Context, x: Value, bins: int = 100, min: float = 0, max: float = 0) -> Value:
    x = _flat(c, c.cast(x, c.dtype))
    if product(x.shape) == 0:
        return c.full(0, c.shape, c.dtype)
    low, high = _range(c, x, min, max, 1)
    width = c.b.sub(high, low)
    kept = c.b.and_(c.b.greater_equal(x, low), c.b.less_equal(x, high))
    scaled = c.b.div(c.b.mul(c.b.sub(x, low), c.scalar(bins, x.dtype)), width)
    place = c.cast(c.b.where(kept, scaled, c.scalar(0, x.dtype)), I64)
    return _counts(c, place, kept, None, bins)


@aten("aten.histogram.bin_ct")
def _(c: Context, x: Value, bins: int, range: Any = None, weight: Value | None = None, density: bool = False) -> Any:
    flat = _flat(c, x)
    ends = range or (0, 0)
    low, high = _range(c, flat, ends[0], ends[1], 0.5)
    # linspace as torch has it: each half from its own end
    step = c.b.div(c.b.sub(high, low), c.scalar(bins, x.dtype))
    at = c.b.iota(shape=(bins + 1,), axis=0, dtype=I64)
    ahead = c.b.add(low, c.b.mul(step, c.cast(at, x.dtype)))
    back = c.b.sub(high, c.b.mul(step, c.cast(c.b.sub(c.scalar(bins, I64), at), x.dtype)))
    edges = c.b.where(c.b.less(at, c.scalar((bins + 1) // 2, I64)), ahead, back)
    return _histogram(c, flat, edges, weight, density)


@aten("aten.histogram.bins_tensor")
def _(c: Context, x: Value, bins: Value, weight: Value | None = None, density: bool = False) -> Any:
    return _histogram(c, _flat(c, x), bins, weight, density)


def _histogram(c: Context, x: Value, edges: Value, weight: Value | None, density: bool) -> Any:
    """Each bin holds its lower edge, and the last one its upper edge too."""
    count = edges.shape[0]
    if not isinstance(count, int):
        raise Refusal("a symbolic number of bins")
    bins = count - 1
    low, high = c.slice(edges, 0, 0, 1), c.slice(edges, 0, bins, count)
    kept = c.b.and_(c.b.greater_equal(x, low), c.b.less_equal(x, high))
    place = c.b.sub(c.b.search_sorted(x, edges, right=True), c.scalar(1, I64))
    out = _counts(c, place, kept, None if weight is None else _flat(c, weight), bins)
    if density:
        total = c.b.reduce_sum(out, axes=(0,))
        out = c.b.div(c.b.div(out, total), c.b.sub(c.slice(edges, 0, 1, count), c.slice(edges, 0, 0, bins)))
    return out, edges


@aten("aten.bincount.default")
def _(c: Context, x: Value, weights: Value | None = None, minlength: int = 0) -> Value:
    """As many bins as the greatest element needs: the result's size comes from the data."""
    dtype = c.dtype_of(c.val.dtype)
    if product(x.shape) == 0:
        return c.full(0, (minlength,), dtype)
    at = c.cast(x, I64)
    size = c.b.maximum(c.b.add(c.b.reduce_max(at, axes=(0,), keepdims=True), c.scalar(1, I64)), c.scalar(minlength, I64))
    empty = c.cast(c.b.repeats(size), dtype)  # zeros: index 0 so many times
    each = c.full(1, x.shape, dtype) if weights is None else c.cast(weights, dtype)
    return c.b.scatter_elements(empty, at, each, axis=0, reduction="add")
