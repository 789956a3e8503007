"""Matrix products and convolutions."""

from __future__ import annotations

from graphopt.capture.onnx.context import Context, Node, rank_of, static_shape
from graphopt.capture.onnx.ops.windows import window
from graphopt.capture.onnx.table import Results, entry
from graphopt.ir.graph import Value
from graphopt.ir.types import I32


@entry("MatMul")
def matmul(b: Context, n: Node) -> Results:
    return product_of(b, n[0], n[1])


def product_of(b: Context, x: Value, y: Value) -> Value:
    """numpy's matmul: vectors become matrices and lose the added dim afterwards."""
    left, right = len(rank_of(x)) == 1, len(rank_of(y)) == 1
    z = b.matmul(b.unsqueezed(x, [0]) if left else x, b.unsqueezed(y, [1]) if right else y)
    if not (left or right):
        return z
    dims = list(rank_of(z))
    if right:
        dims.pop(-1)
    if left:
        dims.pop(-1 if right else -2)
    return b.reshape(z, shape=dims)


@entry("Gemm")
def gemm(b: Context, n: Node) -> Results:
    x = b.transpose(n[0], perm=(1, 0)) if n.attr("transA", 0) else n[0]
    y = b.transpose(n[1], perm=(1, 0)) if n.attr("transB", 0) else n[1]
    z = b.matmul(x, y)
    alpha, beta = n.attr("alpha", 1.0), n.attr("beta", 1.0)
    z = z if alpha == 1.0 else b.mul(z, alpha)
    bias = n.get(2)
    if bias is None or beta == 0.0:
        return z
    return b.add(z, bias if beta == 1.0 else b.mul(bias, beta))


@entry("Conv")
def conv(b: Context, n: Node) -> Results:
    x, w, bias = n[0], n[1], n.get(2)
    win = window(n, rank_of(x)[2:], rank_of(w)[2:])
    return b.conv(x, w, bias, groups=n.attr("group", 1), **win.attrs())


@entry("ConvTranspose")
def conv_transpose(b: Context, n: Node) -> Results:
    """`output_shape` or auto_pad settle the pads; a negative one is more output at that end."""
    x, w, bias = n[0], n[1], n.get(2)
    k = len(rank_of(x)) - 2
    kernel = static_shape(w)[2:]
    stride = tuple(n.attr("strides", None) or [1] * k)
    dilation = tuple(n.attr("dilations", None) or [1] * k)
    extra = tuple(n.attr("output_padding", None) or [0] * k)
    pad = list(n.attr("pads", None) or [0] * (2 * k))
    auto, wanted = n.attr("auto_pad", "NOTSET") or "NOTSET", n.attr("output_shape", None)
    if wanted is not None or auto.startswith("SAME"):
        beyond = [extra[i] + (kernel[i] - 1) * dilation[i] + 1 - stride[i] for i in range(k)]  # of size * stride, which is SAME
        if wanted is not None:
            beyond = [more + size * s - d for more, size, s, d in zip(beyond, static_shape(x)[2:], stride, wanted[-k:])]
        for i, total in enumerate(beyond):
            if total < 0:
                extra = (*extra[:i], extra[i] - total, *extra[i + 1:])
                total = 0
            less, more = total // 2, total - total // 2
            pad[i], pad[i + k] = (less, more) if auto == "SAME_UPPER" else (more, less)
    return b.conv_transpose(x, w, bias, stride=stride, pad=pad, dilation=dilation, output_padding=extra,
                            groups=n.attr("group", 1))


@entry("DeformConv")
def deform_conv(b: Context, n: Node) -> Results:
    x, w, offset, bias, mask = n[0], n[1], n[2], n.get(3), n.get(4)
    win = window(n, rank_of(x)[2:], rank_of(w)[2:])
    return b.deform_conv(x, w, offset, bias, mask, groups=n.attr("group", 1), offset_groups=n.attr("offset_group", 1),
                         **win.attrs())


@entry("Col2Im")
def col2im(b: Context, n: Node) -> Results:
    n.need(1, 2)
    image, block = n.ints(1), n.ints(2)
    assert image is not None and block is not None
    k = len(image)
    return b.col2im(n[0], image=image, block=block, stride=n.attr("strides", None) or [1] * k,
                    pad=n.attr("pads", None) or [0] * (2 * k), dilation=n.attr("dilations", None) or [1] * k)


def centred(b: Context, x: Value, zero: Value | None, axis: int | None = None) -> Value:
    """An integer tensor as i32 less its zero point, which may be a vector along an axis."""
    wide = b.to(x, I32)
    if zero is None:
        return wide
    zero = b.to(zero, I32)
    if axis is not None and len(rank_of(zero)) == 1:
        zero = b.channelwise(zero, len(rank_of(x)), axis) if rank_of(zero) != (1,) else b.reshaped(zero, ())
    return b.sub(wide, zero)


@entry("MatMulInteger")
def matmul_integer(b: Context, n: Node) -> Results:
    x, y = n[0], n[1]
    rows = max(len(rank_of(x)) - 2, 0)
    return product_of(b, centred(b, x, n.get(2), rows), centred(b, y, n.get(3), max(len(rank_of(y)) - 1, 0)))


@entry("ConvInteger")
def conv_integer(b: Context, n: Node) -> Results:
    x, w = n[0], n[1]
    win = window(n, rank_of(x)[2:], rank_of(w)[2:])
    return b.conv(centred(b, x, n.get(2)), centred(b, w, n.get(3), 0), None, groups=n.attr("group", 1), **win.attrs())
