"""Operators of com.microsoft that are ONNX's under another version."""

from __future__ import annotations

from graphopt.capture.onnx.context import Context, Node, rank_of
from graphopt.capture.onnx.contrib.common import contrib
from graphopt.capture.onnx.ops.indexing import gather_nd
from graphopt.capture.onnx.ops.movement import pad, range_, trilu
from graphopt.capture.onnx.table import Results
from graphopt.ir.table import normalise_axis

contrib("Trilu", inputs=2, attrs="upper")(trilu)
contrib("GatherND", inputs=2)(gather_nd)
contrib("Range", inputs=3)(range_)


@contrib("Pad", inputs=3, attrs="mode")
def dynamic_pad(b: Context, n: Node) -> Results:
    if n.get(1) is None:
        raise n.error("operand 1, the pads, is missing")
    return pad(b, n)


@contrib("CDist", inputs=2, attrs="metric")
def cdist(b: Context, n: Node) -> Results:
    """The distance of every row of one matrix to every row of another, by the differences."""
    x, y, metric = n[0], n[1], n.attr("metric", "sqeuclidean")
    if metric not in ("euclidean", "sqeuclidean"):
        raise n.error(f"metric={metric!r} is not supported", "Known are euclidean and sqeuclidean")
    apart = b.sub(b.unsqueezed(x, [1]), b.unsqueezed(y, [0]))
    squares = b.reduce_sum(b.mul(apart, apart), axes=(2,), keepdims=False)
    return squares if metric == "sqeuclidean" else b.sqrt(squares)


@contrib("ExpandDims", inputs=2)
def expand_dims(b: Context, n: Node) -> Results:
    return b.unsqueezed(n[0], [normalise_axis(int(n.number(1)), len(rank_of(n[0])) + 1)])
