"""Sequences and optionals whose contents are known dissolve into the tensors that they hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from graphopt.ir.graph import Builder, Graph, Op, Value, refine
from graphopt.ir.ops.sequence import lengths
from graphopt.ir.settle import Settling
from graphopt.ir.types import OptionalType, TensorType
from graphopt.rewrite.engine.context import Context
from graphopt.rewrite.engine.manager import GraphPass


class Sequences(GraphPass):
    """Before: any graph. After: no op reads an element, the length or the concatenation of a sequence that the graph itself
    made of known parts, at a constant place; no op asks a tensor or a filled optional whether it is there."""

    name = "sequences"

    def run_on(self, graph: Graph, context: Context) -> bool:
        changed, before = False, len(graph)
        known: dict[Value, list[Value]] = {}
        walk = Settling(graph)
        for op in graph.ops:
            walk.visit(op)
            if op.name in _CONTENTS:
                items = _CONTENTS[op.name](op, known, graph)
                if items is not None:
                    known[op.result] = items
            elif op.name in _READS:
                value = _READS[op.name](op, known, Builder(graph, before=op, loc=op.loc))
                if value is None:
                    continue
                if not context.take("dissolve a sequence", op):
                    break
                context.because(op, "what it reads is known")
                value.type = refine(value.type, op.result.type)
                op.replace_with([value])
                changed = True
        return changed or len(graph) != before


def _place(op: Op, name: str, default: int) -> int | None:
    """The constant index in an operand; `default` where it is absent, None where only running tells."""
    v = op.operand(name)
    if v is None:
        return default
    return None if v.constant is None else int(v.constant.reshape(-1)[0])


Known = dict[Value, list[Value]]


def _insert(op: Op, known: Known, graph: Graph) -> list[Value] | None:
    items, item = known.get(op.operands[0]), op.operands[1]  # type: ignore[arg-type]
    at = _place(op, "index", len(items or ()))
    if items is None or item is None or at is None or not -len(items) <= at <= len(items):
        return None
    at += len(items) if at < 0 else 0
    return [*items[:at], item, *items[at:]]


def _erase(op: Op, known: Known, graph: Graph) -> list[Value] | None:
    items, at = known.get(op.operands[0]), _place(op, "index", -1)  # type: ignore[arg-type]
    if items is None or at is None or not -len(items) <= at < len(items):
        return None
    at %= len(items)
    return [*items[:at], *items[at + 1:]]


def _pieces(op: Op, known: Known, graph: Graph) -> list[Value] | None:
    """A tensor split along an axis of known size, where another op here looks into it; pieces that nobody reads are dead."""
    x, split, axis = op.operands[0], op.operand("split"), op.attrs["axis"]
    if not any(user.name in _CONTENTS or user.name in _READS for user in op.result.users):
        return None
    assert x is not None
    size = x.shape[axis] if isinstance(x.type, TensorType) and x.type.shape is not None else None
    if not isinstance(size, int) or size == 0 or (split is not None and split.constant is None):
        return None
    sizes = [1] * size if split is None else lengths(split.constant, size)  # type: ignore[arg-type]
    if any(n < 0 for n in sizes) or sum(sizes) != size:
        return None
    build = Builder(graph, before=op, loc=op.loc)
    parts = list(build.op("split", [x], {"axis": axis, "sizes": sizes}).results)
    if split is None and not op.attrs["keepdims"]:
        shape = [d for k, d in enumerate(x.shape) if k != axis]
        return [build.reshape(p, shape=shape) for p in parts]
    return parts


def _at(op: Op, known: Known, build: Builder) -> Value | None:
    items, at = known.get(op.operands[0]), _place(op, "index", 0)  # type: ignore[arg-type]
    return items[at] if items is not None and at is not None and -len(items) <= at < len(items) else None


def _length(op: Op, known: Known, build: Builder) -> Value | None:
    items = known.get(op.operands[0])  # type: ignore[arg-type]
    return None if items is None else build.const(np.int64(len(items)))


def _concat(op: Op, known: Known, build: Builder) -> Value | None:
    items, axis = known.get(op.operands[0]), op.attrs["axis"]  # type: ignore[arg-type]
    if not items or not _agree(items, None if op.attrs["new_axis"] else axis):
        return None
    if op.attrs["new_axis"]:
        items = [build.reshape(v, shape=[*v.shape[:axis], 1, *v.shape[axis:]]) for v in items]
    return build.concat(*items, axis=axis)  # type: ignore[no-any-return]


def _agree(items: Sequence[Value], but: int | None) -> bool:
    """Tensors of one known shape, whatever it is along axis `but`."""
    shapes = set()
    for v in items:
        if not isinstance(v.type, TensorType) or v.type.shape is None or None in v.type.shape:
            return False
        shapes.add(tuple(d for k, d in enumerate(v.type.shape) if k != but))
    return len(shapes) == 1


def _held(v: Value) -> Value | None:
    """What an optional certainly holds: it is no optional, or was just filled."""
    if not isinstance(v.type, OptionalType):
        return v
    return _held(v.op.operands[0]) if v.op is not None and v.op.name == "optional_wrap" and v.op.operands[0] is not None else None


def _has(op: Op, known: Known, build: Builder) -> Value | None:
    x = op.operands[0] if op.operands else None
    if x is None:
        return build.const(np.asarray(False))
    return None if _held(x) is None else build.const(np.asarray(True))


def _get(op: Op, known: Known, build: Builder) -> Value | None:
    x = op.operands[0]
    return None if x is None else _held(x)


_CONTENTS: dict[str, Callable[[Op, Known, Graph], list[Value] | None]] = {
    "seq_construct": lambda op, known, graph: [v for v in op.operands if v is not None],
    "seq_empty": lambda op, known, graph: [],
    "seq_insert": _insert,
    "seq_erase": _erase,
    "split_to_seq": _pieces,
}
_READS: dict[str, Callable[[Op, Known, Builder], Value | None]] = {
    "seq_at": _at, "seq_length": _length, "concat_from_seq": _concat, "optional_has": _has, "optional_get": _get,
}
