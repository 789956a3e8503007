"""QLinear operators: dequantise, compute in f32, quantise.

onnxruntime has tables and other orders of the same f32 arithmetic for some of them, and so another integer where the exact
value lies within some 1e-5 of the middle between two.
"""

from __future__ import annotations

from graphopt.capture.onnx.context import Context, Node, rank_of
from graphopt.capture.onnx.contrib.common import channels_first, channels_last, contrib, real, scalar, scale_at, stored
from graphopt.capture.onnx.ops.norm import flattened
from graphopt.capture.onnx.ops.windows import window
from graphopt.capture.onnx.table import Results
from graphopt.ir.graph import Value
from graphopt.ir.table import normalise_axes, normalise_axis
from graphopt.ir.types import BOOL, F32


@contrib("QLinearAdd", "QLinearMul", inputs=8)
def binary(b: Context, n: Node) -> Results:
    y = b.op("add" if n.kind == "QLinearAdd" else "mul", [real(b, n, 0), real(b, n, 3)]).result
    return stored(b, n, y, 6, n[0].dtype)


@contrib("QLinearSigmoid", inputs=5)
def sigmoid(b: Context, n: Node) -> Results:
    return stored(b, n, b.sigmoid(real(b, n, 0)), 3, n[0].dtype)


@contrib("QLinearLeakyRelu", inputs=5, attrs="alpha")
def leaky_relu(b: Context, n: Node) -> Results:
    return stored(b, n, b.leaky_relu(real(b, n, 0), alpha=n.attr("alpha", 0.01)), 3, n[0].dtype)


@contrib("QLinearSoftmax", inputs=5, attrs="axis opset")
def softmax(b: Context, n: Node) -> Results:
    """`opset` is that of the Softmax it was made of: before 13 all axes from `axis` on are one."""
    x = real(b, n, 0)
    if n.attr("opset") < 13:
        y = flattened(b, n, lambda v, axis: b.softmax(v, axis=axis), x, default=-1)
    else:
        y = b.softmax(x, axis=n.axis(-1, len(rank_of(x))))
    return stored(b, n, y, 3, n[0].dtype)


POOL = "kernel_shape strides pads auto_pad ceil_mode count_include_pad channels_last"


@contrib("QLinearAveragePool", inputs=5, attrs=POOL)
def average_pool(b: Context, n: Node) -> Results:
    x, last = real(b, n, 0), n.attr("channels_last", 0)
    x = channels_first(b, x) if last else x
    w = window(n, rank_of(x)[2:])
    y = b.avg_pool(x, kernel=w.kernel, **w.attrs(), ceil_mode=bool(n.attr("ceil_mode", 0)),
                   count_include_pad=bool(n.attr("count_include_pad", 0)))
    return stored(b, n, channels_last(b, y) if last else y, 3, n[0].dtype)


@contrib("QLinearGlobalAveragePool", inputs=5, attrs="channels_last")
def global_average_pool(b: Context, n: Node) -> Results:
    x = real(b, n, 0)
    first = 1 if n.attr("channels_last", 0) else 2
    axes = tuple(range(first, first + len(rank_of(x)) - 2))
    return stored(b, n, b.reduce_mean(x, axes=axes, keepdims=True), 3, n[0].dtype)


@contrib("QLinearReduceMean", inputs=5, attrs="axes keepdims")
def reduce_mean(b: Context, n: Node) -> Results:
    x = real(b, n, 0)
    axes = normalise_axes(n.attr("axes", None) or None, len(rank_of(x)))
    return stored(b, n, b.reduce_mean(x, axes=axes, keepdims=bool(n.attr("keepdims", 1))), 3, n[0].dtype)


@contrib("QLinearConcat", inputs=1 << 20, attrs="axis")
def concat(b: Context, n: Node) -> Results:
    """Scale and zero point of the result, then (x, scale, zero point) of each part. Parts quantised as the result are copied."""
    if len(n.inputs) < 5 or len(n.inputs) % 3 != 2:
        raise n.error(f"has {len(n.inputs)} operands: it takes a scale and a zero point, then three for each part")
    parts = []
    for i in range(2, len(n.inputs), 3):
        same = n.get(i + 1) is n.get(0) and n.get(i + 2) is n.get(1)
        parts.append(n[i] if same else stored(b, n, real(b, n, i), 0, n[i].dtype))
    return b.concat(*parts, axis=normalise_axis(n.attr("axis"), len(rank_of(n[2]))))


@contrib("QLinearWhere", inputs=9)
def where(b: Context, n: Node) -> Results:
    """The condition, then X and Y with their scales and zero points, then those of the result."""
    return stored(b, n, b.where(b.to(n[0], BOOL), real(b, n, 1), real(b, n, 4)), 7, n[1].dtype)


@contrib("QEmbedLayerNormalization", inputs=18, outputs=2, attrs="epsilon")
def embed_layer_norm(b: Context, n: Node) -> Results:
    """EmbedLayerNormalization of quantised tables; the operands' scales come from 8 on, their zero points from 13 on."""
    from graphopt.capture.onnx.contrib.norms import embedded

    def table(index: int, scale: int) -> Value:
        return b.dequantize(n[index], scale_at(b, n, scale), scalar(b, n, scale + 5), axis=0, to=F32)

    segments = None if n.get(4) is None else table(4, 10)
    return embedded(b, n, words=table(2, 8), positions=table(3, 9), segments=segments, gamma=table(5, 11), beta=table(6, 12),
                    mask=n.get(7), position_ids=None)[:2]
