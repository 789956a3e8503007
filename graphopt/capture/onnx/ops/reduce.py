"""Reductions and scans."""

from __future__ import annotations

import math

from graphopt.capture.onnx.context import Context, Node, rank_of
from graphopt.capture.onnx.table import Results, entry
from graphopt.ir.dims import Dim
from graphopt.ir.graph import Value
from graphopt.ir.table import normalise_axes, normalise_axis
from graphopt.ir.types import BOOL

REDUCTIONS = {
    "ReduceSum": "reduce_sum", "ReduceMean": "reduce_mean", "ReduceMax": "reduce_max", "ReduceMin": "reduce_min",
    "ReduceProd": "reduce_prod", "ReduceLogSumExp": "reduce_logsumexp", "ReduceL1": "reduce_sum", "ReduceL2": "reduce_sum",
    "ReduceLogSum": "reduce_sum", "ReduceSumSquare": "reduce_sum",
}


@entry(*REDUCTIONS)
def reduce(b: Context, n: Node) -> Results:
    """Axes are an attribute first and an operand later (13 for ReduceSum, 18 for the others); none means all."""
    x = n[0]
    given = n.attr_or_ints("axes", 1)
    if not given and n.attr("noop_with_empty_axes", 0):
        axes: tuple[int, ...] = ()
    else:
        axes = normalise_axes(given or None, len(rank_of(x)))
    keep = bool(n.attr("keepdims", 1))
    name = REDUCTIONS[n.kind]
    if x.dtype is BOOL and name in ("reduce_max", "reduce_min"):
        name = "reduce_any" if name == "reduce_max" else "reduce_all"
    before = {"ReduceL1": lambda v: b.abs(v), "ReduceL2": lambda v: b.mul(v, v), "ReduceSumSquare": lambda v: b.mul(v, v)}
    after = {"ReduceL2": lambda v: b.sqrt(v), "ReduceLogSum": lambda v: b.log(v)}
    y = before.get(n.kind, lambda v: v)(x)
    y = b.op(name, [y], {"axes": axes, "keepdims": keep}).result
    return after.get(n.kind, lambda v: v)(y)


@entry("ArgMax", "ArgMin")
def arg_extreme(b: Context, n: Node) -> Results:
    return b.op(n.kind.lower(), [n[0]], {"axis": n.axis(0, len(rank_of(n[0]))), "keepdims": bool(n.attr("keepdims", 1)),
                                         "select_last": bool(n.attr("select_last_index", 0))}).result


@entry("CumSum", "CumProd")
def cumulative(b: Context, n: Node) -> Results:
    axis = normalise_axis(int(n.number(1)), len(rank_of(n[0])))
    return b.op(n.kind.lower(), [n[0]], {"axis": axis, "exclusive": bool(n.attr("exclusive", 0)),
                                         "reverse": bool(n.attr("reverse", 0))}).result


@entry("Hardmax", since=1)
def hardmax_flat(b: Context, n: Node) -> Results:
    from graphopt.capture.onnx.ops.norm import flattened

    return flattened(b, n, lambda x, axis: _hardmax(b, x, axis))


@entry("Hardmax", since=13)
def hardmax(b: Context, n: Node) -> Results:
    return _hardmax(b, n[0], n.axis(-1, len(rank_of(n[0]))))


def _hardmax(b: Context, x: Value, axis: int) -> Value:
    shape = rank_of(x)
    if shape[axis] == 0:
        return x  # nothing in it is the largest
    among = x
    if isinstance(shape[axis], Dim):  # one more, which is never the largest, lets there be none
        among = b.pad(x, b.const(-math.inf, x.dtype), pads=[0] * (len(shape) + axis) + [1] + [0] * (len(shape) - 1 - axis))
    best = b.argmax(among, axis=axis, keepdims=True)
    places = b.iota(shape=[d if i == axis else 1 for i, d in enumerate(shape)], axis=axis, dtype=best.dtype)
    return b.cast(b.equal(places, best), to=x.dtype)


@entry("NonZero")
def nonzero(b: Context, n: Node) -> Results:
    return b.nonzero(n[0])


