"""What the x86 kernels cost row-major and channels last: the layout pass's questions, answered."""

from __future__ import annotations

import math

from graphopt.codegen.lower.registry import COMPUTE, why_not
from graphopt.codegen.x86.costs import Costs, costs_of, lanes_of
from graphopt.codegen.x86.kernels import pooling
from graphopt.codegen.x86.kernels.conv import depthwise
from graphopt.codegen.x86.kernels.conv.boxes import choose_box, covers
from graphopt.codegen.x86.kernels.conv.depthwise import choose_strip, is_depthwise, window_of
from graphopt.codegen.x86.kernels.conv.grouped import cycles as grouped_cycles
from graphopt.codegen.x86.kernels.conv.grouped import is_grouped
from graphopt.codegen.x86.kernels.conv.winograd_plan import plan_for
from graphopt.ir.fused import ends, entries, held, only, outside
from graphopt.ir.graph import Op, Value
from graphopt.ir.table import Trait
from graphopt.ir.types import AXES
from graphopt.targets.base import Choice
from graphopt.targets.x86 import X86


def layout_choice(op: Op, target: X86) -> Choice | None:
    """Costs and demands of one op, None where it is row-major and so are its operands."""
    if op.name == "const" or why_not(op) is not None or len(op.results) != 1:
        return None
    body, costs = held(op), costs_of(target)
    contractions = [o for o in body if o.definition.has(Trait.CONTRACTION)]
    if contractions:
        if len(contractions) == 1 and contractions[0].name == "matmul":
            return _product(op, contractions[0], costs)
        return _convolution(op, contractions[0], target) if len(contractions) == 1 and contractions[0].name == "conv" else None
    if op.name == "transpose":
        return _transpose(op, costs)
    if op.definition.has(Trait.VIEW) or any(o.name not in COMPUTE for o in body if o.name != "const"):
        return None
    return _computed(op, costs)


def conversion(v: Value, costs: Costs) -> tuple[float, float]:
    """Cycles to bring a value from one layout to the other, and what it costs a kernel that takes both to read the other."""
    nbytes = v.type.nbytes  # type: ignore[union-attr]
    return nbytes * costs.converted, nbytes * costs.either  # type: ignore[operator, return-value]


def room(op: Op, v: Value, costs: Costs) -> tuple[int, int] | None:
    """Halo and pitch (0: none) that a channels-last convolution wants of its image `v`; None where `v` is not that."""
    inner = only(op, "conv")
    if inner is None:
        return None
    x, w = inner.operands[0], inner.operands[1]
    assert x is not None and w is not None
    if outside(op, x) is not v:
        return None
    spatial = len(inner.attrs["stride"])
    behind = [(o - 1) * s + (k - 1) * d + 1 - n - p for o, s, k, d, n, p in zip(
        inner.result.static_shape[2:], inner.attrs["stride"], w.static_shape[2:], inner.attrs["dilation"],
        x.static_shape[2:], inner.attrs["pad"][:spatial])]
    channels = x.static_shape[1]
    room = costs.room_between(channels, x.dtype.itemsize)
    return max(*inner.attrs["pad"][:spatial], *behind, 0), channels + room if room else 0


def _convolution(op: Op, conv: Op, target: X86) -> Choice:
    w = conv.operands[1]
    assert w is not None
    out = conv.result.static_shape
    outs, groups = out[1] // conv.attrs["groups"], conv.attrs["groups"]
    depth = math.prod(w.static_shape[1:])
    operations = 2 * math.prod(out) * depth
    costs, full = costs_of(target), lanes_of(target, conv.result.dtype)
    peak = 2 * target.fma * full
    last: float | None = None
    grouped = is_grouped(conv, target)
    if grouped:
        row = operations / peak / costs.planar
        if depthwise.can_last(op, conv):
            last = grouped_cycles(conv, target)
    elif outs == 1 or depth * outs < 16:
        row = operations / peak / costs.planar_depthwise
        if depthwise.covers(op, conv):
            *deep, height, width = (1, *out[2:]) if len(out) == 3 else out[2:]
            lanes = full
            while out[1] < lanes:
                lanes //= 2
            cycles, _ = choose_strip(height, width, out[1], window_of(conv), lanes, target)
            last = cycles * math.prod(deep) * math.prod(w.static_shape[2:-2]) * out[0]
    else:
        row = operations / peak / costs.planar
        if covers(op, conv):
            lanes = full
            while outs < lanes:
                lanes //= 2
            *deep, height, width = (1, *out[2:])
            if math.prod(w.static_shape[2:]) == 1:
                height, width = 1, height * width
            cycles, _ = choose_box(height, width, outs, lanes, target)
            last = cycles * math.prod(deep) * depth * groups * out[0]
    winograd = plan_for(op, conv, target)
    if winograd is not None:
        last = winograd[0]
    if any(p < 0 for p in conv.attrs["pad"]):
        last = None
    assert conv.operands[0] is not None
    x = outside(op, conv.operands[0])
    # Pixels that are broadcast come as they are; those of the others are vectors along the channels.
    image = "same" if is_depthwise(conv) or grouped or winograd is not None else "either"
    reads = tuple(image if v is x else how for v, how in zip(op.operands, _reads(op)))
    return Choice(row, last, reads)


def _transpose(op: Op, costs: Costs) -> Choice | None:
    cost = op.result.type.nbytes * costs.turned  # type: ignore[union-attr, operator]
    way = _way(tuple(op.attrs["perm"]))
    if way == "to last":
        return Choice(cost, 0.0, ("same",), result=False)
    return Choice(cost, 0.0, ("row",)) if way == "from last" else None


