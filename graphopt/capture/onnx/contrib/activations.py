"""Activations, with a bias or alone, and those that are fused into products."""

from __future__ import annotations

import math

from graphopt.capture.onnx.context import Context, Node, rank_of
from graphopt.capture.onnx.contrib.common import contrib
from graphopt.capture.onnx.table import Results
from graphopt.ir.graph import Value


@contrib("Gelu", inputs=1)
def gelu(b: Context, n: Node) -> Results:
    return b.gelu(n[0])


@contrib("BiasGelu", inputs=2)
def bias_gelu(b: Context, n: Node) -> Results:
    return b.gelu(b.add(n[0], n[1]))


@contrib("FastGelu", inputs=2)
def fast_gelu(b: Context, n: Node) -> Results:
    """The approximation by tanh."""
    bias = n.get(1)
    return b.gelu(n[0] if bias is None else b.add(n[0], bias), approximate="tanh")


@contrib("QuickGelu", inputs=1, attrs="alpha")
def quick_gelu(b: Context, n: Node) -> Results:
    x, alpha = n[0], n.attr("alpha", 1.702)
    return b.silu(x) if alpha == 1.0 else b.mul(x, b.sigmoid(b.mul(x, alpha)))


@contrib("BiasSplitGelu", inputs=2)
def bias_split_gelu(b: Context, n: Node) -> Results:
    """The first half of the last axis times the GELU of the second."""
    x = b.add(n[0], n[1])
    axis, width = len(rank_of(x)) - 1, rank_of(x)[-1]
    left, right = b.parts(x, axis, (width // 2, width // 2))
    return b.mul(left, b.gelu(right))


@contrib("BiasAdd", inputs=3)
def bias_add(b: Context, n: Node) -> Results:
    return b.add(b.add(n[0], n[1]), n[2])


def activated(b: Context, n: Node, x: Value, name: str, given: list[float]) -> Value:
    """A fused activation by its ONNX name; `given` are its parameters in order, as many as were set."""

    def parameter(index: int, default: float) -> float:
        return given[index] if index < len(given) else default

    match name:
        case "" | "Identity":
            return x
        case "Relu" | "Sigmoid" | "Tanh" | "Softsign":
            return b.op(name.lower(), [x]).result
        case "HardSwish":
            return b.hard_swish(x)
        case "Softplus":
            return b.softplus(x, beta=1.0, threshold=math.inf)
        case "LeakyRelu":
            return b.leaky_relu(x, alpha=parameter(0, 0.01))
        case "Elu":
            return b.elu(x, alpha=parameter(0, 1.0))
        case "Selu":
            return b.selu(x, alpha=parameter(0, 1.67326319217681884765625), gamma=parameter(1, 1.05070102214813232421875))
        case "HardSigmoid":
            return b.hard_sigmoid(x, alpha=parameter(0, 0.2), beta=parameter(1, 0.5))
        case "ThresholdedRelu":
            return b.where(b.greater(x, parameter(0, 1.0)), x, b.const(0, x.dtype))
        case "Clip":
            return b.minimum(b.maximum(x, parameter(0, -math.inf)), parameter(1, math.inf))
    raise n.error(f"activation={name!r} is not supported",
                  "Known are Relu, Sigmoid, Tanh, Softsign, Softplus, LeakyRelu, Elu, Selu, HardSigmoid, HardSwish, "
                  "ThresholdedRelu and Clip")
