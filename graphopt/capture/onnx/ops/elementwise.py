"""Elementwise operators."""

from __future__ import annotations

import math

from graphopt.capture.onnx.context import Context, Node, rank_of
from graphopt.capture.onnx.table import Results, entry
from graphopt.ir.graph import Value
from graphopt.ir.types import BOOL, F32, DType

UNARY = {
    "Abs": "abs", "Acos": "acos", "Acosh": "acosh", "Asin": "asin", "Asinh": "asinh", "Atan": "atan", "Atanh": "atanh",
    "BitwiseNot": "bit_not", "Ceil": "ceil", "Cos": "cos", "Cosh": "cosh", "Erf": "erf", "Exp": "exp", "Floor": "floor",
    "IsNaN": "isnan", "Log": "log", "Mish": "mish", "Neg": "neg", "Not": "not", "Reciprocal": "reciprocal", "Relu": "relu",
    "Round": "round", "Sigmoid": "sigmoid", "Sign": "sign", "Sin": "sin", "Sinh": "sinh", "Softsign": "softsign",
    "Sqrt": "sqrt", "Tan": "tan", "Tanh": "tanh", "HardSwish": "hard_swish",
}
BINARY = {
    "Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "And": "and", "Or": "or", "Xor": "xor", "Equal": "equal",
    "Greater": "greater", "GreaterOrEqual": "greater_equal", "Less": "less", "LessOrEqual": "less_equal",
    "BitwiseAnd": "bit_and", "BitwiseOr": "bit_or", "BitwiseXor": "bit_xor", "PRelu": "prelu",
}


@entry(*UNARY)
def unary(b: Context, n: Node) -> Results:
    return b.op(UNARY[n.kind], [n[0]]).result


@entry(*BINARY)
def binary(b: Context, n: Node) -> Results:
    return b.op(BINARY[n.kind], [n[0], aligned(b, n)]).result


def aligned(b: Context, n: Node) -> Value:
    """The second operand; before opset 7 `axis` says where it lines up with the first."""
    second = n[1]
    if n.attr("broadcast", 0) and "axis" in n.attrs:
        rank, axis = len(rank_of(n[0])), n.attr("axis")
        shape = rank_of(second)
        return b.reshaped(second, [*shape, *([1] * (rank - axis % rank - len(shape)))])
    if n.kind == "PRelu" and n.version < 7 and len(rank_of(second)) == 1 and len(rank_of(n[0])) > 2:
        return b.channelwise(second, len(rank_of(n[0])))
    return second


@entry("Identity")
def identity(b: Context, n: Node) -> Results:
    return n[0]


@entry("Sum", "Mean", "Max", "Min")
def variadic(b: Context, n: Node) -> Results:
    xs = [v for v in n.inputs if v is not None]
    name = {"Sum": "add", "Mean": "add", "Max": "maximum", "Min": "minimum"}[n.kind]
    total = xs[0]
    for x in xs[1:]:
        total = b.op(name, [total, x]).result
    return b.div(total, len(xs)) if n.kind == "Mean" and len(xs) > 1 else total


@entry("Pow")
def power(b: Context, n: Node) -> Results:
    x, y = n[0], aligned(b, n)
    if x.dtype is y.dtype:
        return b.pow(x, y)
    if x.dtype.is_integer and y.dtype.is_float:
        return b.cast(b.pow(b.cast(x, to=y.dtype), y), to=x.dtype)
    return b.pow(x, b.cast(y, to=x.dtype))


@entry("Mod")
def mod(b: Context, n: Node) -> Results:
    return b.op("fmod" if n.attr("fmod", 0) else "mod", [n[0], n[1]]).result


@entry("BitShift")
def bit_shift(b: Context, n: Node) -> Results:
    return b.op("shift_left" if n.attr("direction") == "LEFT" else "shift_right", [n[0], n[1]]).result


@entry("Where")
def where(b: Context, n: Node) -> Results:
    return b.op("where", [n[0], n[1], n[2]]).result


@entry("IsInf")
def isinf(b: Context, n: Node) -> Results:
    return b.isinf(n[0], positive=bool(n.attr("detect_positive", 1)), negative=bool(n.attr("detect_negative", 1)))


