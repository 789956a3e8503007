"""Indexing that is known beforehand: gathers as slices, slices of slices and of concats, concats of neighbouring slices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.ir.dims import product
from graphopt.ir.evaluate import content
from graphopt.ir.graph import Value
from graphopt.rewrite.engine.common import known_shape, static_shape
from graphopt.rewrite.engine.manager import RulePass
from graphopt.rewrite.engine.pattern import Match
from graphopt.rewrite.engine.rules import Rule


def _gather_of_a_range(m: Match) -> Value | None:
    """gather with constant indices i, i + step, i + 2 step, … is a slice; a scalar index drops the axis besides."""
    shape = known_shape(m.x)
    if shape is None or not isinstance(shape[m.axis], int) or m.x.constant is not None:
        return None
    size = shape[m.axis]
    indices = m.array("i").astype(np.int64)
    if indices.size == 0 or indices.ndim > 1 or np.any((indices < -size) | (indices >= size)):
        return None
    flat = np.where(indices < 0, indices + size, indices).reshape(-1)
    steps = np.diff(flat)
    step = int(steps[0]) if steps.size else 1
    if step < 1 or np.any(steps != step):
        return None
    part = m.build.slice(m.x, axes=[m.axis], starts=[int(flat[0])], ends=[int(flat[-1]) + 1], steps=[step])
    return m.build.reshape(part, shape=m.result.shape) if indices.ndim == 0 else part


def _compress_of_a_mask(m: Match) -> Value | None:
    """compress whose condition is a constant expression is a gather of the places where it holds."""
    condition, axis = content(m.c), m.axis
    shape = known_shape(m.x)
    if condition is None or shape is None or content(m.x) is not None:
        return None
    size = product(shape) if axis is None else shape[axis]
    places = np.flatnonzero(condition)
    # A condition longer than the axis may hold past its end, which is said where it is run.
    if len(condition) != size and not (isinstance(size, int) and (places < size).all()):
        return None
    flat = m.x if axis is not None else m.build.reshape(m.x, shape=(size,))
    return m.build.gather(flat, m.build.const(places), axis=axis or 0)


def _gather_of_dims(m: Match) -> Value | None:
    """Choosing among symbolic dims gives symbolic dims."""
    indices = m.array("i")
    if m.axis != 0 or indices.size == 0 or np.any((indices < -len(m.dims)) | (indices >= len(m.dims))):
        return None
    chosen = m.build.dims(values=[m.dims[int(i)] for i in indices.reshape(-1)])
    return m.build.reshape(chosen, shape=()) if indices.ndim == 0 else chosen if indices.ndim == 1 else None


def _slice_of_dims(m: Match) -> Value | None:
    if m.axes != (0,) or not all(isinstance(d, int) for d in (*m.starts, *m.ends)):
        return None
    start, end, step = m.starts[0], m.ends[0], m.steps[0]
    if step < 1 or start < 0 or end < 0:
        return None
    return m.build.dims(values=m.dims[start:end:step])


def _bounds(starts: Sequence[object], ends: Sequence[object], steps: Sequence[int], axes: Sequence[int],
            x: Value) -> dict[int, tuple[int, int, int]] | None:
    """(start, length, step) by axis of a slice with known, forward bounds; None where they are not."""
    shape = static_shape(x)
    if shape is None:
        return None
    out = {}
    for axis, start, end, step in zip(axes, starts, ends, steps):
        if not isinstance(start, int) or not isinstance(end, int) or step < 1:
            return None
        walked = range(shape[axis])[start:end:step]
        out[axis] = (walked.start, len(walked), step)
    return out


def _slice_of_slice(m: Match) -> Value | None:
    inner = _bounds(m.starts, m.ends, m.steps, m.axes, m.x)
    outer = _bounds(m.starts2, m.ends2, m.steps2, m.axes2, m.y)
    if inner is None or outer is None:
        return None
    axes = sorted({*inner, *outer})
    starts, ends, steps = [], [], []
    for axis in axes:
        start, length, step = inner.get(axis, (0, m.x.shape[axis], 1))
        start2, length2, step2 = outer.get(axis, (0, length, 1))
        begin = start + start2 * step
        starts.append(begin)
        ends.append(begin + (length2 - 1) * step * step2 + 1 if length2 else begin)
        steps.append(step * step2)
    return m.build.slice(m.x, axes=axes, starts=starts, ends=ends, steps=steps)


def _slice_of_concat(m: Match) -> Value | None:
    """A slice that lies within one operand of a concat."""
    concat = m.joined.op
    assert concat is not None
    axis, bounds = concat.attrs["axis"], _bounds(m.starts, m.ends, m.steps, m.axes, m.joined)
    if bounds is None or axis not in bounds:
        return None
    start, length, step = bounds[axis]
    offset = 0
    for part in concat.variadic():
        size = part.shape[axis]
        if not isinstance(size, int):
            return None
        last = start + (length - 1) * step
        if length and offset <= start and last < offset + size:
            starts = [start - offset if a == axis else s for a, s in zip(m.axes, m.starts)]
            ends = [last + 1 - offset if a == axis else e for a, e in zip(m.axes, m.ends)]
            return m.build.slice(part, axes=m.axes, starts=starts, ends=ends, steps=m.steps)
        offset += size
    return None


def _concat_of_concats(m: Match) -> Value | None:
    axis = m.root.attrs["axis"]
    parts: list[Value] = []
    for v in m.root.variadic():
        inner = v.op
        once = inner is not None and inner.name == "concat" and inner.attrs["axis"] == axis and len(v.uses) == 1
        parts += inner.variadic() if once and inner is not None else [v]
    return m.build.concat(*parts, axis=axis) if len(parts) > len(m.root.variadic()) else None


def _concat_of_neighbours(m: Match) -> Value | None:
    """Slices along the concat's axis that lie one after the other in one value are one slice."""
    axis, parts = m.root.attrs["axis"], m.root.variadic()
    runs: list[tuple[Value, int, int] | Value] = []
    for v in parts:
        piece = _piece(v, axis)
        if piece is not None and runs and isinstance(runs[-1], tuple) and runs[-1][0] is piece[0] and runs[-1][2] == piece[1]:
            runs[-1] = (piece[0], runs[-1][1], piece[2])
        else:
            runs.append(v if piece is None else piece)
    if len(runs) == len(parts):
        return None
    new = [r if isinstance(r, Value) else m.build.slice(r[0], axes=[axis], starts=[r[1]], ends=[r[2]], steps=[1]) for r in runs]
    return new[0] if len(new) == 1 else m.build.concat(*new, axis=axis)


