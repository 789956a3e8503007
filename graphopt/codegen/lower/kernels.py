"""One op, plain or fused, to one kernel: by a target's template where it has one, else by the op's lowering rule."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from graphopt.codegen.kernel.expr import INDEX, Buffer, Expr, ExprLike, as_expr, const, load
from graphopt.codegen.kernel.index import flat_index
from graphopt.codegen.kernel.loops import Kernel, Stmt, seq
from graphopt.codegen.kernel.verify import verify
from graphopt.codegen.lower.registry import COMPUTE, CUTS, LOOPS, SCRATCH, Inliner, OpView
from graphopt.codegen.lower.schedule import WAYS, Output, Style, iteration, schedule, scheduled
from graphopt.errors import CodegenError
from graphopt.ir.fused import ends, kind, outsides
from graphopt.ir.graph import Graph, Op, Value
from graphopt.ir.types import BF16, F32, TensorType, dtype


@dataclass(frozen=True)
class Packing:
    """A constant operand rearranged once, before running. `key` names the arrangement; equal keys, equal results.

    `parts` gives the `size` bytes of the result piece by piece, so that a large one never exists twice.
    """

    key: str
    size: int
    parts: Callable[[np.ndarray], Iterator[np.ndarray]]

    def apply(self, array: np.ndarray) -> np.ndarray:
        """The whole result, flat."""
        return np.concatenate([p.reshape(-1) for p in self.parts(array)])


@dataclass(frozen=True)
class Lowered:
    """A kernel and what to pass it: parameters are `operands`, then the op's results, then `scratch`."""

    kernel: Kernel
    operands: tuple[Value, ...]
    packings: dict[int, Packing] = field(default_factory=dict)  # by position in operands
    scratch: tuple[Buffer, ...] = ()


Match = Callable[[Op, str, Style], Lowered | None]  # (op, the kernel's name, style)


@dataclass(frozen=True)
class Template:
    """A hand-shaped kernel, and what it is called. `match` returns None for ops that it does not cover."""

    name: str
    match: Match


def inlined(v: Value) -> bool:
    """Whether a value is written into the kernel's code: constants of one element."""
    return v.constant is not None and v.constant.size == 1


def arguments(op: Op) -> list[Value]:
    """Operand values that the kernel gets as buffers, each once, in order."""
    found: dict[Value, None] = {}
    for v in op.operands:
        if v is not None and not inlined(v):
            found[v] = None
    return list(found)


def kernel_key(op: Op) -> str:
    """Text that two ops share exactly when one kernel serves both: no names and no source locations in it."""
    return _key(op, {}, inline=True)


def _key(op: Op, numbers: dict[Value, int], inline: bool) -> str:
    parts = []
    for v in op.operands:
        if v is None:
            parts.append("_")
        elif v.constant is not None and v.constant.size == 1:
            parts.append(f"{v.constant.reshape(()).tolist()!r}:{v.type}")
        else:
            const_mark = "w" if inline and v.constant is not None else ""
            parts.append(f"%{numbers.setdefault(v, len(numbers))}{const_mark}:{v.type}")
    attrs = ",".join(f"{k}={a}" for k, a in op.attrs.items())
    body = "".join(_region_key(r) for r in op.regions)
    return f"{op.name}({','.join(parts)}){{{attrs}}}->{','.join(str(r.type) for r in op.results)}{body}"


def _region_key(graph: Graph) -> str:
    numbers = {v: k for k, v in enumerate(graph.inputs)}
    lines = []
    for op in graph.ops:
        if op.name == "const" and op.result.constant is not None and op.result.constant.size == 1:
            continue  # written where it is used
        for r in op.results:
            numbers[r] = len(numbers)
        lines.append(_key(op, numbers, inline=False))
    outputs = ",".join(f"%{numbers[v]}" if v in numbers else repr(v.constant) for v in graph.outputs)
    return "[" + ";".join(lines) + "|" + outputs + "]"


def lower(op: Op, name: str, style: Style, templates: Sequence[Template] = ()) -> Lowered:
    """The kernel for `op`. Raises CodegenError where `why_not(op)` gives a reason.

    With GRAPHOPT_VERIFY=1 in the environment, as in the tests, every kernel is verified.
    """
    lowered = _lower(op, name, style, templates)
    if os.environ.get("GRAPHOPT_VERIFY") == "1":
        verify(lowered.kernel)
    return lowered


def _lower(op: Op, name: str, style: Style, templates: Sequence[Template]) -> Lowered:
    for template in templates:
        found = template.match(op, name, style)
        if found is not None:
            return replace(found, kernel=replace(found.kernel, template=template.name))
    if op.name in LOOPS:
        return _imperative(op, name)
    return _computed(op, name, style)


def _imperative(op: Op, name: str) -> Lowered:
    operands = arguments(op)
    given = {v: Buffer(f"in{k}", v.dtype, v.static_shape) for k, v in enumerate(operands)}
    for v in op.operands:
        if v is not None and v not in given:  # a loop rule wants buffers, scalars included
            given[v] = Buffer(f"in{len(given)}", v.dtype, v.static_shape)
            operands.append(v)
    outs = [Buffer(f"out{k}", r.dtype, r.static_shape) for k, r in enumerate(op.results)]
    view = OpView(op, [None if v is None else (lambda *i, b=given[v]: load(b, i)) for v in op.operands])
    ins = [None if v is None else given[v] for v in op.operands]
    scratch: tuple[Buffer, ...] = ()
    if op.name in SCRATCH:
        scratch = tuple(Buffer(f"scratch{k}", dtype(d), s) for k, (d, s) in enumerate(SCRATCH[op.name](view)))
        body = LOOPS[op.name](view, ins, outs, list(scratch))
    else:
        body = LOOPS[op.name](view, ins, outs)
    params = (*given.values(), *outs, *scratch)
    return Lowered(Kernel(name, params, body, len(given), len(outs), "loops"), tuple(operands), scratch=scratch)


