"""Contractions: matrix product, convolutions, and the column-to-image sum that unfolds them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from graphopt.ir.dims import DimLike, Shape, product
from graphopt.ir.ops.numeric import widen
from graphopt.ir.ops.windows import (
    check_window,
    exact_matmul,
    pad_spatial,
    positions,
    scatter_windows,
    window_counts,
    window_dims,
    windows,
)
from graphopt.ir.table import Operands, Trait, broadcast_dims, f32_or_wider, first_rows, op


def _matmul_shape(o: Operands) -> Shape:
    a, b = o.a.shape, o.b.shape
    if len(a) < 2 or len(b) < 2:
        raise o.fail(f"needs rank 2 or more on both sides, got {o.a} and {o.b}")
    if isinstance(a[-1], int) and isinstance(b[-2], int) and a[-1] != b[-2]:
        raise o.fail(f"{o.a} has {a[-1]} columns, {o.b} has {b[-2]} rows")
    return (*broadcast_dims([a[:-2], b[:-2]]), a[-2], b[-1])


def _matmul_operations(o: Operands, results) -> DimLike:
    return 2 * results[0].size * o.a.shape[-1]


def _matmul_rows(o: Operands) -> Sequence[int]:
    batch = broadcast_dims([o.a.shape[:-2], o.b.shape[:-2]])
    if not batch:
        return (0,)
    return [k for k, t in enumerate((o.a, o.b)) if len(t.shape) == len(batch) + 2 and t.shape[0] == batch[0]]


@op("matmul(a: T, b: T) -> T", T="number", shape=_matmul_shape, traits=Trait.CONTRACTION, sums=f32_or_wider,
    operations=_matmul_operations,
    rows=_matmul_rows)
def matmul(a, b):
    """Matrix product of the last two axes, [..., M, K] by [..., K, N]; the axes before them broadcast.

    Floats accumulate in f32 or wider and round once; integers wrap around.
    """
    return exact_matmul(a, b)


def _check_channels(o: Operands, have: DimLike, need: DimLike, what: str) -> None:
    if isinstance(have, int) and isinstance(need, int) and have != need:
        raise o.fail(f"{what}: {have}, but {need} are needed")


def _spatial_rank(o: Operands, ranks: range = range(1, 4)) -> int:
    spatial = o.x.rank - 2
    if spatial not in ranks:
        raise o.fail(f"x must be [N, C, {ranks[0]} to {ranks[-1]} spatial dims], got {o.x}")
    if o.w.rank != o.x.rank:
        raise o.fail(f"the weight {o.w} must have the rank of x, {o.x}")
    if o.groups < 1:
        raise o.fail(f"groups={o.groups} must be positive")
    return spatial


def _check_bias(o: Operands, channels: DimLike) -> None:
    if o.bias is not None:
        if o.bias.rank != 1:
            raise o.fail(f"the bias must have rank 1, got {o.bias}")
        _check_channels(o, o.bias.shape[0], channels, "entries of the bias")


def _conv_shape(o: Operands) -> Shape:
    spatial = _spatial_rank(o)
    check_window(o, spatial, stride=o.stride, pad=o.pad, dilation=o.dilation)
    x, w = o.x.shape, o.w.shape
    _check_channels(o, x[1], w[1] * o.groups, "channels of x")
    if isinstance(w[0], int) and w[0] % o.groups:
        raise o.fail(f"{w[0]} filters do not divide into {o.groups} groups")
    _check_bias(o, w[0])
    return (x[0], w[0], *window_dims(o, x[2:], w[2:], o.stride, o.pad, o.dilation))


def _conv_operations(o: Operands, results) -> DimLike:
    return 2 * results[0].size * product(o.w.shape[1:])


def _add_bias(y: np.ndarray, bias: np.ndarray | None, like: np.ndarray) -> np.ndarray:
    if bias is not None:
        y = y + widen(bias).reshape(-1, *[1] * (y.ndim - 2))
    return y.astype(like.dtype)


def _convolve(columns: np.ndarray, w: np.ndarray, groups: int) -> np.ndarray:
    """[N, C, *out, *kernel] windows with filters [O, C/groups, *kernel] -> [N, O, *out], in the windows' dtype."""
    n, c = columns.shape[:2]
    spatial = w.ndim - 2
    out, kernel = columns.shape[2:2 + spatial], columns.shape[2 + spatial:]
    order = (0, 1, *range(2 + spatial, 2 + 2 * spatial), *range(2, 2 + spatial))
    inner = c // groups * math.prod(kernel)
    flat = columns.transpose(order).reshape(n, groups, inner, math.prod(out))
    filters = w.reshape(1, groups, w.shape[0] // groups, inner)
    return exact_matmul(filters, flat).reshape(n, w.shape[0], *out)


@op("conv(x: T, w: T, bias?: T; stride: ints, pad: ints, dilation: ints, groups: int = 1) -> T", T="number",
    shape=_conv_shape, traits=Trait.CONTRACTION, sums=f32_or_wider, operations=_conv_operations, rows=first_rows)
def conv(x, w, bias=None, *, stride, pad, dilation, groups):
    """Cross-correlation of x [N, C, 1 to 3 spatial dims] with w [O, C/groups, kernel] (ONNX Conv, torch conv1d to 3d).

    `pad` is zeros, all beginnings then all ends. Floats accumulate in f32 or wider and round once, bias
    included; integers wrap around.
    """
    kernel = w.shape[2:]
    out = window_counts(x.shape[2:], kernel, stride, pad, dilation)
    columns = windows(pad_spatial(widen(x), pad, 0), out, kernel, stride, dilation)
    return _add_bias(_convolve(columns, widen(w), groups), bias, x)


def _conv_transpose_shape(o: Operands) -> Shape:
    spatial = _spatial_rank(o)
    check_window(o, spatial, stride=o.stride, pad=o.pad, dilation=o.dilation, output_padding=o.output_padding)
    x, w = o.x.shape, o.w.shape
    _check_channels(o, x[1], w[0], "channels of x")
    if isinstance(x[1], int) and x[1] % o.groups:
        raise o.fail(f"{x[1]} channels do not divide into {o.groups} groups")
    _check_bias(o, w[1] * o.groups)
    out = [(x[2 + i] - 1) * o.stride[i] - o.pad[i] - o.pad[spatial + i] + o.dilation[i] * (w[2 + i] - 1)
           + o.output_padding[i] + 1 for i in range(spatial)]
    if any(isinstance(d, int) and d < 0 for d in out):
        raise o.fail(f"pad={list(o.pad)} crops more than the result has: {[str(d) for d in out]}")
    return (x[0], w[1] * o.groups, *out)


def _conv_transpose_operations(o: Operands, results) -> DimLike:
    return 2 * o.x.size * product(o.w.shape[1:])


@op("conv_transpose(x: T, w: T, bias?: T; stride: ints, pad: ints, dilation: ints, output_padding: ints, groups: int = 1) -> T",
    T="float", shape=_conv_transpose_shape, traits=Trait.CONTRACTION, sums=f32_or_wider,
    operations=_conv_transpose_operations, rows=first_rows)
def conv_transpose(x, w, bias=None, *, stride, pad, dilation, output_padding, groups):
    """The gradient of `conv` with respect to its input: x [N, Cin, ...] with w [Cin, Cout/groups, kernel].

    out = (in - 1) * stride - pad_begin - pad_end + dilation * (kernel - 1) + output_padding + 1; `pad` crops
    (a negative one extends by zeros), `output_padding` extends the end (ONNX ConvTranspose, torch conv_transpose).
    """
    spatial = x.ndim - 2
    n, c, kernel, sizes = x.shape[0], x.shape[1], w.shape[2:], x.shape[2:]
    per_group = w.shape[1]
    flat = widen(x).reshape(n, groups, c // groups, math.prod(sizes))
    filters = widen(w).reshape(1, groups, c // groups, per_group * math.prod(kernel))
    columns = np.matmul(filters.swapaxes(-1, -2), flat).reshape(n, groups * per_group, *kernel, *sizes)
    out = [(sizes[i] - 1) * stride[i] - pad[i] - pad[spatial + i] + dilation[i] * (kernel[i] - 1) + output_padding[i] + 1
           for i in range(spatial)]
    return _add_bias(scatter_windows(columns, out, kernel, stride, pad, dilation), bias, x)


def _deform_conv_shape(o: Operands) -> Shape:
    _spatial_rank(o, range(2, 3))
    shape = _conv_shape(o)
    kernel = product(o.w.shape[2:])
    if o.offset_groups < 1:
        raise o.fail(f"offset_groups={o.offset_groups} must be positive")
    for given, channels, name in ((o.offset, 2 * kernel * o.offset_groups, "offset"), (o.mask, kernel * o.offset_groups, "mask")):
        if given is None:
            continue
        wanted = (shape[0], channels, *shape[2:])
        if given.rank != 4 or any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in zip(given.shape, wanted)):
            raise o.fail(f"{name} is {given}, it must be [{', '.join(map(str, wanted))}]")
    return shape


@op("deform_conv(x: T, w: T, offset: T, bias?: T, mask?: T; stride: ints, pad: ints, dilation: ints, groups: int = 1, "
    "offset_groups: int = 1) -> T", T="float", shape=_deform_conv_shape, traits=Trait.CONTRACTION, sums=f32_or_wider,
    operations=_conv_operations, rows=lambda o: (0, 2, 4) if o.mask is not None else (0, 2))
def deform_conv(x, w, offset, bias=None, mask=None, *, stride, pad, dilation, groups, offset_groups):
    """Deformable convolution v2 (Dai et al. 2017, Zhu et al. 2018; ONNX DeformConv, torchvision deform_conv2d), 2-D.

    offset [N, offset_groups*kh*kw*2, oh, ow] moves each tap by (dy, dx); taps are sampled bilinearly, zero
    outside the input; mask [N, offset_groups*kh*kw, oh, ow] scales them.
    """
    n, c, height, width = x.shape
    kh, kw = w.shape[2:]
    oh, ow = window_counts(x.shape[2:], (kh, kw), stride, pad, dilation)
    source = widen(x).reshape(n, offset_groups, c // offset_groups, height * width)
    moves = widen(offset).reshape(n, offset_groups, kh * kw, 2, oh, ow)
    scale = None if mask is None else widen(mask).reshape(n, offset_groups, kh * kw, oh, ow)
    columns = np.zeros((n, offset_groups, c // offset_groups, kh * kw, oh, ow), source.dtype)
    for tap, (i, j) in enumerate(positions((kh, kw))):
        y = moves[:, :, tap, 0] + (np.arange(oh) * stride[0] - pad[0] + i * dilation[0])[:, None].astype(source.dtype)
        z = moves[:, :, tap, 1] + (np.arange(ow) * stride[1] - pad[1] + j * dilation[1])[None, :].astype(source.dtype)
        y0, z0 = np.floor(y), np.floor(z)
        total = np.zeros((n, offset_groups, c // offset_groups, oh * ow), source.dtype)
        for yy, wy in ((y0, y0 + 1 - y), (y0 + 1, y - y0)):
            for zz, wz in ((z0, z0 + 1 - z), (z0 + 1, z - z0)):
                inside = (yy >= 0) & (yy < height) & (zz >= 0) & (zz < width)
                at = np.where(inside, yy * width + zz, 0).astype(np.int64).reshape(n, offset_groups, 1, oh * ow)
                weight = np.where(inside, wy * wz, 0).reshape(n, offset_groups, 1, oh * ow)
                if source.shape[-1]:
                    total += np.take_along_axis(source, at, axis=-1) * weight
        total = total.reshape(n, offset_groups, c // offset_groups, oh, ow)
        columns[:, :, :, tap] = total if scale is None else total * scale[:, :, None, tap]
    # [N, C, kh*kw, oh, ow] -> windows [N, C, oh, ow, kh, kw]
    taps = columns.reshape(n, c, kh, kw, oh, ow).transpose(0, 1, 4, 5, 2, 3)
    return _add_bias(_convolve(taps, widen(w), groups), bias, x)


def _col2im_shape(o: Operands) -> Shape:
    spatial = len(o.block)
    if o.x.rank != 3:
        raise o.fail(f"x must be [N, C * block, L], got {o.x}")
    check_window(o, spatial, image=o.image, stride=o.stride, pad=o.pad, dilation=o.dilation)
    count = math.prod(o.block)
    n, c, length = o.x.shape
    if isinstance(c, int) and c % count:
        raise o.fail(f"{c} rows are not a multiple of the block's {count}")
    blocks = math.prod(window_counts(o.image, o.block, o.stride, o.pad, o.dilation))
    _check_channels(o, length, blocks, "columns of x")
    return (n, c // count, *o.image)


@op("col2im(x: T; image: ints, block: ints, stride: ints, pad: ints, dilation: ints) -> T", T="number", shape=_col2im_shape)
def col2im(x, *, image, block, stride, pad, dilation):
    """Sum the columns [N, C*prod(block), L] back into an image [N, C, *image] (ONNX Col2Im, torch fold)."""
    n, c = x.shape[0], x.shape[1] // math.prod(block)
    counts = window_counts(image, block, stride, pad, dilation)
    columns = widen(x).reshape(n, c, *block, *counts)
    return scatter_windows(columns, image, block, stride, pad, dilation).astype(x.dtype)
