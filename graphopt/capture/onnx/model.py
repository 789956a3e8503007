"""A whole ONNX model to a graph."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from graphopt.capture.onnx import contrib, ops  # noqa: F401  (they fill the table)
from graphopt.capture.onnx.check import check_nodes
from graphopt.capture.onnx.context import Context
from graphopt.capture.onnx.load import Source, load
from graphopt.capture.onnx.order import location
from graphopt.capture.onnx.scope import Scope
from graphopt.capture.onnx.session import Session, opset_versions
from graphopt.capture.onnx.table import domain_of
from graphopt.capture.onnx.types import DimKey, dim_key, from_type_proto
from graphopt.errors import CaptureError, InputError
from graphopt.ir.graph import Graph, Tensor
from graphopt.ir.live import is_dead
from graphopt.ir.table import Trait
from graphopt.ir.types import TensorType, Type


def capture_onnx(model: Any, *, shapes: Mapping[str, Sequence[int]] | None = None,
                 values: Mapping[str, Any] | None = None, overridden: Collection[str] = ()) -> Graph:
    """The graph of an ONNX model given as a path, bytes or a ModelProto.

    `shapes` fixes the shapes of inputs by name; `values` binds inputs to constants, which stay in the signature. An initialiser
    that is an input as well is a constant, unless `overridden` names it. In the graph's metadata, `control_inputs` names the
    inputs whose values some operators' attributes depend on, `defaults` the inputs that are constants, and
    `recapture(shapes, values)` captures again with those given; it is there when the graph has symbolic dims, control inputs or
    deferred ops. `modules` are those of `modules_of`.
    Raises CaptureError or UnsupportedOperators.
    """
    return _capture(load(model), shapes or {}, values or {}, frozenset(overridden))


def _capture(source: Source, shapes: Mapping[str, Sequence[int]], values: Mapping[str, Any],
             overridden: Collection[str]) -> Graph:
    proto = source.model
    opsets = opset_versions(proto.opset_import) or {"": 1}
    session = Session(source.where, {(domain_of(f.domain), f.name, f.overload): f for f in proto.functions}, source.tensors,
                      proto.ir_version)
    check_nodes(session, proto.graph, opsets)
    graph = Graph(_identifier(proto.graph.name))
    scope = Scope(session, Context(graph, session.knowledge), opsets)
    constants = (*proto.graph.initializer, *(s.values for s in proto.graph.sparse_initializer))
    defaults = {t.name for t in constants}.difference(overridden)
    _inputs(proto.graph, defaults, scope, session, shapes, values)
    scope.initialisers(proto.graph, source.tensors)
    scope.run(proto.graph.node)
    graph.outputs = scope.outputs(o.name for o in proto.graph.output)
    graph.output_names = [o.name for o in proto.graph.output]
    _check_outputs(proto.graph, graph, session)
    remove_dead(graph)
    control = session.control_inputs(graph)
    graph.metadata["call"] = None  # positional in the order of the inputs, or by their names
    graph.metadata["control_inputs"] = control
    graph.metadata["defaults"] = [i.name for i in proto.graph.input if i.name in defaults]
    graph.metadata["external"] = source.external
    graph.metadata["modules"] = modules_of(proto.graph.node)
    if control or graph.symbols() or session.deferred:
        graph.metadata["recapture"] = lambda shapes, values=None: _capture(source, shapes, values or {}, overridden)
    return graph


def modules_of(nodes: Iterable[onnx.NodeProto]) -> dict[str, str]:
    """From source locations to paths of PyTorch modules (`layer1.0.conv1`), of nodes whose exporter kept them.

    torch.onnx writes the modules around a node, from the outside in, and last the node's own name as a Python list.
    """
    found = {}
    for node in nodes:
        scopes = next((p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"), "")
        names = re.findall(r"'([^']*)'", scopes)
        if len(names) > 1 and names[-2]:
            found[location(node)] = names[-2]
    return found


def _inputs(proto: onnx.GraphProto, defaults: Collection[str], scope: Scope, session: Session,
            shapes: Mapping[str, Sequence[int]], values: Mapping[str, Any]) -> None:
    """Inputs of the graph; those with a default are none (before IR version 4 all initialisers are declared as inputs)."""
    graph = scope.graph
    declared = [i for i in proto.input if i.name not in defaults]
    names = {i.name for i in declared}
    for given in [*shapes, *values]:
        if given not in names:
            raise InputError(f"the model has no input {given!r}; it has: {', '.join(sorted(names)) or 'none'}",
                             where=session.where)
    _fix_symbols(declared, session, shapes)
    for i in declared:
        place = f"{session.where}: input {i.name!r}"
        if i.name in scope.defined:
            raise CaptureError("is declared twice", where=place)
        t = from_type_proto(i.type, session.symbols, i.name, place)
        if i.name in shapes and isinstance(t, TensorType):
            t = _with_shape(t, tuple(int(d) for d in shapes[i.name]), place)
        value = graph.add_input(t, i.name)
        graph.input_names.append(i.name)
        if i.name in values:
            array = np.asarray(values[i.name])
            if not isinstance(t, TensorType) or array.dtype != t.dtype.numpy:
                raise InputError(f"is {t}, but the value given is {array.dtype}{list(array.shape)}", where=place)
            _with_shape(t, array.shape, place)
            value = scope.ctx.const(Tensor(array.copy(), i.name))
        scope.define(i.name, value, "inputs")


def _fix_symbols(inputs: Sequence[onnx.ValueInfoProto], session: Session, shapes: Mapping[str, Sequence[int]]) -> None:
    """A dim_param that one input's given shape settles is settled for all. InputError where two of them contradict each other."""
    first: dict[DimKey, tuple[str, int]] = {}
    for i in inputs:
        if i.name not in shapes or not i.type.HasField("tensor_type") or not i.type.tensor_type.HasField("shape"):
            continue
        for axis, (d, n) in enumerate(zip(i.type.tensor_type.shape.dim, shapes[i.name])):
            if d.HasField("dim_value") and d.dim_value >= 0:
                continue
            key = dim_key(d, i.name, axis)
            known = session.symbols.fixed.setdefault(key, int(n))
            owner, there = first.setdefault(key, (i.name, axis))
            if known != n:
                raise InputError(f"dim {key!r} is {int(n)} at axis {axis}, but {known} at axis {there} of input {owner!r}",
                                 where=f"{session.where}: input {i.name!r}",
                                 hint="The model says by this name that they are the same size")