def position(index: Sequence[ExprLike], t: TensorType) -> Expr:
    """Where element `index` of a tensor lies in its buffer: row-major in the order of its layout, past its halo."""
    if t.layout is None:
        return flat_index([as_expr(i) for i in index], t.static_shape)
    halo = t.layout.halo
    return flat_index([as_expr(index[a]) + (halo if a >= 2 else 0) for a in t.storage_axes], t.storage)


def stored_size(v: Value) -> int:
    """Elements of a value's buffer."""
    assert isinstance(v.type, TensorType)
    return math.prod(v.type.storage)


class Sources:
    """Flat buffers for a kernel's operands, and accessors that index them by the values' own shapes."""

    def __init__(self, op: Op) -> None:
        self.op = op
        self.operands = arguments(op)
        self.buffers = {v: Buffer(f"in{k}", v.dtype, (stored_size(v),)) for k, v in enumerate(self.operands)}
        self.outputs = [Buffer(f"out{k}", r.dtype, (stored_size(r),)) for k, r in enumerate(op.results)]

    def inliner(self) -> tuple[Inliner, list[Value]]:
        """An inliner over the op (or a fused op's body), and the values whose elements are the results."""
        sources = {v: self.access(outer) for v, outer in outsides(self.op).items() if not inlined(v)}
        return Inliner(sources), list(ends(self.op))

    def access(self, v: Value) -> Callable[..., Expr]:
        if inlined(v):
            literal = const(v.constant.reshape(())[()], v.dtype)  # type: ignore[union-attr]
            return lambda *index: literal
        buffer, t = self.buffers[v], v.type
        assert isinstance(t, TensorType)
        return lambda *index: load(buffer, (position(index, t),))

    def borders(self, style: Style) -> list[Stmt]:
        """Statements that fill the halos of the results."""
        return [s for b, r in zip(self.outputs, self.op.results) for s in _fill_halo(b, r, style)]


def _fill_halo(buffer: Buffer, v: Value, style: Style) -> Iterator[Stmt]:
    t = v.type
    assert isinstance(t, TensorType)
    if t.layout is None or not t.layout.halo or 0 in t.static_shape:
        return
    halo = t.layout.halo
    inside = [(halo, t.static_shape[a], halo) if a >= 2 else (0, t.static_shape[a], 0) for a in t.storage_axes]
    yield from fill_around(buffer, t.storage, inside, style, t.layout.fill)


def fill_around(buffer: Buffer, storage: Sequence[int], inside: Sequence[tuple[int, int, int]], style: Style,
                fill: int = 0) -> Iterator[Stmt]:
    """Statements that fill what surrounds a box: `inside` says (before, extent, behind) for each axis of `storage`."""
    # There are no literals of bf16.
    value = const(fill, F32).cast(buffer.dtype) if buffer.dtype is BF16 else const(fill, buffer.dtype)
    for border, (before, extent, behind) in enumerate(inside):
        for start, count in ((0, before), (before + extent, behind)):
            if count == 0:
                continue
            # Along this axis before or behind; inside along the axes further out, all of those further in.
            starts = [b if k < border else start if k == border else 0 for k, (b, _, _) in enumerate(inside)]
            extents = [n if k < border else count if k == border else b + n + e for k, (b, n, e) in enumerate(inside)]
            vars = iteration(extents)
            place = flat_index([i + s for i, s in zip(vars, starts)], storage)
            yield schedule(vars, extents, [Output(buffer, value)], style, place)


def _pieces(op: Op, shape: tuple[int, ...]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The boxes (start, extent) that the result is computed in: one, unless the op's rule is cut along an axis."""
    if op.name not in CUTS:
        return [((0,) * len(shape), shape)]
    axis, sizes = CUTS[op.name](op)
    boxes, first = [], 0
    for n in sizes:
        if n:
            start = tuple(first if d == axis else 0 for d in range(len(shape)))
            boxes.append((start, tuple(n if d == axis else m for d, m in enumerate(shape))))
        first += n
    return boxes


def _computed(op: Op, name: str, style: Style) -> Lowered:
    if kind(op) is None and op.name not in COMPUTE:
        raise CodegenError("has no lowering", where=op.where())
    sources = Sources(op)
    inliner, results = sources.inliner()
    groups: dict[TensorType, list[tuple[Buffer, Value]]] = {}
    for b, v, r in zip(sources.outputs, results, op.results):
        assert isinstance(r.type, TensorType)
        groups.setdefault(replace(r.type, dtype=F32), []).append((b, v))
    nests: list[Stmt] = sources.borders(style)
    ways = {WAYS[0]}
    for t, members in groups.items():
        shape = t.static_shape
        if 0 in shape:
            continue
        for start, extent in _pieces(op, shape):
            vars = iteration(extent)
            index = [v + first if n != 1 else const(first, INDEX) for v, first, n in zip(vars, start, extent)]
            outputs = [Output(b, inliner.at(v, index)) for b, v in members]
            order = t.storage_axes
            way, nest = scheduled([vars[a] for a in order], [extent[a] for a in order], outputs, style, position(index, t))
            ways.add(way)
            nests.append(nest)
    params = (*sources.buffers.values(), *sources.outputs)
    kernel = Kernel(name, params, seq(*nests), len(sources.buffers), len(sources.outputs), max(ways, key=WAYS.index))
    return Lowered(kernel, tuple(sources.operands))
