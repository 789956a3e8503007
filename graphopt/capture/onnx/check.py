"""What a model's protos must be before anything is made of them: sizes of tensors, operands and attributes of nodes, calls."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import onnx
from onnx import AttributeProto, TensorProto

from graphopt.capture.onnx.session import FunctionKey, Session, advice, opset_versions, schema_of, supported
from graphopt.capture.onnx.table import domain_of
from graphopt.errors import CaptureError, UnsupportedOperators

MOST_ELEMENTS = 1 << 48  # of a tensor: more than any memory holds, and far from where 64 bits overflow
MOST_INLINED = 100_000  # nodes that the calls of a model's own functions may become
NEWEST = (1 << 31) - 1  # the version of an operator that is the newest there is

_OPERAND = onnx.defs.OpSchema.FormalParameterOption


def check_dims(dims: Iterable[int], place: str, what: str = "its shape") -> int:
    """The number of elements of a shape; CaptureError where a dim is negative or there are too many."""
    listed = list(dims)
    if any(d < 0 for d in listed):
        raise CaptureError(f"{what} {listed} has a negative dim", where=place, hint="The file is damaged")
    count = math.prod(listed)
    if count > MOST_ELEMENTS or max(listed, default=0) > MOST_ELEMENTS:
        raise CaptureError(f"{what} {listed} has more elements than any memory holds", where=place, hint="The file is damaged")
    return count


def tensors_of(nodes: Iterable[onnx.NodeProto]) -> Iterator[tuple[TensorProto, str]]:
    """Every tensor in attributes and nested graphs, with its place in words."""
    for node in nodes:
        for a in node.attribute:
            place = f"{node.name or node.op_type}, attribute {a.name}"
            for t in [a.t] if a.HasField("t") else a.tensors:
                yield t, place
            for s in [a.sparse_tensor] if a.HasField("sparse_tensor") else a.sparse_tensors:
                yield from ((s.values, place), (s.indices, place))
            for g in [a.g] if a.HasField("g") else a.graphs:
                for t in g.initializer:
                    yield t, f"initializer {t.name!r}"
                for s in g.sparse_initializer:
                    yield from ((s.values, f"initializer {s.values.name!r}"), (s.indices, f"initializer {s.values.name!r}"))
                yield from tensors_of(g.node)


def check_tensors(model: onnx.ModelProto, where: str) -> None:
    """Raise CaptureError for the first tensor, anywhere in the model, whose shape none can have."""
    for t in model.graph.initializer:
        check_dims(t.dims, f"{where}: initializer {t.name!r}")
    for s in model.graph.sparse_initializer:
        check_dims(s.dims, f"{where}: initializer {s.values.name!r}")
    for nodes in (model.graph.node, *(f.node for f in model.functions)):
        for t, place in tensors_of(nodes):
            check_dims(t.dims, f"{where}: {place}")


def check_nodes(session: Session, graph: onnx.GraphProto, opsets: Mapping[str, int]) -> None:
    """Check every node against what is known of its operator.

    Raises UnsupportedOperators naming every operator without an entry or a function body, with its places; CaptureError for an
    operand that is missing, an attribute of a wrong kind, and functions that call themselves or come to too many nodes.
    """
    missing: list[tuple[str, str]] = []
    sizes: dict[FunctionKey, int | None] = {}  # nodes that a call of a function becomes; None while that is counted

    def visit(nodes: Iterable[onnx.NodeProto], versions: Mapping[str, int], prefix: str) -> int:
        total = 0
        for node in nodes:
            place = prefix + (node.name or next((o for o in node.output if o), node.op_type))
            domain = domain_of(node.domain)
            function = session.function(node)
            total += 1
            if function is not None:
                total += called((domain, node.op_type, function.overload), function, versions, place)
            elif not supported(domain, node.op_type, versions.get(domain, 1)):
                missing.append((f"{domain}.{node.op_type}" if domain else node.op_type, place))
            else:
                _check_node(node, domain, versions.get(domain, 1), f"{session.where}: {place}")
            for a in node.attribute:
                for inner in [a.g] if a.type == AttributeProto.GRAPH else a.graphs:
                    total += visit(inner.node, versions, f"{place}/")
        return total

    def called(key: FunctionKey, function: onnx.FunctionProto, versions: Mapping[str, int], place: str) -> int:
        if key not in sizes:
            sizes[key] = None
            sizes[key] = visit(function.node, {**versions, **opset_versions(function.opset_import)}, f"{place}/")
        size = sizes[key]
        if size is None:
            raise CaptureError(f"the function {function.name!r} calls itself", where=f"{session.where}: {place[:200]}",
                               hint="ONNX has no recursion; the file is damaged")
        if size > MOST_INLINED:
            raise CaptureError(f"a call of the function {function.name!r} becomes {size} nodes, more than {MOST_INLINED}",
                               where=f"{session.where}: {place[:200]}", hint="Functions that call functions several times double "
                               "at each level; export the model without them")
        return size

    total = visit(graph.node, opsets, "")
    if missing:
        raise UnsupportedOperators(missing, where=session.where, hint=advice(missing))
    written = sum(len(f.node) for f in session.functions.values()) + len(graph.node)
    if total > max(MOST_INLINED, 1000 * written) or total > 100 * MOST_INLINED:
        raise CaptureError(f"its functions come to {total} nodes, from {written} in the file", where=session.where,
                           hint="Export the model without them")


def _check_node(node: onnx.NodeProto, domain: str, version: int, place: str) -> None:
    """Operands and attributes as the operator's schema has them, where there is one."""
    schema = schema_of(domain, node.op_type, version)
    if schema is None:
        return
    for k, formal in enumerate(schema.inputs):
        given = k < len(node.input) and bool(node.input[k])
        if formal.option == _OPERAND.Single and not given:
            raise CaptureError(f"{node.op_type}: operand {k} ({formal.name}) is missing", where=place,
                               hint="The model is damaged, or breaks a rule of the operator")
    if len(node.input) < schema.min_input:
        raise CaptureError(f"{node.op_type}: has {len(node.input)} operands, needs {schema.min_input}", where=place,
                           hint="The model is damaged, or breaks a rule of the operator")
    known: Any = schema.attributes
    for a in node.attribute:
        wanted = known.get(a.name)
        if wanted is not None and a.type and int(wanted.type.value) != a.type:
            kind = AttributeProto.AttributeType.Name(a.type) if a.type in AttributeProto.AttributeType.values() else a.type
            raise CaptureError(f"{node.op_type}: attribute {a.name} is of kind {kind}, must be {wanted.type.name}", where=place,
                               hint="The model is damaged, or breaks a rule of the operator")
    newest: Any = schema_of(domain, node.op_type, NEWEST).attributes
    for name, attribute in known.items():
        if name in newest and not newest[name].required:
            continue  # as onnxruntime takes a Constant of an old opset with what newer ones have
        if attribute.required and not any(a.name == name for a in node.attribute):
            raise CaptureError(f"{node.op_type}: attribute {name} is missing", where=place,
                               hint="The model is damaged, or breaks a rule of the operator")


__all__ = ["check_dims", "check_nodes", "check_tensors", "tensors_of"]
