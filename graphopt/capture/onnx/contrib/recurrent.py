"""The LSTM with quantised weights."""

from __future__ import annotations

from graphopt.capture.onnx.context import Context, Node, rank_of
from graphopt.capture.onnx.contrib.common import contrib
from graphopt.capture.onnx.ops.quant import dynamic_quantize
from graphopt.capture.onnx.ops.recurrent import ACTIVATIONS
from graphopt.capture.onnx.table import Results
from graphopt.ir.graph import Value
from graphopt.ir.types import F32, I32


@contrib("DynamicQuantizeLSTM", inputs=12, outputs=3,
         attrs="hidden_size direction activations activation_alpha activation_beta clip input_forget")
def dynamic_quantize_lstm(b: Context, n: Node) -> Results:
    """ONNX's LSTM with weights [directions, width, 4 hidden] of 8 bits, of inputs that are rounded to 8 bits over their range and
    states that are at every step, each sequence's over its own. (Where there are several sequences onnxruntime takes the range
    over as many of them as a thread has: its results depend on how many threads there are.)"""
    w, r = _weights(b, n, 1, 8), _weights(b, n, 2, 10)
    direction = n.attr("direction", "forward")
    directions = 2 if direction == "bidirectional" else 1
    hidden = n.attr("hidden_size", None) or rank_of(r)[-1]
    attrs = {"direction": direction, "activations": n.attr("activations", None) or ACTIVATIONS["LSTM"] * directions,
             "alphas": n.attr("activation_alpha", []), "betas": n.attr("activation_beta", []), "clip": n.attr("clip", None),
             "hidden": hidden, "input_forget": bool(n.attr("input_forget", 0)), "quantize_state": True}
    lengths = n.get(4)
    steps, scale, zero = dynamic_quantize(b, n[0])
    x = b.dequantize(steps, scale, zero, axis=0, to=F32)
    operands = [x, w, r, n.get(3), None if lengths is None else b.to(lengths, I32), n.get(5), n.get(6), n.get(7)]
    return list(b.op("lstm", operands, attrs).results)


def _weights(b: Context, n: Node, index: int, scale: int) -> Value:
    """[directions, 4 hidden, width] in f32. Scale and zero point are [directions] or [directions, 4 hidden]."""
    x = n[index]
    directions, _, width = rank_of(x)
    factor, zero = (_along(b, v, directions, width) for v in (n[scale], n.get(scale + 1)))
    assert factor is not None
    wide = b.cast(x, to=I32)
    if zero is not None:
        wide = b.sub(wide, b.cast(zero, to=I32))
    return b.transpose(b.mul(b.cast(wide, to=F32), factor), perm=(0, 2, 1))


def _along(b: Context, v: Value | None, directions: object, width: object) -> Value | None:
    if v is None:
        return None
    return b.reshape(v, shape=(directions, 1, width if len(rank_of(v)) == 2 else 1))