def _way(perm: tuple[int, ...]) -> str:
    """What a permutation does to an image: nothing, N C ... to N ... C, the reverse, or something else."""
    rank = len(perm)
    if perm == tuple(range(rank)):
        return ""
    if rank in AXES and perm == (0, *range(2, rank), 1):
        return "to last"
    if rank in AXES and perm == (0, rank - 1, *range(1, rank - 1)):
        return "from last"
    return "other"


def _product(op: Op, matmul: Op, costs: Costs) -> Choice | None:
    """A product whose columns become the channels of an image: channels last, it is stored as it comes."""
    nbytes = lambda v: v.type.nbytes
    if _paths(op).get(matmul.result) == "from last":
        return Choice(nbytes(op.result) * costs.strided, 0.0, _reads(op))
    ways = _ways(op)
    strided = sum(nbytes(v) for v, way in zip(op.operands, ways) if v is not None and way == "to last")
    if not strided:
        return None
    return Choice(strided * costs.strided, 0.0, tuple("same" if w == "to last" else "row" for w in ways), result=False)


def _computed(op: Op, costs: Costs) -> Choice | None:
    shapes = [v.static_shape for v in (*op.operands, *op.results) if v is not None]
    if not any(len(s) in AXES for s in shapes):
        return None
    ways = _ways(op)
    result = op.result.static_shape
    for o in held(op):
        if not o.definition.has(Trait.REDUCTION):
            continue
        if "to last" in ways:
            continue  # rows of channels
        if "kernel" in o.attrs:
            continue  # a window
        spatial = tuple(range(2, len(o.operands[0].static_shape)))  # type: ignore[union-attr]
        if o.definition.has(Trait.COMPOSITE) or tuple(o.attrs.get("axes", ())) != spatial or math.prod(result[2:]) != 1:
            return None
    nbytes = lambda v: v.type.nbytes
    if "to last" in ways and "from last" not in ways:
        strided = sum(nbytes(v) for v, way in zip(op.operands, ways) if v is not None and way == "to last")
        return Choice(strided * costs.strided, 0.0, tuple("same" if w == "to last" else "row" for w in ways), result=False)
    row = sum(nbytes(v) for v, way in zip(op.operands, ways) if v is not None and way == "from last") * costs.strided
    last = sum(nbytes(v) for v, way in zip(op.operands, ways) if v is not None and way == "other") * costs.strided
    for o in held(op):
        if o is op and pooling.covers(o):
            row += nbytes(o.result) * costs.pooled * o.attrs["kernel"][-1]
        elif "kernel" in o.attrs or _cuts_rows(o):
            row += nbytes(o.result) * costs.strided * math.prod(o.attrs.get("kernel", (1,)))
        if o is op and o.name == "slice":
            last += nbytes(o.result) * costs.copied  # a slice of channels is a view of a row-major image
    return Choice(row, last, tuple("same" if w == "" else "row" for w in ways))


def _reads(op: Op) -> tuple[str, ...]:
    return tuple("same" if w == "" else "row" for w in _ways(op))


def _ways(op: Op) -> list[str]:
    """How the axes of each operand become those of the result: "" (axis by axis), "to last", "from last" or "other"."""
    found = _paths(op)
    return [found.get(v, "other") if v is not None else "" for v in entries(op)]


def _paths(op: Op) -> dict[Value, str]:
    """The same of all values in the body of an op."""
    found: dict[Value, str] = {ends(op)[0]: ""}

    def note(v: Value, way: str) -> None:
        found[v] = way if found.get(v, way) == way else "other"

    for o in reversed(held(op)):
        if o.name == "const":
            continue
        way = found.get(o.result, "other")
        for v in o.operands:
            if v is not None:
                note(v, _through(o, v, way))
    return found


def _through(o: Op, v: Value, way: str) -> str:
    """The way of operand `v` of an op whose result has `way`."""
    if o.name == "transpose":
        turn = _way(tuple(o.attrs["perm"]))
        if turn == "" or way == "":
            return turn or way
        return "" if {turn, way} == {"to last", "from last"} else "other"
    if o.definition.has(Trait.REDUCTION) and not o.definition.has(Trait.COMPOSITE):
        return way
    if o.name == "matmul":
        return "other"
    same_rank = len(v.static_shape) == len(o.result.static_shape)
    if o.definition.has(Trait.VIEW) and not o.definition.has(Trait.ELEMENTWISE):
        return way if v.static_shape == o.result.static_shape else "other"
    return way if same_rank and not _reorders(o, v) else "other"


def _reorders(o: Op, v: Value) -> bool:
    """Does an op take the elements of `v` from places that are not its axes', one by one: from where integers say, or from
    channels to pixels or back?"""
    if o.definition.has(Trait.ELEMENTWISE) or v is not o.operands[0]:
        return False
    picked = any(i is not None and not i.dtype.is_float for i in o.operands[1:])
    before, after = v.static_shape, o.result.static_shape
    return picked or (len(before) in AXES and before[1] != after[1] and before[2:] != after[2:])


def _cuts_rows(o: Op) -> bool:
    """Does an op change the length of an image's rows, so that vectors along them begin anywhere?"""
    if o.definition.has(Trait.ELEMENTWISE) or o.definition.has(Trait.REDUCTION) or not o.operands or o.operands[0] is None:
        return False
    before, after = o.operands[0].static_shape, o.result.static_shape
    return len(before) == len(after) and len(after) in AXES and before[-1] != after[-1]
