"""Quantisation. Quantise and dequantise stay as they are; integer kernels are made of them by a rewrite."""

from __future__ import annotations

from graphopt.capture.onnx.context import Context, Node, rank_of
from graphopt.capture.onnx.ops.contract import centred, product_of
from graphopt.capture.onnx.ops.windows import window
from graphopt.capture.onnx.table import Results, entry
from graphopt.ir.graph import Value
from graphopt.ir.types import F32, U8, DType


def _axis(n: Node, x: Value, scale: Value) -> int:
    """The attribute, where the scale has an axis to lie along."""
    if not rank_of(scale):
        return 0
    rank = len(rank_of(x))
    axis = n.attr("axis", 1)
    axis = axis + rank if axis < 0 else axis
    return min(axis, max(rank - 1, 0))


def _scalar(b: Context, v: Value | None, rank: int) -> Value | None:
    """A vector of one element as a scalar: one scale for the whole tensor."""
    if v is not None and rank_of(v) == (1,) and rank != 1:
        return b.reshape(v, shape=())
    return v


@entry("QuantizeLinear")
def quantize(b: Context, n: Node) -> Results:
    x, scale, zero = n[0], n[1], n.get(2)
    to = zero.dtype if zero is not None else n.dtype("output_dtype", U8)
    scale, zero = _per_tensor(b, n, x, scale, zero)
    precision: DType | None = n.dtype("precision") if n.attr("precision", 0) else None
    if precision is not None and precision is not x.dtype:
        x, scale = b.to(x, precision), b.to(scale, precision)
    return b.quantize(x, scale, zero, axis=_axis(n, x, scale), block=n.attr("block_size", 0), to=to,
                      saturate=bool(n.attr("saturate", 1)))


@entry("DequantizeLinear")
def dequantize(b: Context, n: Node) -> Results:
    x, scale, zero = n[0], n[1], n.get(2)
    to = n.dtype("output_dtype", scale.dtype)
    scale, zero = _per_tensor(b, n, x, scale, zero)
    return b.dequantize(x, scale, zero, axis=_axis(n, x, scale), block=n.attr("block_size", 0), to=to)


def _per_tensor(b: Context, n: Node, x: Value, scale: Value, zero: Value | None) -> tuple[Value, Value | None]:
    """Scales of one element are scalars unless the quantised axis has that size."""
    rank = len(rank_of(x))
    axis = n.attr("axis", 1)
    if not rank_of(scale):
        return scale, None if zero is None else b.reshaped(zero, ())
    if rank_of(scale) == (1,) and not n.attr("block_size", 0) and \
            (rank == 0 or not -rank <= axis < rank or rank_of(x)[axis] != 1):
        scale = b.reshape(scale, shape=())
        zero = None if zero is None else b.reshaped(zero, ())
    return scale, zero


@entry("DynamicQuantizeLinear")
def dynamic_quantize_linear(b: Context, n: Node) -> Results:
    return list(dynamic_quantize(b, n[0]))


def dynamic_quantize(b: Context, x: Value) -> tuple[Value, Value, Value]:
    """x as u8 over its range, which is widened to hold 0, with scale and zero point; where there is nothing else the scale is 1,
    as onnxruntime has it."""
    axes = tuple(range(len(rank_of(x))))
    low = b.minimum(b.reduce_min(x, axes=axes), 0.0)
    high = b.maximum(b.reduce_max(x, axes=axes), 0.0)
    scale = b.where(b.equal(high, low), b.const(1, x.dtype), b.div(b.sub(high, low), 255.0))
    point = b.round(b.minimum(b.maximum(b.div(b.neg(low), scale), 0.0), 255.0))
    zero = b.cast(point, to=U8)
    return b.quantize(x, scale, zero, axis=0, to=U8), scale, zero


@entry("QLinearMatMul")
def qlinear_matmul(b: Context, n: Node) -> Results:
    x, x_scale, x_zero, y, y_scale, y_zero, z_scale, z_zero = (n[i] for i in range(8))
    rows, columns = max(len(rank_of(x)) - 2, 0), max(len(rank_of(y)) - 1, 0)
    acc = product_of(b, centred(b, x, x_zero, rows), centred(b, y, y_zero, columns))
    rank = len(rank_of(acc))
    left = b.to(_along(b, x_scale, rank, rank - 2), F32)
    right = b.to(_along(b, y_scale, rank, rank - 1), F32)
    real = b.mul(b.cast(acc, to=F32), b.mul(left, right))
    scale = _scalar(b, z_scale, rank)
    assert scale is not None
    return b.quantize(real, b.to(scale, F32), _scalar(b, z_zero, rank), axis=max(rank - 2, 0), to=z_zero.dtype)


def _along(b: Context, v: Value, rank: int, axis: int) -> Value:
    if len(rank_of(v)) != 1:
        return v
    return b.reshape(v, shape=()) if rank_of(v) == (1,) else b.channelwise(v, rank, axis)


@entry("QLinearConv")
def qlinear_conv(b: Context, n: Node) -> Results:
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = (n[i] for i in range(8))
    bias = n.get(8)
    win = window(n, rank_of(x)[2:], rank_of(w)[2:])
    acc = b.conv(centred(b, x, x_zero), centred(b, w, w_zero, 0), bias, groups=n.attr("group", 1), **win.attrs())
    rank = len(rank_of(acc))
    scale = b.mul(_along(b, x_scale, rank, 1), _along(b, w_scale, rank, 1))
    real = b.mul(b.cast(acc, to=F32), scale)
    return b.quantize(real, _scalar(b, y_scale, rank), _scalar(b, y_zero, rank), axis=0, to=y_zero.dtype)
