"""Pooling of 8-bit images, crops, and inverses of matrices."""

from __future__ import annotations

import numpy as np

from graphopt.capture.onnx.context import Context, Node, rank_of
from graphopt.capture.onnx.contrib.common import channels_first, channels_last, contrib
from graphopt.capture.onnx.ops.vision import grid_sample
from graphopt.capture.onnx.ops.windows import window
from graphopt.capture.onnx.table import Defer, Results
from graphopt.ir.dims import Dim, DimLike
from graphopt.ir.graph import Value
from graphopt.ir.types import F32, I64


@contrib("NhwcMaxPool", inputs=1, attrs="kernel_shape strides pads dilations auto_pad ceil_mode")
def nhwc_max_pool(b: Context, n: Node) -> Results:
    x = channels_first(b, n[0])
    w = window(n, rank_of(x)[2:])
    return channels_last(b, b.max_pool(x, kernel=w.kernel, **w.attrs(), ceil_mode=bool(n.attr("ceil_mode", 0))))


contrib("GridSample", inputs=2, attrs="mode padding_mode align_corners")(grid_sample)


@contrib("Inverse", inputs=1)
def inverse(b: Context, n: Node) -> Results:
    """Of each matrix [..., N, N], by elimination in f64; one that has none gives what is not finite."""
    x = n[0]
    *lead, _, size = rank_of(x)
    one = b.equal(b.iota(shape=(size, 1), axis=0, dtype=I64), b.iota(shape=(1, size), axis=1, dtype=I64))
    return b.solve(x, b.expand(b.cast(one, to=x.dtype), shape=(*lead, size, size)))[0]


@contrib("CropAndResize", inputs=4, attrs="mode extrapolation_value")
def crop_and_resize(b: Context, n: Node) -> Results:
    """Regions (y1, x1, y2, x2 as parts of the image's last row and column), each sampled at rows x columns points from corner to
    corner (the middle, where there is one). What lies outside of the image has the extrapolation value."""
    x, rois, images = n[0], n[1], n[2]
    size = n.ints(3)
    if size is None or len(size) != 2:
        raise n.error("operand 3, the height and width of the crops, must have 2 elements")
    mode = n.attr("mode", "bilinear")
    if mode not in ("bilinear", "nearest"):
        raise n.error(f"mode={mode!r} is not supported", "Known are bilinear and nearest")
    height, width = rank_of(x)[2:]
    count = rank_of(rois)[0]
    edges = b.parts(b.to(rois, F32), 1, (1, 1, 1, 1))
    rows = _points(b, edges[0], edges[2], height, size[0])
    columns = _points(b, edges[1], edges[3], width, size[1])
    inside = b.and_(b.unsqueezed(_within(b, rows, height), [2]), b.unsqueezed(_within(b, columns, width), [1]))
    part = b.gather(x, b.to(images, I64), axis=0)
    if mode == "nearest":
        y = _picked(b, _picked(b, part, _rounded(b, rows, height), 2), _rounded(b, columns, width), 3)
    else:
        y = _between(b, _between(b, part, rows, height, 2), columns, width, 3)
    outside = b.const(n.attr("extrapolation_value", 0.0), F32)
    return b.where(b.reshape(inside, shape=(count, 1, *size)), y, outside)


def _points(b: Context, low: Value, high: Value, size: DimLike, count: int) -> Value:
    """[regions, count]: where samples lie along an axis of `size` elements."""
    if isinstance(size, Dim):
        raise Defer("the size of the images is not known")
    last = float(size - 1)
    if count == 1:
        return b.mul(b.mul(b.add(low, high), 0.5), last)
    step = b.div(b.mul(b.sub(high, low), last), float(count - 1))
    return b.add(b.mul(low, last), b.mul(b.const(np.arange(count, dtype=np.float32)[None]), step))


def _within(b: Context, at: Value, size: DimLike) -> Value:
    assert isinstance(size, int)
    return b.and_(b.greater_equal(at, 0.0), b.less_equal(at, float(size - 1)))


def _clamped(b: Context, at: Value, size: DimLike) -> Value:
    assert isinstance(size, int)
    return b.cast(b.minimum(b.maximum(at, 0.0), float(size - 1)), to=I64)


def _rounded(b: Context, at: Value, size: DimLike) -> Value:
    """The nearest, halves away from zero."""
    return _clamped(b, b.floor(b.add(at, 0.5)), size)


def _picked(b: Context, x: Value, index: Value, axis: int) -> Value:
    """x [regions, C, H, W] at indices [regions, count] along an axis."""
    dims = list(rank_of(x))
    regions, count = rank_of(index)
    dims[axis] = count
    shape: list[DimLike] = [regions, 1, 1, 1]
    shape[axis] = count
    return b.gather_elements(x, b.expand(b.reshape(index, shape=shape), shape=dims), axis=axis)


def _between(b: Context, x: Value, at: Value, size: DimLike, axis: int) -> Value:
    low = b.floor(at)
    shape: list[DimLike] = [rank_of(at)[0], 1, 1, 1]
    shape[axis] = rank_of(at)[1]
    part = b.reshape(b.sub(at, low), shape=shape)
    below, above = (_picked(b, x, _clamped(b, v, size), axis) for v in (low, b.ceil(at)))
    return b.add(below, b.mul(b.sub(above, below), part))
