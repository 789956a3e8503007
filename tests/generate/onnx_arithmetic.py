"""Elementwise nodes, reductions, contractions and casts."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import helper

from tests.generate.onnx_draft import INTS, Draft, Skip, Value, proposal
from tests.generate.onnx_movement import maybe_negative

SMOOTH = ("LeakyRelu", "Elu", "Selu", "Celu", "Sigmoid", "HardSigmoid", "Tanh", "Erf", "Softplus", "Softsign", "Exp", "Log",
          "Sqrt", "Reciprocal", "Sin", "Cos", "Tan", "Atan", "Asinh", "ThresholdedRelu", "HardSwish", "Mish", "Gelu", "Swish")
SINCE = {"HardSwish": 14, "Mish": 18, "Gelu": 20, "Swish": 24, "Celu": 12}
STEPS = ("Floor", "Ceil", "Round", "Sign")
EXACT = ("Relu", "Abs", "Neg")


@proposal(3)
def smooth(d: Draft) -> Value:
    op = d.choice(SMOOTH)
    if SINCE.get(op, 0) > d.opset:
        raise Skip
    attrs: dict[str, Any] = {}
    if op in ("LeakyRelu", "Elu", "Celu", "ThresholdedRelu") and d.chance(0.6):
        attrs["alpha"] = d.choice((0.1, 0.5, 1.5))
    if op == "HardSigmoid" and d.chance(0.5):
        attrs.update(alpha=0.3, beta=0.4)
    v = d.floats()
    if op in ("Gelu", "HardSwish") and v.dtype == np.float64:
        raise Skip  # the function's body in the specification has its constants in f32
    if op == "Gelu" and d.chance(0.5):
        attrs["approximate"] = "tanh"
    return d.node(op, [v], **attrs)[0]


@proposal(1.2)
def exact(d: Draft) -> Value:
    v = d.pick(lambda v: v.dtype.kind in "fi", lambda: d.leaf(d.float_type(), d.shape()))
    return d.node(d.choice(EXACT), [v], exact=True)[0]


@proposal(0.6)
def step(d: Draft) -> Value:
    v = d.floats()
    if v.err:
        raise Skip
    return d.node(d.choice(STEPS), [v], exact=True)[0]


@proposal(0.3)
def is_special(d: Draft) -> Value:
    return d.node(d.choice(("IsNaN", "IsInf")), [d.floats()])[0]


def pair(d: Draft, v: Value) -> list[Value]:
    """v and another that broadcasts with it, in either order."""
    p = d.random.random()
    if p < 0.35:
        w = d.like(v)
    elif p < 0.5:
        w = d.pick(lambda w: w.dtype == v.dtype and w is not v and _broadcast(v.shape, w.shape))
    elif p < 0.93:
        w = d.leaf(v.dtype, d.broadcasting(v.shape), constant=0.7)
    else:  # the other one is longer
        w = d.leaf(v.dtype, (*d.shape(0, 1), *(d.size() if n == 1 else n for n in v.shape)))
    return [v, w] if d.chance(0.65) else [w, v]


def _broadcast(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    try:
        return int(np.prod(np.broadcast_shapes(a, b))) <= 4096
    except ValueError:
        return False


@proposal(5)
def binary(d: Draft) -> Value:
    v = d.pick(lambda v: v.dtype.kind in "fi", lambda: d.leaf(d.float_type(), d.shape()))
    a, b = pair(d, v)
    op = d.choice(("Add", "Add", "Sub", "Mul", "Mul", "Div", "Pow", "Mod", "Min", "Max", "Mean", "Sum", "PRelu"))
    attrs: dict[str, Any] = {}
    if op in ("Div", "Mod") and v.dtype.kind == "i" and (b.array == 0).any():
        raise Skip
    if op == "Div" and v.dtype.kind == "i" and ((a.array < 0).any() or (b.array < 0).any()):
        raise Skip  # the specification leaves the rounding of negative quotients open
    if op == "Mul" and v.dtype.kind == "i" and _top(a) * _top(b) > 2**30:
        raise Skip
    if op == "Mod" and (v.is_float or d.chance(0.3)):
        attrs["fmod"] = 1
    if op == "Pow":
        if d.chance(0.8):
            b = d.constant(np.asarray(d.choice((2, 3, 0.5, 1, 0, -1) if v.is_float else (0, 1, 2, 3)), v.dtype))
        if v.dtype.kind == "i" and (_top(a) ** max(_top(b), 1) > 2**30 or (b.array < 0).any()):
            raise Skip
    if op in ("Mean", "Sum") and not v.is_float:
        raise Skip
    if op == "PRelu":
        if not v.is_float:
            raise Skip
        a, b = v, d.leaf(v.dtype, d.broadcasting(v.shape), constant=0.9)
    return d.node(op, [a, b], exact=op in ("Min", "Max"), **attrs)[0]


def _top(v: Value) -> int:
    return int(np.max(np.abs(v.array.astype(np.int64)), initial=0))


@proposal(0.8)
def two_constants(d: Draft) -> Value:
    """(x op c) op c: what algebra merges."""
    v = d.floats()
    for _ in range(2):
        c = d.leaf(v.dtype, d.broadcasting(v.shape), constant=1.0)
        v, = d.node(d.choice(("Add", "Mul", "Sub", "Div")), [v, c] if d.chance(0.7) else [c, v])
    return v


@proposal(0.6)
def neutral(d: Draft) -> Value:
    """x + 0, x * 1, x / 1, x ** 1, x - 0 with constants that broadcast."""
    v = d.pick(lambda v: v.dtype.kind in "fi", lambda: d.leaf(d.float_type(), d.shape()))
    op, n = d.choice((("Add", 0), ("Mul", 1), ("Div", 1), ("Sub", 0), ("Mul", 0), ("Pow", 1), ("Pow", 2)))
    if op == "Pow" and not v.is_float:
        raise Skip
    shape = () if d.chance(0.5) else (*d.shape(0, 1), *d.broadcasting(v.shape, loose=False))
    return d.node(op, [v, d.constant(np.full(shape, n, v.dtype))])[0]


@proposal(1.2)
def comparison(d: Draft) -> Value:
    v = d.pick(lambda v: v.dtype.kind in "fi", lambda: d.leaf(d.float_type(), d.shape()))
    op = d.choice(("Less", "Greater", "Equal", "LessOrEqual", "GreaterOrEqual"))
    if op.endswith("OrEqual") and d.opset < 12:
        raise Skip
    return d.node(op, pair(d, v))[0]


@proposal(0.7)
def logic(d: Draft) -> Value:
    v = d.pick(lambda v: v.dtype == np.bool_, lambda: d.leaf(np.bool_, d.shape(0, 4)))
    if d.chance(0.25):
        return d.node("Not", [v])[0]
    return d.node(d.choice(("And", "Or", "Xor")), pair(d, v))[0]


@proposal(0.3)
def bits(d: Draft) -> Value:
    if d.opset < 18:
        raise Skip
    v = d.pick(lambda v: v.dtype in INTS, lambda: d.leaf(d.choice(INTS), d.shape(0, 4)))
    if d.chance(0.25):
        return d.node("BitwiseNot", [v])[0]
    return d.node(d.choice(("BitwiseAnd", "BitwiseOr", "BitwiseXor")), pair(d, v))[0]


@proposal(1.5)
def where(d: Draft) -> Value:
    a, b = pair(d, d.any())
    shape = np.broadcast_shapes(a.shape, b.shape)
    c = d.pick(lambda v: v.dtype == np.bool_ and _broadcast(v.shape, shape), lambda: d.leaf(np.bool_, d.broadcasting(shape)))
    return d.node("Where", [c, a, b], exact=True)[0]


@proposal(1)
def clip(d: Draft) -> Value:
    v = d.pick(lambda v: v.dtype.kind in "fi", lambda: d.leaf(d.float_type(), d.shape()))
    bounds = d.choice((-1, 0, -0.5)), d.choice((1, 6, 0.75))
    low, high = (d.constant(np.asarray(x, v.dtype)) if d.chance(0.8) else None for x in bounds)
    if d.chance(0.05) and low and high:
        low, high = high, low
    return d.node("Clip", [v, low, high], exact=True)[0]


REDUCES = ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare",
           "ReduceLogSum", "ReduceLogSumExp", "ReduceSum", "ReduceMean", "ReduceMax")


@proposal(3)
def reduce(d: Draft, v: Value | None = None) -> Value:
    v = v or d.pick(lambda v: v.dtype.kind in "fi", lambda: d.leaf(d.float_type(), d.shape(0, 5)))
    op = d.choice(REDUCES)
    if not v.is_float and op not in ("ReduceSum", "ReduceMax", "ReduceMin"):
        raise Skip
    axes = None if d.chance(0.2) else d.random.sample(range(v.rank), d.integer(0 if d.chance(0.1) else min(1, v.rank), v.rank))
    axes = axes if axes is None else [maybe_negative(d, a, v.rank) for a in axes]
    since = 13 if op == "ReduceSum" else 18
    if axes == [] and d.opset < since:
        axes = None
    more, attrs = d.with_axes(axes, since)
    if d.opset >= since and d.chance(0.3):
        attrs["noop_with_empty_axes"] = d.integer(0, 1)
    if d.chance(0.7):
        attrs["keepdims"] = d.integer(0, 1)
    return d.node(op, [v, *more], exact=op in ("ReduceMax", "ReduceMin"), **attrs)[0]


@proposal(0.6)
def reduce_of_broadcast(d: Draft) -> Value:
    v = d.floats(1, 4)
    wide = [d.integer(2, 5) if n == 1 else n for n in v.shape]
    return reduce(d, d.node("Expand", [v, d.ints([d.integer(1, 3), *wide])], exact=True)[0])


@proposal(0.8)
def arg_extreme(d: Draft) -> Value:
    v = d.pick(lambda v: v.dtype.kind in "fi" and v.rank >= 1, lambda: d.leaf(d.float_type(), d.shape(1, 4)))
    attrs: dict[str, Any] = {"keepdims": d.integer(0, 1)}
    if d.opset >= 12 and d.chance(0.3):
        attrs["select_last_index"] = 1
    return d.node(d.choice(("ArgMax", "ArgMin")), [v], axis=d.integer(-v.rank, v.rank - 1), **attrs)[0]


@proposal(0.8)
def top_k(d: Draft) -> list[Value]:
    v = d.pick(lambda v: v.dtype.kind in "fi" and v.rank >= 1, lambda: d.leaf(d.float_type(), d.shape(1, 4)))
    a = d.integer(0, v.rank - 1)
    k = d.constant(np.array([d.integer(0 if d.chance(0.05) else 1, max(v.shape[a], 1))], np.int64))
    return d.node("TopK", [v, k], outputs=2, axis=maybe_negative(d, a, v.rank), largest=d.integer(0, 1))


@proposal(0.8)
def cumsum(d: Draft) -> Value:
    v = d.pick(lambda v: v.dtype.kind in "fi" and v.rank >= 1, lambda: d.leaf(d.float_type(), d.shape(1, 4)))
    axis = d.constant(np.asarray(d.integer(-v.rank, v.rank - 1), d.choice(INTS)))
    return d.node("CumSum", [v, axis], exclusive=d.integer(0, 1), reverse=d.integer(0, 1))[0]


@proposal(2)
def cast(d: Draft, v: Value | None = None) -> Value:
    v = v or d.any()
    to = d.choice((np.float32, np.float32, np.float64, np.int64, np.int32, np.bool_, np.float16, np.int8, np.uint8))
    if np.dtype(to).kind in "iu":
        if v.dtype.kind in "fi" and (not np.isfinite(v.array).all() if v.is_float else False):
            raise Skip
        info = np.iinfo(to)
        x = v.array.astype(np.float64)
        if x.size and (x.min() < info.min or x.max() > info.max):
            raise Skip
        if v.is_float and np.dtype(to).kind == "u" and x.size and x.min() < 0:
            raise Skip
    exact = np.dtype(to) not in (np.float16, np.float32)
    return d.node("Cast", [v], exact=exact, to=helper.np_dtype_to_tensor_dtype(np.dtype(to)))[0]


@proposal(0.6)
def cast_chain(d: Draft) -> Value:
    return cast(d, cast(d))


@proposal(2.5)
def matmul(d: Draft) -> Value:
    v = d.floats(1, 5)
    k = v.shape[-1]
    if d.chance(0.15) and v.rank > 1:
        w = d.leaf(v.dtype, (k,))
    else:
        n = d.size()
        lead = () if d.chance(0.6) else d.broadcasting(v.shape[:-2])
        w = d.pick(lambda w: w.dtype == v.dtype and w.rank == 2 and w.shape[0] == k and w is not v,
                   lambda: d.leaf(v.dtype, (*lead, k, n), constant=0.6), fresh=0.6)
    return d.node("MatMul", [v, w])[0]


@proposal(0.8)
def matmul_of_transpose(d: Draft) -> Value:
    v = d.floats(2, 4)
    perm = [*range(v.rank - 2), v.rank - 1, v.rank - 2]
    turned, = d.node("Transpose", [v], exact=True, perm=perm)
    return d.node("MatMul", [v, turned] if d.chance(0.5) else [turned, v])[0]


@proposal(1.2)
def gemm(d: Draft) -> Value:
    v = d.floats(2, 2)
    ta, tb = d.integer(0, 1), d.integer(0, 1)
    m, k = (v.shape[1], v.shape[0]) if ta else v.shape
    n = d.size()
    w = d.leaf(v.dtype, (n, k) if tb else (k, n), constant=0.6)
    more = [d.leaf(v.dtype, d.broadcasting((m, n)), constant=0.7)] if d.chance(0.7) else []
    attrs = {"alpha": d.choice((0.5, 1.0, -1.5)), "beta": d.choice((1.0, 0.25, 0.0))} if d.chance(0.4) else {}
    return d.node("Gemm", [v, w, *more], transA=ta, transB=tb, **attrs)[0]


@proposal(0.8)
def einsum(d: Draft) -> Value:
    if d.opset < 12:
        raise Skip
    v = d.floats(1, 4)
    letters = "abcdefgh"[:v.rank]
    sizes = dict(zip(letters, v.shape))
    if d.chance(0.25):
        right = [c for c in letters if d.chance(0.6)]
        d.random.shuffle(right)
        return d.node("Einsum", [v], equation=f"{letters}->{''.join(right)}")[0]
    other = [c for c in letters if d.chance(0.6)] + (["k"] if d.chance(0.6) else [])
    d.random.shuffle(other)
    sizes["k"] = d.integer(1, 5)
    if 0 in (*v.shape, *(sizes[c] for c in other)):
        raise Skip  # onnxruntime 1.32 divides by the size of an empty operand, which ends the process
    w = d.leaf(v.dtype, tuple(sizes[c] for c in other))
    right = [c for c in dict.fromkeys([*letters, *other]) if d.chance(0.65)]
    if not v.array.size or not w.array.size:
        raise Skip  # onnxruntime divides by zero on some of these ("ab,ka->a" of 0x1 and 2x0), which ends the process
    if d.chance(0.5):
        d.random.shuffle(right)
    return d.node("Einsum", [v, w], equation=f"{letters},{''.join(other)}->{''.join(right)}")[0]
