"""Products and convolutions with what onnxruntime fuses into them."""

from __future__ import annotations

from graphopt.capture.onnx.context import Context, Node, rank_of
from graphopt.capture.onnx.contrib.activations import activated
from graphopt.capture.onnx.contrib.common import channels_first, channels_last, contrib
from graphopt.capture.onnx.ops.contract import gemm, product_of
from graphopt.capture.onnx.ops.windows import window
from graphopt.capture.onnx.table import Results
from graphopt.ir.graph import Value

MATMUL = "alpha transA transB transBatchA transBatchB"


@contrib("TransposeMatMul", "FusedMatMul", inputs=2, attrs=MATMUL)
def fused_matmul(b: Context, n: Node) -> Results:
    """alpha * op(A) op(B). With `transBatch` the rows are the first axis, and the batch lies between them and the columns."""
    x = _oriented(b, n[0], n.attr("transA", 0), n.attr("transBatchA", 0))
    y = _oriented(b, n[1], n.attr("transB", 0), n.attr("transBatchB", 0))
    z, alpha = product_of(b, x, y), n.attr("alpha", 1.0)
    return z if alpha == 1.0 else b.mul(z, alpha)


def _oriented(b: Context, x: Value, swap: int, batch: int) -> Value:
    """Vectors stay as they are."""
    rank = len(rank_of(x))
    if rank < 2:
        return x
    perm = [*range(1, rank - 1), 0, rank - 1] if batch else list(range(rank))
    if swap:
        perm[-2], perm[-1] = perm[-1], perm[-2]
    return b.permuted(x, perm)


@contrib("FusedMatMulActivation", inputs=2,
         attrs=f"{MATMUL} activation activation_alpha activation_beta activation_gamma activation_axis")
def fused_matmul_activation(b: Context, n: Node) -> Results:
    y, name = fused_matmul(b, n), n.attr("activation")
    assert isinstance(y, Value)
    if name == "Softmax":
        return b.softmax(y, axis=n.axis(-1, len(rank_of(y)), "activation_axis"))
    return activated(b, n, y, name, _parameters(n))


@contrib("FusedGemm", inputs=3, attrs="alpha beta transA transB activation activation_alpha activation_beta activation_gamma")
def fused_gemm(b: Context, n: Node) -> Results:
    y = gemm(b, n)
    assert isinstance(y, Value)
    return activated(b, n, y, n.attr("activation", ""), _parameters(n))


def _parameters(n: Node) -> list[float]:
    """alpha, then beta or gamma, whichever the activation has."""
    second = "activation_gamma" if n.attr("activation", "") == "Selu" else "activation_beta"
    return [n.attr(name) for name in ("activation_alpha", second) if name in n.attrs]


CONV = "group pads strides dilations kernel_shape auto_pad activation activation_params"


@contrib("FusedConv", inputs=4, attrs=CONV)
def fused_conv(b: Context, n: Node) -> Results:
    """activation(conv(X, W) + B + Z)."""
    return _convolved(b, n, n[0], n.get(3))


@contrib("NhwcConv", "NhwcFusedConv", inputs=4, attrs=CONV)
def nhwc_fused_conv(b: Context, n: Node) -> Results:
    """The same with images and Z channels last; the weights lie as in Conv."""
    z = n.get(3)
    return channels_last(b, _convolved(b, n, channels_first(b, n[0]), None if z is None else channels_first(b, z)))


def _convolved(b: Context, n: Node, x: Value, z: Value | None) -> Value:
    w = n[1]
    win = window(n, rank_of(x)[2:], rank_of(w)[2:])
    y = b.conv(x, w, n.get(2), groups=n.attr("group", 1), **win.attrs())
    y = y if z is None else b.add(y, z)
    return activated(b, n, y, n.attr("activation", ""), n.attr("activation_params", []))
