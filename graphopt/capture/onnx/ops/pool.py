"""Pooling."""

from __future__ import annotations

from graphopt.capture.onnx.context import Context, Node, rank_of, static_shape
from graphopt.capture.onnx.ops.windows import Window, window
from graphopt.capture.onnx.table import Results, entry
from graphopt.ir.dims import product
from graphopt.ir.graph import Value


def _attrs(w: Window, n: Node) -> dict:
    return {"kernel": w.kernel, **w.attrs(), "ceil_mode": bool(n.attr("ceil_mode", 0))}


@entry("MaxPool")
def max_pool(b: Context, n: Node) -> Results:
    x = n[0]
    w = window(n, rank_of(x)[2:])
    if not n.wants(1):
        return b.max_pool(x, **_attrs(w, n))
    y, index = b.max_pool_indices(x, **_attrs(w, n))
    if n.attr("storage_order", 0):
        index = _column_major(b, index, static_shape(x)[2:])
    return [y, index]


def _column_major(b: Context, index: Value, space: tuple[int, ...]) -> Value:
    """Row-major flat indices as indices in which the spatial axes run the other way round."""
    plane = product(space)
    rest = b.mod(index, plane)
    total = b.sub(index, rest)
    stride, inner = 1, plane
    for d in space:
        inner = inner // d
        total = b.add(total, b.mul(b.div(rest, inner), stride))
        rest = b.mod(rest, inner)
        stride *= d
    return total


@entry("AveragePool")
def average_pool(b: Context, n: Node) -> Results:
    w = window(n, rank_of(n[0])[2:])
    return b.avg_pool(n[0], count_include_pad=bool(n.attr("count_include_pad", 0)), **_attrs(w, n))


@entry("LpPool")
def lp_pool(b: Context, n: Node) -> Results:
    """The p-norm of each window: padding counts as zeros."""
    x, p = n[0], n.attr("p", 2)
    w = window(n, rank_of(x)[2:])
    powers = b.mul(x, x) if p == 2 else b.abs(x) if p == 1 else b.pow(b.abs(x), float(p))
    total = b.avg_pool(powers, count_include_pad=True, divisor=1, **_attrs(w, n))
    return b.sqrt(total) if p == 2 else total if p == 1 else b.pow(total, 1.0 / p)


@entry("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool(b: Context, n: Node) -> Results:
    x = n[0]
    axes = tuple(range(2, len(rank_of(x))))
    if n.kind == "GlobalAveragePool":
        return b.reduce_mean(x, axes=axes, keepdims=True)
    if n.kind == "GlobalMaxPool":
        return b.reduce_max(x, axes=axes, keepdims=True)
    p = n.attr("p", 2)
    total = b.reduce_sum(b.pow(b.abs(x), float(p)), axes=axes, keepdims=True)
    return b.pow(total, 1.0 / p)

