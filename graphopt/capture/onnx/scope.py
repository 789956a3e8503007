"""Walking nodes: names to values, nested scopes, order, and what to do with each node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from graphopt.capture.onnx.context import Context, Node
from graphopt.capture.onnx.deferred import defer
from graphopt.capture.onnx.functions import expand
from graphopt.capture.onnx.known import Knowledge
from graphopt.capture.onnx.order import in_order, location
from graphopt.capture.onnx.session import Session, opset_versions, supported
from graphopt.capture.onnx.table import Defer, Expand, domain_of, find
from graphopt.capture.onnx.types import attributes, sparse_array, tensor_array
from graphopt.errors import CaptureError, GraphOptError, UnsupportedOperators
from graphopt.ir.graph import Graph, Op, Tensor, Value
from graphopt.ir.types import TensorType


class Scope:
    """Names of one graph or function body. A nested graph's scope finds outer names through `outer`."""

    def __init__(self, session: Session, ctx: Context, opsets: Mapping[str, int], *, outer: Scope | None = None,
                 prefix: str = "", refs: Mapping[str, onnx.AttributeProto] | None = None) -> None:
        self.session, self.ctx, self.opsets, self.outer, self.prefix, self.refs = session, ctx, opsets, outer, prefix, refs
        self.names: dict[str, Value | None] = {}
        self.defined: set[str] = set()
        self.captured: dict[Value, Value] = {}  # outer value to this region's input

    @property
    def graph(self) -> Graph:
        return self.ctx.graph

    # Names -------------------------------------------------------------------------------------
    def find(self, name: str) -> Value | type[KeyError] | None:
        """The value of a name, None for an absent optional; KeyError (the class) where there is none."""
        if name in self.names:
            return self.names[name]
        if self.outer is None:
            return KeyError
        found = self.outer.find(name)
        if not isinstance(found, Value):
            return found
        if _graph_of(found) is not self.graph:
            found = self.bring_in(found)
        self.names[name] = found
        return found

    def region(self, name: str) -> Scope:
        """The scope of a nested graph that becomes a region of an op of this one."""
        knowledge = Knowledge() if self.ctx.knowledge.eager else self.ctx.knowledge
        ctx = Context(self.graph.nested(name), knowledge)
        ctx.loc = self.ctx.loc
        return Scope(self.session, ctx, self.opsets, outer=self, prefix=f"{self.ctx.loc[0]}/", refs=self.refs)

    def inline(self) -> Scope:
        """The scope of a nested graph whose nodes are added to this one's."""
        return Scope(self.session, self.ctx, self.opsets, outer=self, prefix=f"{self.ctx.loc[0]}/", refs=self.refs)

    def body(self, place: str, imports: Iterable[onnx.OperatorSetIdProto], refs: Mapping[str, onnx.AttributeProto]) -> Scope:
        """The scope of a function's body, called at `place`: its nodes are added to this one's graph, it sees no outer names."""
        opsets = {**self.opsets, **opset_versions(imports)}
        return Scope(self.session, self.ctx, opsets, prefix=f"{self.prefix}{place}/", refs=refs)

    @classmethod
    def evaluating(cls, session: Session, opsets: Mapping[str, int], refs: Mapping[str, onnx.AttributeProto] | None) -> Scope:
        """The scope of a graph of its own whose nodes are evaluated as they are captured."""
        return cls(session, Context(Graph("deferred"), session.knowledge), opsets, refs=refs)

    def bring_in(self, value: Value) -> Value:
        """An outer value as a value of this region: constants anew by reference, others as an input of the region."""
        if value in self.captured:
            return self.captured[value]
        if value.constant is not None:
            assert value.op is not None
            inner = self.ctx.const(value.op.attrs["value"])
        elif (settled := self._outer_knowledge().settled(value)) is not None:
            inner = self.ctx.const(settled)
        else:
            inner = self.graph.add_input(value.type, value.name)
            self.session.origin[inner] = value
            content = self._outer_knowledge().get(value)
            if isinstance(content, np.ndarray):
                self.ctx.knowledge.bind(inner, content)
        self.captured[value] = inner
        return inner

    def _outer_knowledge(self) -> Knowledge:
        return self.ctx.knowledge if self.outer is None else self.outer.ctx.knowledge

    def define(self, name: str, value: Value | None, place: str) -> None:
        if name in self.defined:
            raise CaptureError(f"{name!r} is defined twice", where=self.where(place),
                               hint="Each name of an ONNX graph has one producer")
        self.defined.add(name)
        self.names[name] = value
        if value is not None and value.name is None:
            value.name = name

    def where(self, place: str) -> str:
        return f"{self.session.where}: {self.prefix}{place}"

    # Graphs ------------------------------------------------------------------------------------
    def initialisers(self, graph: onnx.GraphProto, tensors: Mapping[str, Tensor] | None = None) -> None:
        """Define a graph's initialisers, except those that are named already (bound inputs)."""
        for t in graph.initializer:
            if t.name not in self.defined:
                data = tensors[t.name] if tensors is not None else \
                    Tensor(tensor_array(t, self.where(f"initializer {t.name!r}")), t.name)
                self.define(t.name, self._constant(data, t.name), "graph")
        for s in graph.sparse_initializer:
            name = s.values.name
            if name not in self.defined:
                data = Tensor(sparse_array(s, self.where(f"initializer {name!r}")), name)
                self.define(name, self._constant(data, name), "graph")

    def _constant(self, data: Tensor, name: str) -> Value:
        loc, self.ctx.loc = self.ctx.loc, ()
        value = self.ctx.const(data)
        value.name, self.ctx.loc = name, loc
        return value

    def run(self, nodes: Sequence[onnx.NodeProto]) -> None:
        for node in in_order(nodes, lambda n: self.find(n) is not KeyError, self.where("graph")):
            self.capture_node(node)

    def outputs(self, names: Iterable[str]) -> list[Value]:
        out = []
        for name in names:
            value = self.find(name)
            if not isinstance(value, Value):
                raise CaptureError(f"output {name!r} is produced by no node", where=self.where("graph"))
            out.append(value)
        return out

    # Nodes -------------------------------------------------------------------------------------
    def capture_node(self, proto: onnx.NodeProto) -> None:
        place = location(proto)
        domain = domain_of(proto.domain)
        inputs: list[Value | None] = []
        for i, name in enumerate(proto.input):
            value = self.find(name) if name else None
            if value is KeyError:
                raise CaptureError(f"input {i} of {proto.op_type}, {name!r}, is no input, initializer or output of a node",
                                   where=self.where(place), hint="An initializer is missing, or the file is damaged")
            inputs.append(value)  # type: ignore[arg-type]
        attrs = attributes(proto, self.refs, self.where(place))
        node = Node(proto, domain, self.opsets.get(domain, 1), inputs, attrs, self, self.where(place))
        outer_loc, self.ctx.loc = self.ctx.loc, (self.prefix + place,)
        mark = self.graph.last
        try:
            results = self._results(node)
        except Defer as reason:
            self._undo(mark)
            results = defer(node, reason)
        except CaptureError:
            raise
        except MemoryError as e:
            raise CaptureError(f"{proto.op_type}: there is no memory for what it computes at capture", where=node.place) from e
        except GraphOptError as e:
            if not self._vague(inputs):
                raise CaptureError(f"{proto.op_type}: {e}", where=node.place) from e
            self._undo(mark)
            results = defer(node, Defer(str(e)))
        except Exception as e:  # an entry is written for operands and attributes that fit
            raise CaptureError(f"{proto.op_type}: attributes and operands do not fit: {type(e).__name__}: {e}",
                               where=node.place, hint="The model is damaged or breaks a rule of the operator; if onnx.checker "
                               "and onnxruntime take it, please report this") from e
        finally:
            self.ctx.loc = outer_loc
        listed: list[Value | None] = [results] if isinstance(results, Value) else list(results)
        self.ctx.loc = (self.prefix + place,)
        listed = [self._settled(v) for v in listed]
        self.ctx.loc = outer_loc
        for i, name in enumerate(proto.output):
            if name:
                if i >= len(listed):
                    raise CaptureError(f"{proto.op_type} has {len(listed)} outputs, the node wants {len(proto.output)}",
                                       where=node.place)
                self.define(name, listed[i], place)

    def _vague(self, inputs: Sequence[Value | None]) -> bool:
        """May the types of a node's operands not be those of the values that they will have?"""
        types = [v.type for v in inputs if v is not None]
        return any(isinstance(t, TensorType) and t.shape is None for t in types)

    def _settled(self, value: Value | None) -> Value | None:
        content = None if value is None else self.ctx.knowledge.settled(value)
        return value if content is None else self.ctx.const(content)

    def _results(self, node: Node) -> Any:
        function = self.session.function(node.proto)
        if function is not None:
            return expand(node, function)
        found = find(node.domain, node.kind, node.version)
        if found is None:
            if not supported(node.domain, node.kind, node.version):
                raise UnsupportedOperators([(node.kind, node.place)], where=self.session.where)
            return expand(node)
        try:
            return found(self.ctx, node)
        except Expand:
            return expand(node)

    def _undo(self, mark: Op | None) -> None:
        """Erase the ops of a node that cannot be captured statically."""
        while self.graph.last is not mark:
            last = self.graph.last
            assert last is not None
            for outer, inner in list(self.captured.items()):
                if inner.op is last:
                    del self.captured[outer]
                    for name in [n for n, v in self.names.items() if v is inner]:
                        del self.names[name]
            last.erase()


def _graph_of(value: Value) -> Graph | None:
    return value.op.graph if value.op is not None else value.graph


__all__ = ["Scope"]
