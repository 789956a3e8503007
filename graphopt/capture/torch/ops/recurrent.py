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
    """torch: x [T, B, I] or [B, T, I], h0 [layers * D, B, H], params per layer and direction (w_ih, w_hh, b_ih, b_hh, w_hr?);
    w_hr [P, H] projects what an LSTM puts out, and passes on, to P features."""
    directions = 2 if bidirectional else 1
    each = len(params) // (layers * directions)
    projected = each != (4 if biases else 2)
    if x.rank != 3:
        raise Refusal("an input without a batch axis")
    if batch_first:
        x = c.swap(x, 0, 1)
    hidden = params[0].shape[0] // len(_ORDER[kind])
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
        down = c.concat([c.unsqueeze(c.swap(p[-1], 0, 1), 0) for p in parts], 0) if projected else None  # [D, H, P]
        if down is not None:
            x, w, r, state[0] = _unprojected(c, x, w, r, down, state[0])
        attrs: dict[str, Any] = {"direction": "bidirectional" if bidirectional else "forward", "alphas": (), "betas": (),
                                 "activations": _ACTIVATIONS[activation] * directions, "hidden": hidden}
        if kind == "lstm":
            y, h, last = c.b.lstm(x, w, r, b, None, state[0], state[1], **attrs, input_forget=False)
            c_last.append(last)
        elif kind == "gru":
            y, h = c.b.gru(x, w, r, b, None, state[0], **attrs, linear_before_reset=True)
        else:
            y, h = c.b.rnn(x, w, r, b, None, state[0], **attrs)
        if down is not None:
            y, h = c.b.matmul(y, c.unsqueeze(down, 0)), c.b.matmul(h, down)
        h_last.append(h)
        time, _, batch, width = y.shape
        x = c.reshape(c.swap(y, 1, 2), (time, batch, directions * width))  # [T, D, B, H] to [T, B, D * H]
    out = c.swap(x, 0, 1) if batch_first else x
    return (out, c.concat(h_last, 0), c.concat(c_last, 0)) if kind == "lstm" else (out, c.concat(h_last, 0))


def _unprojected(c: Context, x: Value, w: Value, r: Value, down: Value, h0: Value) -> tuple[Value, Value, Value, Value]:
    """x, w, r and the first state of an LSTM without projection whose outputs, times `down`, are those of the one with it.

    What goes back is h = m W (Sak et al., 2014), m the output before its projection W: m goes back through W R. The first h,
    which need not be of that form, comes as more columns of the input of the first step (for the backward direction, the last).
    """
    time, batch, _ = x.shape
    directions, _, size = r.static_shape
    columns, weights = [x], []
    for d in range(directions):
        rest = [c.full(0, (time - 1, batch, size), x.dtype)] if time != 1 else []
        own = c.slice(h0, 0, d, d + 1)
        columns.append(c.concat([own, *rest] if d == 0 else [*rest, own], 0))
        mine = c.slice(r, 0, d, d + 1)
        weights.append([mine if k == d else c.full(0, mine.shape, r.dtype) for k in range(directions)])
    wide = c.concat([w, c.concat([c.concat(row, 2) for row in weights], 0)], 2)
    back = c.b.matmul(r, c.swap(down, 1, 2))  # [D, 4H, P] times [D, P, H]
    return c.concat(columns, 2), wide, back, c.full(0, (directions, batch, down.shape[1]), h0.dtype)


def _gates(c: Context, w: Value, kind: str) -> Value:
    order = _ORDER[kind]
    if len(order) == 1:
        return w
    size = w.shape[0] // len(order)
    return c.concat([c.slice(w, 0, g * size, (g + 1) * size) for g in order], 0)
