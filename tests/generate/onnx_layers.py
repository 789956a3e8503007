"""Layers: convolutions, pools, resampling, norms and softmax."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.generate.onnx_draft import Draft, Skip, Value, proposal
from tests.generate.onnx_movement import pad


def image(d: Draft, spatial: int | None = None) -> Value:
    """A float tensor with channels and 1 to 3 spatial axes."""
    n = spatial or d.choice((1, 2, 2, 2, 3))
    sizes = lambda: tuple(d.choice((1, 2, 3, 5, 7, 8, 9, 12) if n < 3 else (1, 2, 3, 4, 5)) for _ in range(n))
    return d.pick(lambda v: v.is_float and v.rank == n + 2 and 0 not in v.shape,
                  lambda: d.leaf(d.float_type(), (d.integer(1, 2), d.choice((1, 2, 3, 4, 6, 8)), *sizes())))


def window(d: Draft, v: Value, dilated: bool = True) -> tuple[list[int], dict[str, Any]]:
    """A kernel that fits into the padded image, and its attributes."""
    n = v.rank - 2
    kernel = [d.choice((1, 2, 3, 3, 4, 5)) for _ in range(n)]
    attrs: dict[str, Any] = {}
    dilation = [1] * n
    if d.chance(0.5):
        attrs["strides"] = [d.choice((1, 1, 2, 3)) for _ in range(n)]
    if dilated and d.chance(0.25):
        attrs["dilations"] = dilation = [d.choice((1, 2, 3)) for _ in range(n)]
    if d.chance(0.2):
        attrs["auto_pad"] = d.choice(("SAME_UPPER", "SAME_LOWER", "VALID"))
        pads = [0] * 2 * n
    elif d.chance(0.6):
        attrs["pads"] = pads = [d.integer(0, min(2, k - 1)) for _ in "ab" for k in kernel]
    else:
        pads = [0] * 2 * n
    for k in range(n):
        while kernel[k] > 1 and (kernel[k] - 1) * dilation[k] + 1 > v.shape[2 + k] + pads[k] + pads[n + k]:
            kernel[k] -= 1
            for side in (k, n + k):
                pads[side] = min(pads[side], kernel[k] - 1)
    return kernel, attrs


def groups(d: Draft, channels: int) -> int:
    return 1 if d.chance(0.5) else d.choice([g for g in range(1, channels + 1) if channels % g == 0])


@proposal(3)
def conv(d: Draft, v: Value | None = None) -> Value:
    v = v or image(d)
    if v.rank < 3 or not v.is_float:
        raise Skip
    kernel, attrs = window(d, v)
    c = v.shape[1]
    g = groups(d, c)
    m = g * d.choice((1, 1, 2, 3))
    w = d.leaf(v.dtype, (m, c // g, *kernel), constant=0.85)
    more = [d.leaf(v.dtype, (m,), constant=0.9)] if d.chance(0.6) else []
    if g > 1 or d.chance(0.2):
        attrs["group"] = g
    if d.chance(0.5):
        attrs["kernel_shape"] = kernel
    return d.node("Conv", [v, w, *more], **attrs)[0]


@proposal(0.8)
def conv_after_pad(d: Draft) -> Value:
    return conv(d, pad(d, image(d)))


@proposal(0.8)
def norm_after_conv(d: Draft) -> Value:
    v = conv(d)
    y = batch_norm(d, v)
    return d.node(d.choice(("Relu", "Sigmoid", "LeakyRelu")), [y])[0] if d.chance(0.6) else y


@proposal(1.2)
def conv_transpose(d: Draft) -> Value:
    v = image(d)
    n = v.rank - 2
    kernel, attrs = window(d, v)
    c = v.shape[1]
    g = groups(d, c)
    m = d.choice((1, 2, 3))
    w = d.leaf(v.dtype, (c, m, *kernel), constant=0.85)
    more = [d.leaf(v.dtype, (g * m,), constant=0.9)] if d.chance(0.6) else []
    strides = attrs.get("strides", [1] * n)
    if any(s > 1 for s in strides) and d.chance(0.3):
        attrs["output_padding"] = [d.integer(0, s - 1) for s in strides]
    return d.node("ConvTranspose", [v, w, *more], group=g, **attrs)[0]


@proposal(2)
def pool(d: Draft) -> Value:
    v = image(d)
    op = d.choice(("MaxPool", "AveragePool", "AveragePool", "LpPool"))
    if op == "LpPool" and d.chance(0.6):
        raise Skip
    if op == "MaxPool" and np.isnan(v.array).any():
        raise Skip  # both references lose a NaN that is not first in its window, PyTorch keeps it, and so do we
    kernel, attrs = window(d, v, dilated=op == "MaxPool" or d.opset >= 19 or (op == "LpPool" and d.opset >= 18))
    steps = zip(v.shape[2:], kernel, attrs.get("strides", kernel))
    if any(s > k and (-(-n // s) - 1) * s + k < n for n, k, s in steps) and attrs.get("auto_pad", "VALID") != "VALID":
        raise Skip  # padding below nothing: onnxruntime crops in f64 and where dilated, but not in f32; we never do
    if d.chance(0.35) and "auto_pad" not in attrs and (op != "LpPool" or d.opset >= 18):
        attrs["ceil_mode"] = 1
    if op == "AveragePool" and d.chance(0.5):
        attrs["count_include_pad"] = 1
    if op == "LpPool":
        attrs["p"] = d.integer(1, 3)
    return d.node(op, [v], exact=op == "MaxPool", kernel_shape=kernel, **attrs)[0]


@proposal(0.7)
def global_pool(d: Draft) -> Value:
    return d.node(d.choice(("GlobalAveragePool", "GlobalMaxPool", "GlobalAveragePool")), [image(d)])[0]


@proposal(2)
def resize(d: Draft, v: Value | None = None) -> Value:
    v = v or image(d)
    n = v.rank - 2
    mode = d.choice(("nearest", "nearest", "linear", "linear", *(("cubic",) if n == 2 else ())))
    attrs: dict[str, Any] = {"mode": mode}
    ways = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]
    ways += ["half_pixel_symmetric"] if d.opset >= 19 else []
    if d.chance(0.8):
        attrs["coordinate_transformation_mode"] = d.choice(ways)
    if mode == "nearest" and d.chance(0.7):
        attrs["nearest_mode"] = d.choice(("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"))
    if mode == "cubic":
        attrs["cubic_coeff_a"] = d.choice((-0.75, -0.5))
        attrs["exclude_outside"] = d.integer(0, 1)
    if mode != "nearest" and d.opset >= 18 and d.chance(0.2):
        attrs["antialias"] = 1
    roi: Value | None = d.constant(np.zeros(0, np.float32)) if d.opset < 13 else None
    if d.chance(0.5):
        scales = [1.0, 1.0] + [d.choice((1, 2, 3, 0.5, 1.5, 0.7, 1.4, 2.3)) for _ in range(n)]
        if d.opset >= 18 and d.chance(0.3):
            attrs["axes"] = list(range(2, v.rank))
            scales = scales[2:]
        return d.node("Resize", [v, roi, d.constant(np.array(scales, np.float32))], exact=mode == "nearest", **attrs)[0]
    sizes = [*v.shape[:2], *(d.integer(1, 2 * m + 1) for m in v.shape[2:])]
    if d.opset >= 18 and d.chance(0.3):
        attrs["axes"] = list(range(2, v.rank))
        sizes = sizes[2:]
        if d.chance(0.4):
            attrs["keep_aspect_ratio_policy"] = d.choice(("not_larger", "not_smaller", "stretch"))
    none = d.constant(np.zeros(0, np.float32)) if d.opset < 13 else None
    return d.node("Resize", [v, roi, none, d.ints(sizes)], exact=mode == "nearest", **attrs)[0]


@proposal(0.5)
def grid_sample(d: Draft) -> Value:
    if d.opset < 16:
        raise Skip
    v = image(d, 2)
    if v.dtype != np.float32:
        raise Skip
    grid = d.leaf(np.float32, (v.shape[0], d.integer(1, 5), d.integer(1, 5), 2), constant=0.5)
    modes = ("linear", "nearest", "cubic") if d.opset >= 20 else ("bilinear", "nearest", "bicubic")
    return d.node("GridSample", [v, grid], mode=d.choice(modes), padding_mode=d.choice(("zeros", "border", "reflection")),
                  align_corners=d.integer(0, 1))[0]


def norm_noise(x: np.ndarray, axes: tuple[int, ...], scale: np.ndarray, eps: float, stash: bool = False) -> float:
    """The rounding of x - mean, which is nearly all of it where a row is nearly constant, by what it is then multiplied.

    `stash`: the specification computes in f32, whatever the dtype.
    """
    with np.errstate(all="ignore"):
        wide = x.astype(np.float64)
        factor = np.abs(wide).max(axes, keepdims=True, initial=0) / np.sqrt(wide.var(axes, keepdims=True) + eps)
        most = np.nanmax(np.abs(scale.astype(np.float64)), initial=0)
        dtype = np.float32 if stash and x.dtype == np.float64 else x.dtype
        noise = 2 * float(np.finfo(dtype).eps) * np.nanmax(factor, initial=0) * most
    return float(noise) if np.isfinite(noise) else 0.0


def batch_norm(d: Draft, v: Value) -> Value:
    c = v.shape[1]
    scale, bias, mean = (d.leaf(v.dtype, (c,), constant=0.9) for _ in range(3))
    var = d.leaf(v.dtype, (c,), np.asarray(np.abs(d.numbers.standard_normal(c)) + 0.2, v.dtype), constant=0.9)
    with np.errstate(all="ignore"):
        most = np.abs(mean.array.astype(np.float64)) + np.abs(v.array).max(initial=0)
        terms = most * np.abs(scale.array) / np.sqrt(var.array)
        noise = 4 * float(np.finfo(v.dtype).eps) * float(np.nanmax(terms, initial=0, where=np.isfinite(terms)))
    attrs = {"epsilon": 0.01} if d.chance(0.3) else {}
    if d.opset < 14:
        attrs["momentum"] = 1.0  # what the batch has no part in: ONNX's reference mixes its statistics in, by the default of 0.9
    return d.node("BatchNormalization", [v, scale, bias, mean, var], noise=noise, **attrs)[0]


@proposal(1)
def batch_normalization(d: Draft) -> Value:
    return batch_norm(d, d.floats(2, 5))


@proposal(1.6)
def layer_norm(d: Draft) -> Value:
    if d.opset < 17:
        raise Skip
    v = d.floats(1, 5)
    axis = d.integer(0, v.rank - 1) if d.chance(0.4) else v.rank - 1
    kept = v.shape[axis:]

    def operand() -> Value:
        p = d.random.random()
        shape = kept if p < 0.5 else d.broadcasting(kept) if p < 0.8 else d.broadcasting(v.shape)
        return d.leaf(v.dtype, shape, constant=0.7)

    op = "RMSNormalization" if d.opset >= 23 and d.chance(0.5) else "LayerNormalization"
    scale = operand()
    more = [operand()] if op == "LayerNormalization" and d.chance(0.6) else []
    attrs = {"epsilon": d.choice((1e-5, 0.01, 0.1))} if d.chance(0.6) else {}
    noise = norm_noise(v.array, tuple(range(axis, v.rank)), scale.array, attrs.get("epsilon", 1e-5), stash=True)
    return d.node(op, [v, scale, *more], noise=noise, axis=axis - v.rank if d.chance(0.4) else axis, **attrs)[0]


@proposal(1)
def group_or_instance_norm(d: Draft) -> Value:
    v = image(d)
    c = v.shape[1]
    attrs = {"epsilon": 0.01} if d.chance(0.6) else {}
    g = c if d.chance(0.5) or d.opset < 18 else d.choice([g for g in range(1, c + 1) if c % g == 0])
    n = c if d.opset >= 21 or g == c else g
    scale, bias = (d.leaf(v.dtype, (n,), constant=0.8) for _ in "ab")
    stash = g != c and d.opset >= 21
    noise = norm_noise(v.array.reshape(v.shape[0], g, -1), (2,), scale.array, attrs.get("epsilon", 1e-5), stash)
    if g == c:
        return d.node("InstanceNormalization", [v, scale, bias], noise=noise, **attrs)[0]
    return d.node("GroupNormalization", [v, scale, bias], noise=noise, num_groups=g, **attrs)[0]


@proposal(0.7)
def other_norm(d: Draft) -> Value:
    op = d.choice(("LpNormalization", "MeanVarianceNormalization", "LRN"))
    if op == "LpNormalization":
        v = d.floats(1, 4)
        return d.node(op, [v], axis=d.integer(-v.rank, v.rank - 1), p=d.integer(1, 2))[0]
    v = image(d, 2)
    if op == "LRN":
        return d.node(op, [v], size=d.choice((1, 2, 3, 5)), alpha=0.01, beta=d.choice((0.5, 0.75)), bias=d.choice((1.0, 2.0)))[0]
    axes = d.choice(([0, 2, 3], [2, 3], [1], [-1]))
    return d.node(op, [v], noise=norm_noise(v.array, tuple(axes), np.ones(1), 1e-9), axes=axes)[0]


@proposal(1.2)
def softmax(d: Draft) -> Value:
    v = d.floats(1, 5)
    op = d.choice(("Softmax", "Softmax", "LogSoftmax", "Hardmax"))
    attrs = {} if d.chance(0.15) else {"axis": d.integer(-v.rank, v.rank - 1)}
    return d.node(op, [v], exact=op == "Hardmax" and not v.err, **attrs)[0]