def _with_shape(t: TensorType, shape: tuple[int, ...], place: str) -> TensorType:
    if t.shape is not None and (len(t.shape) != len(shape) or
                                any(isinstance(a, int) and a != b for a, b in zip(t.shape, shape))):
        raise InputError(f"is {t}, which the shape {list(shape)} does not fit", where=place)
    return TensorType(t.dtype, shape)


def _check_outputs(proto: onnx.GraphProto, graph: Graph, session: Session) -> None:
    """Declared element types of the outputs must be those that the graph computes."""
    for declared, value in zip(proto.output, graph.outputs):
        if declared.type.WhichOneof("value") is None:
            continue
        place = f"{session.where}: output {declared.name!r}"
        t = from_type_proto(declared.type, session.symbols, declared.name, place)
        if not _same_elements(t, value.type):
            raise CaptureError(f"is declared as {t}, but the graph computes {value.type}", where=place,
                               hint="The file is damaged or was written by hand; correct the declared type")


def _same_elements(a: Type, b: Type) -> bool:
    if isinstance(a, TensorType) and isinstance(b, TensorType):
        return a.dtype is b.dtype
    return isinstance(a, TensorType) == isinstance(b, TensorType)


def remove_dead(graph: Graph) -> None:
    """Erase ops that nobody needs: mostly shape arithmetic that became attributes."""
    op = graph.last
    while op is not None:
        before = op.prev
        if is_dead(op) and not op.definition.has(Trait.CONTROL):
            op.erase()
        elif op.regions:
            for region in op.regions:
                remove_dead(region)
        op = before


def _identifier(name: str) -> str:
    text = "".join(c if (c.isalnum() and c.isascii()) or c in "_.$/-" else "_" for c in name)
    return text or "main"


__all__ = ["capture_onnx", "remove_dead"]
