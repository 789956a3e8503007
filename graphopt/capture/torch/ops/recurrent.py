"""LSTM, GRU and plain recurrent modules, layer by layer onto the IR's recurrent ops (ONNX's gate order)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.capture.torch.context import Context, Refusal
from graphopt.capture.torch.table import aten
from graphopt.ir.graph import Value

# Blocks of torch's stacked weights in the order that ONNX has them: LSTM i f g o -> i o f g, GRU r z n -> z r n.
_ORDER = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn": (0,)}
_ACTIVATIONS = {"lstm": ("Sigmoid", "Tanh", "Tanh"), "gru": ("Sigmoid", "Tanh"), "tanh": ("Tanh",), "relu": ("Relu",)}


@aten("aten.lstm.input")
def _(c: Context, input: Value, hx: Sequence[Value], params: Sequence[Value], has_biases: bool, num_layers: int, dropout: float,
      train: bool, bidirectional: bool, batch_first: bool) -> Any:
    if train and dropout:
        raise Refusal("dropout in training mode; call model.eval() first")
    return _layers(c, "lstm", "lstm", input, hx[0], hx[1], params, has_biases, num_layers, bidirectional, batch_first)


@aten("aten.gru.input")
def _(c: Context, input: Value, hx: Value, params: Sequence[Value], has_biases: bool, num_layers: int, dropout: float,
      train: bool, bidirectional: bool, batch_first: bool) -> Any:
    if train and dropout:
        raise Refusal("dropout in training mode; call model.eval() first")
    return _layers(c, "gru", "gru", input, hx, None, params, has_biases, num_layers, bidirectional, batch_first)


@aten("aten.rnn_tanh.input")
def _(c: Context, input: Value, hx: Value, params: Sequence[Value], has_biases: bool, num_layers: int, dropout: float,
      train: bool, bidirectional: bool, batch_first: bool) -> Any:
    if train and dropout:
        raise Refusal("dropout in training mode; call model.eval() first")
    return _layers(c, "rnn", "tanh", input, hx, None, params, has_biases, num_layers, bidirectional, batch_first)


@aten("aten.rnn_relu.input")
def _(c: Context, input: Value, hx: Value, params: Sequence[Value], has_biases: bool, num_layers: int, dropout: float,
      train: bool, bidirectional: bool, batch_first: bool) -> Any:
    if train and dropout:
        raise Refusal("dropout in training mode; call model.eval() first")
    return _layers(c, "rnn", "relu", input, hx, None, params, has_biases, num_layers, bidirectional, batch_first)


def _layers(c: Context, kind: str, activation: str, x: Value, h0: Value, c0: Value | None, params: Sequence[Value], biases: bool,
            layers: int, bidirectional: bool, batch_first: bool) -> Any:
    """torch: x [T, B, I] or [B, T, I], h0 [layers * D, B, H], params per layer and direction (w_ih, w_hh, b_ih, b_hh, w_hr?)."""
    directions = 2 if bidirectional else 1
    each = len(params) // (layers * directions)
    if each != (4 if biases else 2):
        raise Refusal("an LSTM with projection")
    if x.rank != 3:
        raise Refusal("an input without a batch axis")
    if batch_first:
        x = c.swap(x, 0, 1)
    hidden = params[1].shape[1]
    h_last: list[Value] = []
    c_last: list[Value] = []
    for layer in range(layers):
        first = layer * directions
        parts = [params[(first + d) * each:(first + d + 1) * each] for d in range(directions)]
        w, r = (c.concat([c.unsqueeze(_gates(c, p[i], kind), 0) for p in parts], 0) for i in (0, 1))
        b = None
        if biases:
            b = c.concat([c.unsqueeze(c.concat([_gates(c, p[2], kind), _gates(c, p[3], kind)], 0), 0) for p in parts], 0)
        state = [c.slice(s, 0, first, first + directions) for s in (h0, c0) if s is not None]
        attrs: dict[str, Any] = {"direction": "bidirectional" if bidirectional else "forward", "alphas": (), "betas": (),
                                 "activations": _ACTIVATIONS[activation] * directions, "hidden": hidden}
        if kind == "lstm":
            y, h, last = c.b.lstm(x, w, r, b, None, state[0], state[1], **attrs, input_forget=False)
            c_last.append(last)
        elif kind == "gru":
            y, h = c.b.gru(x, w, r, b, None, state[0], **attrs, linear_before_reset=True)
        else:
            y, h = c.b.rnn(x, w, r, b, None, state[0], **attrs)
        h_last.append(h)
        time, _, batch, _ = y.shape
        x = c.reshape(c.swap(y, 1, 2), (time, batch, directions * hidden))  # [T, D, B, H] to [T, B, D * H]
    out = c.swap(x, 0, 1) if batch_first else x
    return (out, c.concat(h_last, 0), c.concat(c_last, 0)) if kind == "lstm" else (out, c.concat(h_last, 0))


def _gates(c: Context, w: Value, kind: str) -> Value:
    order = _ORDER[kind]
    if len(order) == 1:
        return w
    size = w.shape[0] // len(order)
    return c.concat([c.slice(w, 0, g * size, (g + 1) * size) for g in order], 0)
