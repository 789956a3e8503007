"""Products of integers with scales, and quantisation of single tensors."""

from __future__ import annotations

from graphopt.capture.onnx.context import Context, Node, rank_of
from graphopt.capture.onnx.contrib.common import channels_first, channels_last, contrib, replaced, scalar, scale_at
from graphopt.capture.onnx.ops.contract import centred, product_of
from graphopt.capture.onnx.ops.quant import dequantize, dynamic_quantize, qlinear_conv, quantize
from graphopt.capture.onnx.table import Results
from graphopt.ir.graph import Value
from graphopt.ir.table import normalise_axes
from graphopt.ir.types import F32, I32, U32


@contrib("QuantizeLinear", inputs=3, attrs="axis")
def quantize_linear(b: Context, n: Node) -> Results:
    return quantize(b, n)


@contrib("DequantizeLinear", inputs=3, attrs="axis")
def dequantize_linear(b: Context, n: Node) -> Results:
    return dequantize(b, n)


@contrib("QLinearConv", inputs=9, attrs="kernel_shape strides pads dilations auto_pad group channels_last")
def qlinear_conv_last(b: Context, n: Node) -> Results:
    """ONNX's, or the same with images channels last."""
    if not n.attr("channels_last", 0):
        return qlinear_conv(b, n)
    y = qlinear_conv(b, replaced(n, x0=channels_first(b, n[0])))
    assert isinstance(y, Value)
    return channels_last(b, y)


@contrib("QGemm", inputs=9, attrs="alpha transA transB")
def qgemm(b: Context, n: Node) -> Results:
    """alpha (A - a0) (B - b0) a_scale b_scale + C, C being i32 of that scale; quantised where y_scale is given, else f32."""
    x, y, bias = centred(b, n[0], scalar(b, n, 2)), n[3], n.get(6)
    y = centred(b, y, n.get(5), 0 if n.attr("transB", 0) else 1)
    x = b.transpose(x, perm=(1, 0)) if n.attr("transA", 0) else x
    y = b.transpose(y, perm=(1, 0)) if n.attr("transB", 0) else y
    total = b.matmul(x, y)
    total = total if bias is None else b.add(total, b.to(bias, I32))
    factor, alpha = b.mul(scale_at(b, n, 1), n[4]), n.attr("alpha", 1.0)
    out = b.mul(b.cast(total, to=F32), factor if alpha == 1.0 else b.mul(factor, alpha))
    if n.get(7) is None:
        return out
    zero = scalar(b, n, 8)
    return b.quantize(out, scalar(b, n, 7), zero, axis=0, to=n[0].dtype if zero is None else zero.dtype)


@contrib("MatMulIntegerToFloat", inputs=7)
def matmul_integer_to_float(b: Context, n: Node) -> Results:
    """(A - a0) (B - b0) a_scale b_scale + bias. Scales and zero points of B may lie along its columns."""
    return _scaled_product(b, n, n[0], n.get(4), n[1], n.get(5), n[2], n[3], n.get(6))


@contrib("DynamicQuantizeMatMul", inputs=5)
def dynamic_quantize_matmul(b: Context, n: Node) -> Results:
    """A is quantised to u8 over its range (DynamicQuantizeLinear), then multiplied as in MatMulIntegerToFloat."""
    x, scale, zero = dynamic_quantize(b, n[0])
    return _scaled_product(b, n, x, zero, n[1], n.get(3), scale, n[2], n.get(4))


def _scaled_product(b: Context, n: Node, x: Value, x_zero: Value | None, y: Value, y_zero: Value | None, x_scale: Value,
                    y_scale: Value, bias: Value | None) -> Value:
    if x_zero is not None and rank_of(x_zero) not in ((), (1,)):
        raise n.error(f"the zero point of A is {x_zero.type}: one for the whole tensor is supported")
    x = centred(b, x, None if x_zero is None else b.reshaped(x_zero, ()))
    y = centred(b, y, y_zero, len(rank_of(y)) - 1)
    if rank_of(x_scale) == (1,):
        x_scale = b.reshaped(x_scale, ())
    if rank_of(y_scale) == (1,):
        y_scale = b.reshaped(y_scale, ())
    out = b.cast(product_of(b, x, y), to=F32)
    if rank_of(x_scale):  # numpy's broadcasting against the result, as onnxruntime does it
        out = b.mul(b.mul(out, x_scale), y_scale)
    else:
        out = b.mul(out, b.mul(x_scale, y_scale))
    return out if bias is None else b.add(out, bias)


@contrib("MatMulInteger16", inputs=2)
def matmul_integer16(b: Context, n: Node) -> Results:
    """Products of 16-bit integers in i32 (u32 where both are unsigned), which wraps."""
    unsigned = n[0].dtype.kind == n[1].dtype.kind == "uint"
    to = U32 if unsigned else I32
    return product_of(b, b.to(n[0], to), b.to(n[1], to))


@contrib("MulInteger", inputs=4)
def mul_integer(b: Context, n: Node) -> Results:
    return b.mul(centred(b, n[0], scalar(b, n, 1)), centred(b, n[2], scalar(b, n, 3)))


@contrib("ReduceSumInteger", inputs=1, attrs="axes keepdims")
def reduce_sum_integer(b: Context, n: Node) -> Results:
    to = U32 if n[0].dtype.kind == "uint" else I32
    axes = normalise_axes(n.attr("axes", None) or None, len(rank_of(n[0])))
    return b.reduce_sum(b.to(n[0], to), axes=axes, keepdims=bool(n.attr("keepdims", 1)))
