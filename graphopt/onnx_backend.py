"""ONNX's backend interface: `prepare`, `run_model`, `run_node`, over any target or the reference evaluator.

    import graphopt.onnx_backend as backend
    outputs = backend.run_model(model, inputs, target="x86")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx.backend.base import Backend, BackendRep, namedtupledict

from graphopt.capture import capture
from graphopt.errors import InputError
from graphopt.ir.evaluate import evaluate
from graphopt.ir.graph import Graph
from graphopt.ir.types import type_of

EVALUATOR = "evaluator"


class GraphOptRep(BackendRep):
    """A model made ready; `run` takes the inputs in order, or a mapping from their names, and gives a named tuple."""

    def __init__(self, model: onnx.ModelProto, target: str) -> None:
        self.target = target
        self.graph: Graph = capture(model)
        self.specialised: Graph = self.graph
        self.compiled: Any = None
        if target != EVALUATOR:
            import graphopt

            self.compiled = graphopt.compile(self.graph, target=target)

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        given = _by_name(self.graph, inputs)
        if self.compiled is not None:
            results = list(self.compiled.run(given).values())
        else:
            self.specialised = specialised(self.graph, given)
            results = evaluate(self.specialised, [given[name] for name in self.graph.input_names])
        return namedtupledict("Outputs", self.graph.output_names)(*results)


def specialised(graph: Graph, given: Mapping[str, Any]) -> Graph:
    """The graph captured anew for the shapes of these inputs and the values of its control inputs."""
    recapture = graph.metadata.get("recapture")
    if recapture is None:
        return graph
    shapes = {name: np.shape(v) for name, v in given.items() if isinstance(v, np.ndarray)}
    return recapture(shapes, {name: given[name] for name in graph.metadata["control_inputs"]})


def _by_name(graph: Graph, inputs: Any) -> dict[str, Any]:
    if isinstance(inputs, Mapping):
        given = dict(inputs)
    else:
        listed = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
        if len(listed) > len(graph.input_names):
            raise InputError(f"the model takes {len(graph.input_names)} inputs, got {len(listed)}")
        given = dict(zip(graph.input_names, listed))
    missing = [name for name in graph.input_names if name not in given]
    if missing:
        raise InputError(f"the inputs {', '.join(missing)} are missing")
    return {name: _runtime(given[name]) for name in graph.input_names}


def _runtime(value: Any) -> Any:
    """Arrays as they are, strings as object arrays, tuples as sequences."""
    if value is None or isinstance(value, np.ndarray):
        return value.astype(object) if isinstance(value, np.ndarray) and value.dtype.kind in "US" else value
    if isinstance(value, (list, tuple)):
        return [_runtime(v) for v in value]
    return np.asarray(value)


class GraphOptBackend(Backend):
    """`target=` chooses the target, the reference evaluator (`"evaluator"`) by default."""

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> GraphOptRep:
        if not cls.supports_device(device):
            raise InputError(f"device {device!r} is not supported", hint="Use CPU")
        return GraphOptRep(model, kwargs.get("target", EVALUATOR))

    @classmethod
    def run_model(cls, model: onnx.ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any) -> tuple[Any, ...]:
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(cls, node: onnx.NodeProto, inputs: Any, device: str = "CPU",
                 outputs_info: Sequence[tuple[np.dtype, tuple[int, ...]]] | None = None, **kwargs: Any) -> tuple[Any, ...]:
        """One node on concrete inputs; `opset_version` is that of its domain, the newest by default."""
        given = [_runtime(v) for v in (inputs if isinstance(inputs, (list, tuple)) else [inputs])]
        names = [name for name in node.input if name]
        version = kwargs.get("opset_version", onnx.defs.onnx_opset_version() if not node.domain else 1)
        from graphopt.capture.onnx.types import to_type_proto

        infos = [onnx.helper.make_value_info(name, to_type_proto(type_of(v))) for name, v in zip(names, given)]
        graph = onnx.helper.make_graph([node], node.op_type, infos,
                                       [onnx.ValueInfoProto(name=name) for name in node.output if name])
        imports = [onnx.helper.make_opsetid(node.domain, version)]
        model = onnx.helper.make_model(graph, opset_imports=imports)
        return cls.run_model(model, given, device, **{k: v for k, v in kwargs.items() if k == "target"})

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device.split(":")[0] == "CPU"


prepare = GraphOptBackend.prepare
run_model = GraphOptBackend.run_model
run_node = GraphOptBackend.run_node
supports_device = GraphOptBackend.supports_device

__all__ = ["EVALUATOR", "GraphOptBackend", "GraphOptRep", "prepare", "run_model", "run_node", "specialised", "supports_device"]
