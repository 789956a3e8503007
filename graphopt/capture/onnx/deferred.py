"""Nodes that cannot be captured statically, and their capture at run time, when everything is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from graphopt.capture.onnx.known import Knowledge
from graphopt.capture.onnx.order import node_free_names
from graphopt.capture.onnx.session import Session, schema_of
from graphopt.capture.onnx.table import Defer
from graphopt.capture.onnx.types import from_inferred, to_type_proto
from graphopt.errors import CaptureError, EvaluationError
from graphopt.ir.dims import Dim
from graphopt.ir.graph import Graph, Value
from graphopt.ir.types import TensorType, Type, type_of

if TYPE_CHECKING:
    from graphopt.capture.onnx.context import Node

MOST_DIMS = 4096


def defer(node: Node, reason: Defer) -> list[Value | None]:
    """A `deferred` op for the node; the control operands that it lacks are noted in the session."""
    scope, session = node.scope, node.scope.session
    if scope.ctx.knowledge.eager:
        raise node.error(f"cannot be evaluated: {reason.reason}")
    session.unresolved.extend(reason.values)
    session.deferred += 1
    operands = [v for v in node.inputs if v is not None]
    present = [v is not None for v in node.inputs]
    outside: list[str] = []
    for name in node_free_names(node.proto):
        value = scope.find(name)
        if isinstance(value, Value):
            outside.append(name)
            operands.append(value)
    wanted = [i for i in range(node.outputs) if node.wants(i)]
    run = _Run(node, present, outside, wanted)
    types = _result_types(node, wanted, scope.graph)
    run.result_types = types
    op = scope.ctx.op("deferred", operands, {"what": node.kind, "run": run}, types=types)
    results: list[Value | None] = [None] * node.outputs
    for i, r in zip(wanted, op.results):
        results[i] = r
    return results


class _Run:
    """Captures one node on concrete operands, evaluating as it goes."""

    def __init__(self, node: Node, present: Sequence[bool], outside: Sequence[str], wanted: Sequence[int]) -> None:
        self.present, self.outside, self.wanted = present, outside, wanted
        self.proto, self.place, self.opsets, self.refs = node.proto, node.place, dict(node.scope.opsets), node.scope.refs
        session = node.scope.session
        self.scope = type(node.scope)  # of what it was captured in no more is kept
        self.session = (session.where, session.functions, session.ir_version)
        self.result_types: list[Type] = []

    def __call__(self, operands: Sequence[Any]) -> list[Any]:
        where, functions, ir_version = self.session
        session = Session(where, functions, {}, ir_version, knowledge=Knowledge(eager=True))
        scope = self.scope.evaluating(session, self.opsets, self.refs)
        proto = onnx.NodeProto()
        proto.CopyFrom(self.proto)
        del proto.input[:]
        given = iter(operands)
        for i, there in enumerate(self.present):
            proto.input.append(f"operand {i}" if there else "")
            if there:
                scope.names[f"operand {i}"] = _concrete(scope.graph, session, next(given))
        for name in self.outside:
            scope.names[name] = _concrete(scope.graph, session, next(given))
        try:
            scope.capture_node(proto)
        except CaptureError as e:
            raise EvaluationError(e.what, where=e.where, hint=e.hint) from e
        out = []
        for i in self.wanted:
            value = scope.find(proto.output[i])
            assert isinstance(value, Value)
            out.append(session.knowledge.get(value))
        return out

    def __repr__(self) -> str:
        return f"<deferred {self.proto.op_type}>"


def _concrete(graph: Graph, session: Session, content: Any) -> Value:
    value = graph.add_input(type_of(content))
    session.knowledge.bind(value, content)
    return value


def _result_types(node: Node, wanted: Sequence[int], graph: Graph) -> list[Type]:
    """Types of a deferred node's results by ONNX's own inference, unranked where that knows nothing."""
    inferred = _infer(node)
    types: list[Type] = []
    for i in wanted:
        proto = inferred.get(node.proto.output[i])
        if proto is None or proto.WhichOneof("value") is None:
            types.append(_fallback(node, i))
            continue
        t, _ = from_inferred(proto, node.place)
        if isinstance(t, TensorType) and t.shape is not None:
            t = TensorType(t.dtype, tuple(graph.fresh_symbol() if not isinstance(d, Dim) and d < 0 else d for d in t.shape))
        types.append(t)
    return types


def _infer(node: Node) -> dict[str, onnx.TypeProto]:
    schema = schema_of(node.domain, node.kind, node.version)
    if schema is None:
        return {}
    proto = onnx.NodeProto()
    proto.CopyFrom(node.proto)
    del proto.input[:]
    types, data = {}, {}
    for i, v in enumerate(node.inputs):
        proto.input.append("" if v is None else f"operand {i}")
        if v is None:
            continue
        t = v.type
        if isinstance(t, TensorType) and t.shape is not None and len(t.shape) == 1 and isinstance(t.shape[0], int) \
                and t.shape[0] > MOST_DIMS:
            t = TensorType(t.dtype, None)  # inference would make a shape of that many dims
        types[f"operand {i}"] = to_type_proto(t)
        content = node.scope.ctx.content(v)
        if isinstance(content, np.ndarray) and content.dtype != object and content.size <= 1024:
            data[f"operand {i}"] = onnx.numpy_helper.from_array(content)
    try:
        return onnx.shape_inference.infer_node_outputs(
            schema, proto, types, data, None, [onnx.helper.make_opsetid(d, v) for d, v in node.scope.opsets.items()],
            node.scope.session.ir_version)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, ValueError, KeyError, RuntimeError, TypeError,
            MemoryError):
        return {}  # no help from there: the fallback knows the dtype


def _fallback(node: Node, index: int) -> Type:
    """An unranked tensor of the dtype that the schema ties to an operand's."""
    schema = schema_of(node.domain, node.kind, node.version)
    if schema is not None and schema.outputs:
        variable = schema.outputs[min(index, len(schema.outputs) - 1)].type_str
        for formal, v in zip(schema.inputs, node.inputs):
            if v is not None and formal.type_str == variable:
                return TensorType(v.type.dtype, None) if isinstance(v.type, TensorType) else v.type
    for v in node.inputs:
        if v is not None:
            return TensorType(v.type.dtype, None) if isinstance(v.type, TensorType) else v.type
    raise node.error("the type of its result is not known")


__all__ = ["defer"]
