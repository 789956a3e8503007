"""LSTM, GRU and RNN."""

from __future__ import annotations

from graphopt.capture.onnx.context import Context, Node, rank_of
from graphopt.capture.onnx.table import Results, entry
from graphopt.ir.graph import Value
from graphopt.ir.types import I32

ACTIVATIONS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}


@entry("LSTM", "GRU", "RNN")
def recurrent(b: Context, n: Node) -> Results:
    """With layout=1 the batch comes first in the operands and the results."""
    x, w, r, bias, lengths = n[0], n[1], n[2], n.get(3), n.get(4)
    state: list[Value | None] = [n.get(5)] + ([n.get(6)] if n.kind == "LSTM" else [])
    batch_first = bool(n.attr("layout", 0))
    if batch_first:
        x = b.transpose(x, perm=(1, 0, 2))
        state = [None if s is None else b.transpose(s, perm=(1, 0, 2)) for s in state]
    direction = n.attr("direction", "forward")
    count = 2 if direction == "bidirectional" else 1
    activations = n.attr("activations", None) or ACTIVATIONS[n.kind] * count
    hidden = n.attr("hidden_size", None) or rank_of(r)[-1]
    attrs = {"direction": direction, "activations": activations, "alphas": n.attr("activation_alpha", []),
             "betas": n.attr("activation_beta", []), "clip": n.attr("clip", None), "hidden": hidden}
    operands = [x, w, r, bias, None if lengths is None else b.to(lengths, I32), *state]
    if n.kind == "LSTM":
        operands.append(n.get(7))
        attrs["input_forget"] = bool(n.attr("input_forget", 0))
    if n.kind == "GRU":
        attrs["linear_before_reset"] = bool(n.attr("linear_before_reset", 0))
    y, *last = b.op(n.kind.lower(), operands, attrs).results
    if not batch_first:
        return [y, *last]
    return [b.transpose(y, perm=(2, 0, 1, 3)), *(b.transpose(v, perm=(1, 0, 2)) for v in last)]
