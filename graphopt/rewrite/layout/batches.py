"""Large batches: the first layers run for a few images at a time, so that what they pass on stays in cache.

In a network of images the first layers have large values and small weights, the last ones the reverse. The first run part
by part, each part all the way to a cut; the rest runs for the whole batch, with weights that pass once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from graphopt.errors import IRError
from graphopt.ir.fused import held, outsides
from graphopt.ir.graph import Graph, Op, Value
from graphopt.ir.types import TensorType, logical
from graphopt.rewrite.engine.context import Context
from graphopt.rewrite.engine.manager import Pass


class Batches(Pass):
    """Before: fused ops, layouts chosen. After: where the target says that it pays, the ops up to a cut are there once for each
    part of the batch, working on slices of the inputs, and what crosses the cut is a `join` of the parts. Values are unchanged.
    """

    name = "batches"

    def run(self, graph: Graph, context: Context) -> bool:
        batch = _batch(graph)
        if batch < 2:
            return False
        carrying = {v for v in graph.inputs if _leads(v, batch)}
        first: list[Op] = []
        for op in graph.ops:
            if op.name == "const" or not any(v in carrying for v in op.operands):
                continue
            if all(v is None or v in carrying or v.constant is not None for v in op.operands) and _apart(op, carrying, batch):
                first.append(op)
                carrying.update(op.results)
        chosen = context.target.parts(first, [k for k in range(1, len(first) + 1) if _cuttable(first, k)], batch)
        if chosen is None:
            return False
        count, images = chosen
        if not context.take(f"run {count} ops for {images} of {batch} images at a time", first[0]):
            return False
        last = first[count - 1]
        _divide(graph, first[:count], batch, images)
        context.because(last, f"the {count} kernels up to here run for {images} of {batch} images at a time: what they pass on "
                              "stays in cache")
        return True


def _batch(graph: Graph) -> int:
    """The first dim that the inputs share, 0 where they do not."""
    sizes = {v.type.shape[0] for v in graph.inputs if isinstance(v.type, TensorType) and v.type.shape}
    size = next(iter(sizes)) if len(sizes) == 1 else 0
    static = all(isinstance(v.type, TensorType) and v.type.is_static for v in graph.values())
    return size if static and isinstance(size, int) else 0


def _leads(v: Value, batch: int) -> bool:
    return isinstance(v.type, TensorType) and bool(v.type.shape) and v.static_shape[0] == batch


def _apart(op: Op, carrying: set[Value], batch: int) -> bool:
    """Is every image of the op's result made of the same image of its operands? (Those `carrying` the batch.)"""
    if len(op.results) != 1 or not _leads(op.result, batch):
        return False
    inside = {v for v, o in outsides(op).items() if o in carrying}
    for o in held(op):
        if o.name == "const" or not any(v in inside for v in o.operands):
            continue
        if len(o.results) != 1 or not _leads(o.result, batch):
            return False
        rows = o.definition.rows(o.view())
        if any(v in inside and k not in rows for k, v in enumerate(o.operands)):
            return False
        inside.add(o.result)
    return _smaller(op, carrying, batch)


def _smaller(op: Op, carrying: set[Value], batch: int) -> bool:
    """Can the op be had for one image?"""
    scratch = Graph("scratch")
    try:
        given: dict[Value, Value] = {}
        for v in op.operands:
            if v is not None and v not in given:
                given[v] = scratch.add_input(_for(v, 1) if v in carrying else v.type)
        _copy(op, scratch, given, batch, 1)
    except IRError:
        return False
    return True


def _for(v: Value, images: int) -> TensorType:
    assert isinstance(v.type, TensorType)
    return replace(v.type, shape=(images, *v.static_shape[1:]))


def _copy(op: Op, graph: Graph, given: dict[Value, Value], batch: int, images: int, before: Op | None = None) -> Op:
    """The op for fewer images, on `given` operands. IRError where its attributes or its body will not have it."""
    regions = []
    for region in op.regions:
        body = graph.nested(region.name)
        inside: dict[Value, Value] = {}
        for v, outer in zip(region.inputs, op.operands):
            assert outer is not None
            inside[v] = body.add_input(logical(given[outer].type), v.name)
        for o in region.ops:
            inner = body.add(o.name, [None if v is None else inside[v] for v in o.operands], _attrs(o, batch, images), loc=o.loc)
            _check(o, inner, inside, batch, images)
            for old, new in zip(o.results, inner.results):
                inside[old], new.name = new, old.name
        body.outputs = [inside[v] for v in region.outputs]
        regions.append(body)
    operands = [None if v is None else given[v] for v in op.operands]
    copy = graph.add(op.name, operands, _attrs(op, batch, images), regions=regions, loc=op.loc, before=before,
                     types=[_for(r, images) for r in op.results])
    if [r.type for r in copy.results] != [_for(r, images) for r in op.results]:
        raise IRError("its result has not the wanted shape", where=op.where())
    return copy


def _attrs(o: Op, batch: int, images: int) -> dict[str, object]:
    """Attributes, a shape among them for fewer images."""
    shape = o.attrs.get("shape")
    if isinstance(shape, tuple) and shape and shape[0] == batch and _leads(o.results[0], batch):
        return {**o.attrs, "shape": (images, *shape[1:])}
    return dict(o.attrs)


def _check(old: Op, new: Op, inside: Mapping[Value, Value], batch: int, images: int) -> None:
    """IRError where a body's op did not become smaller as it should."""
    changed = any(v is not None and inside[v].type != logical(v.type) for v in old.operands)
    for a, b in zip(old.results, new.results):
        if b.type != logical(_for(a, images) if changed else a.type):
            raise IRError("it does not keep images apart", where=old.where())


def _crossing(first: Sequence[Op]) -> list[Value]:
    """What the ops make and others read."""
    inside = set(first)
    return [r for op in first for r in op.results if any(user not in inside for user in r.users)]


def _cuttable(first: Sequence[Op], count: int) -> bool:
    """Can all that crosses the cut after so many ops be computed in a part of it?"""
    return all(_anywhere(v) for v in _crossing(first[:count]))


def _anywhere(v: Value) -> bool:
    assert v.op is not None
    return not v.op.definition.may_view and v.op.name != "join"


def _divide(graph: Graph, ops: Sequence[Op], batch: int, images: int) -> None:
    inside = set(ops)
    behind = next((op for op in graph.ops if op.name != "const" and op not in inside), None)
    for v in {v: None for op in ops for v in op.operands if v is not None and v.constant is not None}:
        if v.op is not None and v.op is not (head := next(iter(graph.ops))):
            graph.move_before(v.op, head)
    crossing = _crossing(ops)
    parts: dict[Value, list[Value]] = {v: [] for v in crossing}
    read = [v for v in graph.inputs if any(user in inside for user in v.users)]
    for start in range(0, batch, images):
        given: dict[Value, Value] = {}
        for v in read:
            cut = {"axes": (0,), "starts": (start,), "ends": (start + images,), "steps": (1,)}
            given[v] = graph.add("slice", [v], cut, before=behind).result
        for op in ops:
            given.update({v: v for v in op.operands if v is not None and v.constant is not None})
            given.update(zip(op.results, _copy(op, graph, given, batch, images, behind).results))
        for v in crossing:
            parts[v].append(given[v])
    for v, made in parts.items():
        assert v.op is not None
        joined = graph.add("join", made, {"axis": 0}, types=[v.type], loc=v.op.loc, before=behind).result
        joined.name = v.name
        v.replace_all_uses_with(joined)
    for op in reversed(ops):
        op.erase()


__all__ = ["Batches"]
