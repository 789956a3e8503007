"""Operators with a function body: the model's own functions, and those that ONNX's schemas define."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from graphopt.capture.onnx.session import schema_of
from graphopt.capture.onnx.table import Defer
from graphopt.capture.onnx.types import to_type_proto
from graphopt.ir.graph import Value
from graphopt.ir.types import TensorType

if TYPE_CHECKING:
    from graphopt.capture.onnx.context import Node

DEPTH = 100  # functions may not call themselves, neither directly nor through others


def expand(node: Node, function: onnx.FunctionProto | None = None) -> list[Value | None]:
    """Capture the body of the function that a node calls, in place."""
    if function is None:
        function = _schema_function(node)
    outer = node.scope
    if outer.prefix.count("/") > DEPTH:
        raise node.error("function calls are nested too deeply", "A function of the model calls itself")
    given = {**_defaults(node), **{a.name: a for a in _resolved(node)}}
    refs = {name: given[name] for name in function.attribute if name in given}
    for default in function.attribute_proto:
        refs[default.name] = given.get(default.name, default)
    place = node.proto.name or next((o for o in node.proto.output if o), node.kind)
    body = outer.body(place, function.opset_import, refs)
    for i, name in enumerate(function.input):
        body.names[name] = node.get(i)
    body.run(function.node)
    return [_result(body, name, i, node) for i, name in enumerate(function.output)]


def _result(body: object, name: str, index: int, node: Node) -> Value | None:
    found = body.find(name)  # type: ignore[attr-defined]
    if found is KeyError:
        if node.wants(index):
            raise node.error(f"the function does not produce its output {name!r}")
        return None
    return found


def _defaults(node: Node) -> dict[str, onnx.AttributeProto]:
    """Default values of attributes as the operator's schema has them."""
    schema = schema_of(node.domain, node.kind, node.version)
    if schema is None:
        return {}
    return {name: a.default_value for name, a in schema.attributes.items()
            if a.default_value.type != onnx.AttributeProto.UNDEFINED}


def _resolved(node: Node) -> list[onnx.AttributeProto]:
    """The node's attributes, references to an enclosing function's attributes replaced."""
    out = []
    for a in node.proto.attribute:
        if a.ref_attr_name:
            refs = node.scope.refs or {}
            if a.ref_attr_name not in refs:
                continue
            copy = onnx.AttributeProto()
            copy.CopyFrom(refs[a.ref_attr_name])
            copy.name = a.name
            out.append(copy)
        else:
            out.append(a)
    return out


def _schema_function(node: Node) -> onnx.FunctionProto:
    schema = schema_of(node.domain, node.kind, node.version)
    assert schema is not None
    function = onnx.FunctionProto()
    version = node.scope.opsets.get("", node.version) if node.domain else node.version
    if schema.has_context_dependent_function:
        plain = onnx.NodeProto()
        plain.CopyFrom(node.proto)
        del plain.attribute[:]
        plain.attribute.extend(_resolved(node))
        types = []
        for v in node.inputs:
            types.append((onnx.TypeProto() if v is None else to_type_proto(v.type)).SerializeToString())
        versions = [v for v in schema.context_dependent_function_opset_versions if v <= version]
        try:
            body = schema.get_context_dependent_function_with_opset_version(
                max(versions, default=schema.since_version), plain.SerializeToString(), types)
        except (ValueError, RuntimeError, TypeError) as e:
            raise node.error(f"onnx cannot build its function body: {e}") from e
        if not body:
            if any(v is not None and isinstance(v.type, TensorType) and not v.type.is_static for v in node.inputs):
                raise Defer("its function body depends on shapes that are not known")
            raise node.error("this form has no function body in ONNX's schema")
        function.ParseFromString(body)
        return function
    versions = [v for v in schema.function_opset_versions if v <= version]
    body = schema.get_function_with_opset_version(max(versions, default=schema.since_version))
    if not body:
        raise node.error(f"has no function body at opset {version}")
    function.ParseFromString(body)
    return function


__all__ = ["expand"]