@entry("Clip", since=1)
def clip_attributes(b: Context, n: Node) -> Results:
    x = n[0]
    low, high = n.attr("min", -math.inf), n.attr("max", math.inf)
    x = b.maximum(x, low) if low > -3.4028234e38 else x
    return b.minimum(x, high) if high < 3.4028234e38 else x


@entry("Clip", since=11)
def clip(b: Context, n: Node) -> Results:
    x, low, high = n[0], n.get(1), n.get(2)
    x = b.maximum(x, low) if low is not None else x
    return b.minimum(x, high) if high is not None else x


@entry("Cast", "CastLike")
def cast(b: Context, n: Node) -> Results:
    to = n[1].dtype if n.kind == "CastLike" else n.dtype("to")
    return cast_to(b, n, n[0], to)


def cast_to(b: Context, n: Node, x: Value, to: DType) -> Value:
    if x.dtype is to:
        return x
    return b.cast(x, to=to, saturate=bool(n.attr("saturate", 1)), rounding=n.attr("round_mode", "nearest") or "nearest")


@entry("BitCast")
def bitcast(b: Context, n: Node) -> Results:
    return b.bitcast(n[0], to=n.dtype("to"))


@entry("LeakyRelu")
def leaky_relu(b: Context, n: Node) -> Results:
    return b.leaky_relu(n[0], alpha=n.attr("alpha", 0.01))


@entry("Elu", "Celu")
def elu(b: Context, n: Node) -> Results:
    return b.op(n.kind.lower(), [n[0]], {"alpha": n.attr("alpha", 1.0)}).result


@entry("Selu")
def selu(b: Context, n: Node) -> Results:
    return b.selu(n[0], alpha=n.attr("alpha", 1.67326319217681884765625), gamma=n.attr("gamma", 1.05070102214813232421875))


@entry("HardSigmoid")
def hard_sigmoid(b: Context, n: Node) -> Results:
    return b.hard_sigmoid(n[0], alpha=n.attr("alpha", 0.2), beta=n.attr("beta", 0.5))


@entry("Softplus")
def softplus(b: Context, n: Node) -> Results:
    return b.softplus(n[0], beta=1.0, threshold=math.inf)


@entry("ThresholdedRelu")
def thresholded_relu(b: Context, n: Node) -> Results:
    x = n[0]
    return b.where(b.greater(x, n.attr("alpha", 1.0)), x, b.const(0, x.dtype))


@entry("Shrink")
def shrink(b: Context, n: Node) -> Results:
    x, lambd, bias = n[0], n.attr("lambd", 0.5), n.attr("bias", 0.0)
    zero = b.const(0, x.dtype)
    below = b.where(b.less(x, -lambd), b.add(x, bias), zero)
    return b.where(b.greater(x, lambd), b.sub(x, bias), below)


@entry("Gelu")
def gelu(b: Context, n: Node) -> Results:
    return b.gelu(n[0], approximate=n.attr("approximate", "none"))


@entry("Swish")
def swish(b: Context, n: Node) -> Results:
    x, alpha = n[0], n.attr("alpha", 1.0)
    return b.silu(x) if alpha == 1.0 else b.mul(x, b.sigmoid(b.mul(x, alpha)))


@entry("Dropout", since=1)
def dropout_inference(b: Context, n: Node) -> Results:
    """Before opset 12, dropout in inference: the operand; the mask is all ones (of the operand's dtype before opset 10)."""
    x = n[0]
    if not n.wants(1):
        return x
    return [x, b.full(1, rank_of(x), BOOL if n.version >= 10 else x.dtype)]


@entry("Dropout", since=12)
def dropout(b: Context, n: Node) -> Results:
    x = n[0]
    n.need(1, 2)
    training = n.get(2) is not None and bool(n.number(2))
    ratio = n.number(1, 0.5)
    if not training or not ratio:
        return [x, b.full(True, rank_of(x), BOOL) if n.wants(1) else None]
    seed = n.attr("seed", None)
    draw = b.random_uniform(shape=rank_of(x), low=0.0, high=1.0, dtype=F32, seed=None if seed is None else float(seed))
    mask = b.greater_equal(draw, float(ratio))
    return [b.mul(b.mul(b.cast(mask, to=x.dtype), x), 1.0 / (1.0 - float(ratio))), mask]


