"""Softmax and normalisations."""

from __future__ import annotations

from collections.abc import Callable

from graphopt.capture.onnx.context import Context, Node, rank_of
from graphopt.capture.onnx.table import Defer, Results, entry
from graphopt.ir.dims import product
from graphopt.ir.graph import Value
from graphopt.ir.table import normalise_axes
from graphopt.ir.types import F32


def flattened(b: Context, n: Node, f: Callable[[Value, int], Value], x: Value | None = None, default: int = 1) -> Value:
    """f of `x` (else operand 0) along the last axis of a matrix of all dims before and all from `axis`: opsets before 13."""
    x = n[0] if x is None else x
    dims = rank_of(x)
    axis = n.attr("axis", default)
    axis = axis + len(dims) if axis < 0 else axis
    if axis == len(dims) - 1:
        return f(x, axis)
    return b.reshaped(f(b.reshape(x, shape=[product(dims[:axis]), product(dims[axis:])]), 1), dims)


@entry("Softmax", "LogSoftmax", since=1)
def softmax_flat(b: Context, n: Node) -> Results:
    name = "softmax" if n.kind == "Softmax" else "log_softmax"
    return flattened(b, n, lambda x, axis: b.op(name, [x], {"axis": axis}).result)


@entry("Softmax", "LogSoftmax", since=13)
def softmax(b: Context, n: Node) -> Results:
    name = "softmax" if n.kind == "Softmax" else "log_softmax"
    return b.op(name, [n[0]], {"axis": n.axis(-1, len(rank_of(n[0])))}).result


@entry("BatchNormalization")
def batch_normalization(b: Context, n: Node) -> Results:
    """In training mode, the batch's own statistics, and the running ones as further results. With `spatial` 0 (before opset 9)
    every element of an image has statistics of its own."""
    x, scale, bias, mean, var = (n[i] for i in range(5))
    eps, momentum = n.attr("epsilon", 1e-5), n.attr("momentum", 0.9)
    if n.version < 9 and not n.attr("spatial", 1):
        factor = b.div(scale, b.sqrt(b.add(var, eps)))
        return b.add(b.mul(x, factor), b.sub(bias, b.mul(mean, factor)))
    if not n.attr("training_mode", 0):
        wide = mean.dtype if mean.dtype.bits > x.dtype.bits else x.dtype
        y = b.batch_norm(*(b.to(v, wide) for v in (x, scale, bias, mean, var)), eps=eps)
        return b.to(y, x.dtype)
    axes = tuple(i for i in range(len(rank_of(x))) if i != 1)
    batch_mean = b.reduce_mean(x, axes=axes, keepdims=True)
    centred = b.sub(x, batch_mean)
    batch_var = b.reduce_mean(b.mul(centred, centred), axes=axes, keepdims=False)
    batch_mean = b.reshape(batch_mean, shape=rank_of(mean))
    y = b.batch_norm(x, b.to(scale, x.dtype), b.to(bias, x.dtype), batch_mean, batch_var, eps=eps)
    new = [b.add(b.mul(old, momentum), b.mul(b.to(now, old.dtype), 1.0 - momentum))
           for old, now in ((mean, batch_mean), (var, batch_var))]
    return [y, *new]


@entry("InstanceNormalization")
def instance_normalization(b: Context, n: Node) -> Results:
    x, channels = n[0], rank_of(n[0])[1]
    if not isinstance(channels, int):
        raise Defer("the number of channels is not known")
    return b.group_norm(x, n[1], n[2], groups=channels, eps=n.attr("epsilon", 1e-5))


@entry("GroupNormalization", since=21)
def group_normalization(b: Context, n: Node) -> Results:
    return b.group_norm(n[0], n[1], n[2], groups=n.attr("num_groups"), eps=n.attr("epsilon", 1e-5))


@entry("LayerNormalization")
def layer_normalization(b: Context, n: Node) -> Results:
    """Scale and bias may be of any shape that broadcasts to x. The function body in the schema takes each for a flat vector."""
    x, scale, bias = n[0], n[1], n.get(2)
    axis = n.axis(-1, len(rank_of(x)))
    eps, stash = n.attr("epsilon", 1e-5), n.dtype("stash_type", F32)
    y = b.layer_norm(x, scale, bias, axis=axis, eps=eps)
    if not n.wants(1) and not n.wants(2):
        return y
    return [y, *statistics(b, b.to(x, stash), axis, eps)]


def statistics(b: Context, x: Value, axis: int, eps: float) -> tuple[Value, Value]:
    """The mean over the axes from `axis` on, which stay, and 1 / sqrt(variance + eps)."""
    mean = b.reduce_mean(x, axes=tuple(range(axis, len(rank_of(x)))), keepdims=True)
    return mean, inverse_size(b, b.sub(x, mean), axis, eps)


def inverse_size(b: Context, x: Value, axis: int, eps: float) -> Value:
    """1 / sqrt(mean(x^2) + eps) over the axes from `axis` on, which stay."""
    squares = b.reduce_mean(b.mul(x, x), axes=tuple(range(axis, len(rank_of(x)))), keepdims=True)
    return b.reciprocal(b.sqrt(b.add(squares, eps)))


@entry("RMSNormalization")
def rms_normalization(b: Context, n: Node) -> Results:
    x, scale = n[0], n[1]
    axis = n.axis(-1, len(rank_of(x)))
    eps = n.attr("epsilon", 1e-5)
    if scale.dtype is x.dtype:
        return b.rms_norm(x, scale, axis=axis, eps=eps)
    return b.mul(b.to(b.rms_norm(x, axis=axis, eps=eps), scale.dtype), scale)


@entry("LRN")
def lrn(b: Context, n: Node) -> Results:
    return b.lrn(n[0], size=n.attr("size"), alpha=n.attr("alpha", 1e-4), beta=n.attr("beta", 0.75), bias=n.attr("bias", 1.0))


@entry("LpNormalization")
def lp_normalization(b: Context, n: Node) -> Results:
    """Zero where the norm is zero."""
    x = n[0]
    axes = normalise_axes([n.attr("axis", -1)], len(rank_of(x)))
    if n.attr("p", 2) == 1:
        size = b.reduce_sum(b.abs(x), axes=axes, keepdims=True)
    else:
        size = b.sqrt(b.reduce_sum(b.mul(x, x), axes=axes, keepdims=True))
    return b.where(b.equal(size, 0), b.const(0, x.dtype), b.div(x, size))


@entry("MeanVarianceNormalization")
def mean_variance_normalization_of_images(b: Context, n: Node) -> Results:
    """Before opset 9: over the pixels of each channel in all images, or of all channels; without the variance only centred."""
    x = n[0]
    axes = tuple(k for k in range(len(rank_of(x))) if k != 1 or n.attr("across_channels", 0))
    centred = b.sub(x, b.reduce_mean(x, axes=axes, keepdims=True))
    if not n.attr("normalize_variance", 1):
        return centred
    return b.div(centred, b.sqrt(b.reduce_mean(b.mul(centred, centred), axes=axes, keepdims=True)))


@entry("MeanVarianceNormalization", since=9)
def mean_variance_normalization(b: Context, n: Node) -> Results:
    x = n[0]
    axes = normalise_axes(n.attr("axes", [0, 2, 3]), len(rank_of(x)))
    centred = b.sub(x, b.reduce_mean(x, axes=axes, keepdims=True))
    variance = b.reduce_mean(b.mul(centred, centred), axes=axes, keepdims=True)
    return b.div(centred, b.add(b.sqrt(variance), 1e-9))
