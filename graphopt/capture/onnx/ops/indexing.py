"""Gathers, scatters, selections."""

from __future__ import annotations

import numpy as np

from graphopt.capture.onnx.context import Context, Node, rank_of, static_shape
from graphopt.capture.onnx.table import Defer, Results, entry
from graphopt.ir.dims import Dim, product
from graphopt.ir.graph import Value
from graphopt.ir.types import I64


@entry("Gather")
def gather(b: Context, n: Node) -> Results:
    return b.gather(n[0], n[1], axis=n.axis(0, len(rank_of(n[0]))))


@entry("GatherElements")
def gather_elements(b: Context, n: Node) -> Results:
    return b.gather_elements(n[0], n[1], axis=n.axis(0, len(rank_of(n[0]))))


def _tuples(indices: Value) -> None:
    """The rank of the result follows from the length of the index tuples, so that it must be known."""
    shape = rank_of(indices)
    if shape and isinstance(shape[-1], Dim):
        raise Defer("the length of the index tuples is not known")


@entry("GatherND")
def gather_nd(b: Context, n: Node) -> Results:
    _tuples(n[1])
    return b.gather_nd(n[0], n[1], batch_dims=n.attr("batch_dims", 0))


@entry("Scatter", "ScatterElements")
def scatter_elements(b: Context, n: Node) -> Results:
    return b.scatter_elements(n[0], n[1], n[2], axis=n.axis(0, len(rank_of(n[0]))), reduction=n.attr("reduction", "none"))


@entry("ScatterND")
def scatter_nd(b: Context, n: Node) -> Results:
    _tuples(n[1])
    return b.scatter_nd(n[0], n[1], n[2], reduction=n.attr("reduction", "none"))


@entry("TopK")
def top_k(b: Context, n: Node) -> Results:
    k = n.attr("k") if "k" in n.attrs else n.number(1)
    return b.top_k(n[0], k=int(k), axis=n.axis(-1, len(rank_of(n[0]))), largest=bool(n.attr("largest", 1)),
                   sorted=bool(n.attr("sorted", 1)))


@entry("Unique")
def unique(b: Context, n: Node) -> Results:
    axis = n.axis(None, len(rank_of(n[0]))) if "axis" in n.attrs else None
    return b.unique(n[0], axis=axis, sorted=bool(n.attr("sorted", 1)))


@entry("Compress")
def compress(b: Context, n: Node) -> Results:
    axis = n.axis(None, len(rank_of(n[0]))) if "axis" in n.attrs else None
    return b.compress(n[0], n[1], axis=axis)


@entry("NonMaxSuppression")
def nms(b: Context, n: Node) -> Results:
    n.need(2, 3, 4)
    return b.nms(n[0], n[1], max_output=int(n.number(2, 0)), iou_threshold=float(n.number(3, 0.0)),
                 score_threshold=float(n.number(4, -np.inf)), center_point_box=bool(n.attr("center_point_box", 0)))


@entry("OneHot")
def one_hot(b: Context, n: Node) -> Results:
    """Indices outside [-depth, depth) give rows of the off value."""
    indices, values = n[0], n[2]
    depth = (n.dims(1) or (0,))[0]
    shape = rank_of(indices)
    rank = len(shape) + 1
    axis = n.attr("axis", -1)
    axis = axis + rank if axis < 0 else axis
    spread = b.unsqueezed(b.to(indices, I64), [axis])
    bound = b.to(b.dims(values=(depth,)), I64) if isinstance(depth, Dim) else depth
    wrapped = b.where(b.less(spread, 0), b.add(spread, bound), spread)
    classes = b.iota(shape=[depth if i == axis else 1 for i in range(rank)], axis=axis, dtype=I64)
    off, on = (b.reshape(b.cut(values, 0, i, i + 1), shape=()) for i in range(2))
    return b.where(b.equal(classes, wrapped), on, off)


@entry("TensorScatter")
def tensor_scatter(b: Context, n: Node) -> Results:
    """Writes `update` into the cache along one axis, at each batch's own position, wrapping around where circular."""
    cache, update, at = n[0], n[1], n.get(2)
    shape, new = rank_of(cache), rank_of(update)
    axis = n.axis(-2, len(shape))
    step = b.iota(shape=[d if i == axis else 1 for i, d in enumerate(new)], axis=axis, dtype=I64)
    if at is not None:
        step = b.add(step, b.reshape(b.to(at, I64), shape=[new[0], *([1] * (len(new) - 1))]))
    if n.attr("mode", "linear") == "circular":
        length = b.to(b.dims(values=(shape[axis],)), I64) if isinstance(shape[axis], Dim) else shape[axis]
        step = b.mod(step, length)
    return b.scatter_elements(cache, b.expand(step, shape=new), update, axis=axis)


@entry("MaxUnpool")
def max_unpool(b: Context, n: Node) -> Results:
    x, index = n[0], n[1]
    batch, channels, *space = rank_of(x)
    kernel, stride, pads = n.attr("kernel_shape"), n.attr("strides", None), n.attr("pads", None)
    k = len(kernel)
    stride, pads = stride or [1] * k, pads or [0] * (2 * k)
    natural = [batch, channels, *((s - 1) * t + w - pads[i] - pads[i + k]
                                  for i, (s, t, w) in enumerate(zip(space, stride, kernel)))]
    given = n.ints(2)
    count = product(rank_of(x))
    flat = b.full(0, [product(natural)], x.dtype)
    out = b.scatter_elements(flat, b.reshape(index, shape=[count]), b.reshape(x, shape=[count]), axis=0)
    out = b.reshape(out, shape=natural)
    if given is None or list(given) == natural:
        return out
    return b.pad(out, None, pads=[0] * len(natural) + [g - s for g, s in zip(given, static_shape(out))])
