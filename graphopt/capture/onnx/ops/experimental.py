"""Experimental operators of ONNX's first opset, which old converters wrote and onnxruntime still runs."""

from __future__ import annotations

import numpy as np

from graphopt.capture.onnx.context import Context, Node, rank_of
from graphopt.capture.onnx.table import Results, entry


@entry("Affine")
def affine(b: Context, n: Node) -> Results:
    return b.add(b.mul(n[0], n.attr("alpha", 1.0)), n.attr("beta", 0.0))


@entry("Scale")
def scale(b: Context, n: Node) -> Results:
    return b.mul(n[0], n.attr("scale", 1.0))


@entry("ScaledTanh")
def scaled_tanh(b: Context, n: Node) -> Results:
    return b.mul(b.tanh(b.mul(n[0], n.attr("beta"))), n.attr("alpha"))


@entry("ParametricSoftplus")
def parametric_softplus(b: Context, n: Node) -> Results:
    """alpha * log(1 + exp(beta * x))"""
    return b.mul(b.softplus(b.mul(n[0], n.attr("beta")), beta=1.0, threshold=np.inf), n.attr("alpha"))


@entry("ImageScaler")
def image_scaler(b: Context, n: Node) -> Results:
    """x * scale, and a bias for each channel of [N, C, H, W]."""
    x = b.mul(n[0], n.attr("scale", 1.0))
    bias = np.asarray(n.attr("bias", None) or [0.0], np.float32)
    if bias.size != 1 and bias.size != rank_of(x)[1]:
        raise n.error(f"has {bias.size} elements of bias for {rank_of(x)[1]} channels")
    return b.add(x, b.const(bias.reshape(-1, 1, 1), x.dtype))


@entry("Crop")
def crop(b: Context, n: Node) -> Results:
    """[N, C, H, W] without its border (left, top, right, bottom), or of the size `scale` (height, width) from its left top on."""
    x, border, size = n[0], n.attr("border"), n.attr("scale", None)
    if len(border) != 4 or (size and len(size) != 2):
        raise n.error(f"border={border}, scale={size}", "border has 4 numbers, scale none or 2")
    left, top, right, bottom = border
    height, width = rank_of(x)[2:]
    ends = (top + size[0], left + size[1]) if size else (height - bottom, width - right)
    for end, start, dim in zip(ends, (top, left), (height, width)):
        if isinstance(end, int) and isinstance(dim, int) and not 0 <= start <= end <= dim:
            raise n.error(f"border={border}, scale={size} leave nothing of {height}x{width}")
    return b.slice(x, axes=(2, 3), starts=(top, left), ends=ends, steps=(1, 1))


@entry("DynamicSlice")
def dynamic_slice(b: Context, n: Node) -> Results:
    """As Slice-10, without steps."""
    from graphopt.capture.onnx.table import find

    slice_10 = find("", "Slice", 10)
    assert slice_10 is not None
    return slice_10(b, n)


@entry("GivenTensorFill")
def given_tensor_fill(b: Context, n: Node) -> Results:
    """The attribute `values` in the shape of the input (or the one that it holds, or that the attribute gives)."""
    values = np.asarray(n.attr("values"), np.float32)
    if n.get(0) is None:
        shape = tuple(n.attr("shape"))
    elif n.attr("input_as_shape", 0):
        shape = (*(n.ints(0) or ()), *(n.attr("extra_shape", None) or ()))
    else:
        shape = (*rank_of(n[0]), *(n.attr("extra_shape", None) or ()))
    return b.reshape(b.const(values), shape=shape)