def _piece(v: Value, axis: int) -> tuple[Value, int, int] | None:
    """(source, start, end) of a value cut out along `axis` alone, in steps of one."""
    op = v.op
    if op is None or op.operands[:1] == (None,):
        return None
    if op.name == "slice" and op.attrs["axes"] == (axis,) and op.attrs["steps"] == (1,) and op.operands[0] is not None:
        source = op.operands[0]
        shape, start, end = static_shape(source), op.attrs["starts"][0], op.attrs["ends"][0]
        if shape is not None and isinstance(start, int) and isinstance(end, int):
            walked = range(shape[axis])[start:end]
            return source, walked.start, walked.start + len(walked)
    if op.name == "split" and op.attrs["axis"] == axis and all(isinstance(s, int) for s in op.attrs["sizes"]):
        sizes = op.attrs["sizes"]
        start = sum(sizes[:v.index])
        return (op.operands[0], start, start + sizes[v.index]) if op.operands[0] is not None else None
    return None


def _pad_of_pad(m: Match) -> Value | None:
    if min(*m.p, *m.q, 0) < 0:
        return None
    values = [op.operands[1] if len(op.operands) > 1 else None for op in (m.y.op, m.root)]
    if values[0] is not values[1]:
        a, b = (0 if v is None else v.constant for v in values)
        if a is None or b is None or not np.array_equal(a, b):
            return None
    return m.build.pad(m.x, values[1], pads=[a + b for a, b in zip(m.p, m.q)])


RULES = [
    Rule("gather of a range", "gather(%x, #i) {axis=?axis}", _gather_of_a_range),
    Rule("compress of a known mask", "compress(%x, %c) {axis=?axis}", _compress_of_a_mask),
    Rule("gather of dims", "gather(dims() {values=?dims}, #i) {axis=?axis}", _gather_of_dims),
    Rule("slice of dims", "slice(dims() {values=?dims}) {axes=?axes, starts=?starts, ends=?ends, steps=?steps}", _slice_of_dims),
    Rule("slice of a slice", "slice(%y=slice(%x) {axes=?axes, starts=?starts, ends=?ends, steps=?steps}) "
         "{axes=?axes2, starts=?starts2, ends=?ends2, steps=?steps2}", _slice_of_slice),
    Rule("slice of a concat", "slice(%joined=concat(...)) {axes=?axes, starts=?starts, ends=?ends, steps=?steps}",
         _slice_of_concat),
    Rule("concat of concats", "concat(...)", _concat_of_concats),
    Rule("concat of neighbours", "concat(...)", _concat_of_neighbours),
    Rule("pad of a pad", 'pad(%y=pad!(%x, ...) {pads=?p, mode="constant"}, ...) {pads=?q, mode="constant"}', _pad_of_pad),
]


class Gathers(RulePass):
    """Before: a canonical graph. After: no gather whose constant indices form a range, no slice of a slice, of a concat's one
    operand or of symbolic dims, no concat of concats or of slices that lie side by side."""

    name = "gathers"
    rules = RULES
