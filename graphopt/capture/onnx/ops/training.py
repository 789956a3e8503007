"""The optimisers of ai.onnx.preview.training, as elementwise arithmetic."""

from __future__ import annotations

from graphopt.capture.onnx.context import Context, Node
from graphopt.capture.onnx.table import Results, entry
from graphopt.ir.graph import Value

TRAINING = "ai.onnx.preview.training"


def _groups(n: Node, states: int) -> list[list[Value]]:
    """Operands after the rate and the step count: all tensors, all gradients, then each state of all tensors."""
    rest = [n[i] for i in range(2, len(n.inputs))]
    count = len(rest) // (2 + states)
    return [[rest[kind * count + i] for kind in range(2 + states)] for i in range(count)]


def _ordered(rows: list[list[Value]]) -> list[Value]:
    return [v for column in zip(*rows) for v in column]


@entry("Adagrad", domain=TRAINING)
def adagrad(b: Context, n: Node) -> Results:
    rate, step = n[0], n[1]
    decay, eps, norm = n.attr("decay_factor", 0.0), n.attr("epsilon", 1e-6), n.attr("norm_coefficient", 0.0)
    rows = []
    for x, g, h in _groups(n, 1):
        now = b.div(b.to(rate, x.dtype), b.add(b.mul(b.to(step, x.dtype), decay), 1.0))
        g = b.add(b.mul(x, norm), g)
        h = b.add(h, b.mul(g, g))
        rows.append([b.sub(x, b.div(b.mul(now, g), b.add(b.sqrt(h), eps))), h])
    return _ordered(rows)


@entry("Adam", domain=TRAINING)
def adam(b: Context, n: Node) -> Results:
    rate, step = n[0], n[1]
    alpha, beta, eps = n.attr("alpha", 0.9), n.attr("beta", 0.999), n.attr("epsilon", 1e-6)
    before, after = n.attr("norm_coefficient", 0.0), n.attr("norm_coefficient_post", 0.0)
    rows = []
    for x, g, v, h in _groups(n, 2):
        t = b.to(step, x.dtype)
        g = b.add(b.mul(x, before), g)
        v = b.add(b.mul(v, alpha), b.mul(g, 1.0 - alpha))
        h = b.add(b.mul(h, beta), b.mul(b.mul(g, g), 1.0 - beta))
        one = b.const(1, x.dtype)
        scale = b.div(b.sqrt(b.sub(one, b.pow(b.const(beta, x.dtype), t))), b.sub(one, b.pow(b.const(alpha, x.dtype), t)))
        now = b.where(b.greater(t, 0), b.mul(b.to(rate, x.dtype), scale), b.to(rate, x.dtype))
        new = b.sub(x, b.div(b.mul(now, v), b.add(b.sqrt(h), eps)))
        rows.append([b.mul(new, 1.0 - after), v, h])
    return _ordered(rows)


@entry("Momentum", domain=TRAINING)
def momentum(b: Context, n: Node) -> Results:
    rate, step = n[0], n[1]
    alpha, beta, norm, mode = n.attr("alpha"), n.attr("beta"), n.attr("norm_coefficient"), n.attr("mode")
    rows = []
    for x, g, v in _groups(n, 1):
        g = b.add(b.mul(x, norm), g)
        later = b.where(b.greater(b.to(step, x.dtype), 0), b.const(beta, x.dtype), b.const(1, x.dtype))
        v = b.add(b.mul(v, alpha), b.mul(g, later))
        change = b.add(g, b.mul(v, alpha)) if mode == "nesterov" else v
        rows.append([b.sub(x, b.mul(b.to(rate, x.dtype), change)), v])
    return _ordered(rows)
