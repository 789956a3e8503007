"""ONNX's standard backend interface (onnx.backend.base): `prepare`, `run_model`, `run_node`, `is_compatible`, `supports_device`.

    import graphopt.interop.onnx_backend as backend
    outputs = backend.run_model(model, inputs, threads=2)

Options are keywords: `target`, which is "x86" where none is given and may be "evaluator" for the reference evaluator, and those
of `graphopt.compile`. ONNX's own tests run over it: `onnx.backend.test.BackendTest(backend, __name__)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx.backend.base import Backend, BackendRep, namedtupledict

from graphopt.capture import capture
from graphopt.errors import GraphOptError, InputError
from graphopt.ir.evaluate import evaluate
from graphopt.ir.graph import Graph
from graphopt.ir.types import type_of
from graphopt.runtime.arrays import from_numpy, kind_of, to_numpy

EVALUATOR = "evaluator"
OPTIONS = ("target", "threads", "max_specialisations", "validate", "tune", "tuning", "winograd")


class GraphOptRep(BackendRep):
    """A model made ready; `run` takes the inputs in order, or a mapping from their names, and gives a named tuple."""

    def __init__(self, model: Any, target: str, **options: Any) -> None:
        self.target = target
        self.graph: Graph = capture(model)
        self.specialised: Graph = self.graph
        self.compiled: Any = None
        if target != EVALUATOR:
            import graphopt

            self.compiled = graphopt.compile(self.graph, target=target, **options)
        elif options:
            raise InputError("is not for the reference evaluator, which compiles nothing", where=f"option {next(iter(options))}")

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Outputs by position and by name; torch tensors where a tensor came in. Raises InputError."""
        if kwargs:
            raise InputError(f"run has no option {next(iter(kwargs))!r}", hint="Options are given to prepare")
        given = _by_name(self.graph, inputs)
        if self.compiled is not None:
            results = list(self.compiled.run(given).values())
        else:
            arrays = {name: to_numpy(x, name) for name, x in given.items()}
            self.specialised = specialised(self.graph, arrays)
            kind = kind_of(list(given.values()))
            results = [from_numpy(y, kind, list(given.values()))
                       for y in evaluate(self.specialised, [arrays[name] for name in self.graph.input_names])]
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
    return value if hasattr(value, "__dlpack__") else np.asarray(value)


class GraphOptBackend(Backend):
    """The interface as class methods, which this module has as functions too."""

    @classmethod
    def is_compatible(cls, model: Any, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether `prepare` would take the model: every operator is known, and the device is supported."""
        if not cls.supports_device(device):
            return False
        target, _ = _options(kwargs)
        if target != EVALUATOR:
            from graphopt.targets import parse_target

            parse_target(target)
        try:
            capture(model)
        except GraphOptError:
            return False
        return True

    @classmethod
    def prepare(cls, model: Any, device: str = "CPU", **kwargs: Any) -> GraphOptRep:
        """The model compiled (for fixed shapes at once, for free ones when they first occur), to be run many times.

        Raises InputError for another device or an unknown option, UnsupportedOperators, and what else `graphopt.compile` raises.
        """
        if not cls.supports_device(device):
            raise InputError(f"device {device!r} is not supported", hint="Use CPU")
        target, options = _options(kwargs)
        return GraphOptRep(model, target, **options)

    @classmethod
    def run_model(cls, model: Any, inputs: Any, device: str = "CPU", **kwargs: Any) -> tuple[Any, ...]:
        """`prepare` and `run` in one."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(cls, node: onnx.NodeProto, inputs: Any, device: str = "CPU",
                 outputs_info: Sequence[tuple[np.dtype, tuple[int, ...]]] | None = None, **kwargs: Any) -> tuple[Any, ...]:
        """One node on concrete inputs, in order or by name; `opset_version` is that of its domain, the newest by default.

        `outputs_info`, (dtype, shape) of every output, is checked against what comes out.
        """
        names = [name for name in node.input if name]
        if isinstance(inputs, Mapping):
            if missing := [name for name in names if name not in inputs]:
                raise InputError(f"the inputs {', '.join(missing)} are missing")
            given = [_runtime(inputs[name]) for name in names]
        else:
            given = [_runtime(v) for v in (inputs if isinstance(inputs, (list, tuple)) else [inputs])]
        if len(given) != len(names):
            raise InputError(f"the node takes {len(names)} inputs, got {len(given)}", where=node.op_type)
        version = kwargs.pop("opset_version", onnx.defs.onnx_opset_version() if not node.domain else 1)
        from graphopt.capture.onnx.types import to_type_proto

        infos = [onnx.helper.make_value_info(name, to_type_proto(type_of(to_numpy(v, name)))) for name, v in zip(names, given)]
        graph = onnx.helper.make_graph([node], node.op_type, infos,
                                       [onnx.ValueInfoProto(name=name) for name in node.output if name])
        imports = [onnx.helper.make_opsetid(node.domain, version)]
        model = onnx.helper.make_model(graph, opset_imports=imports)
        results = cls.run_model(model, given, device, **kwargs)
        for (kind, shape), y in zip(outputs_info or (), results):
            if isinstance(y, np.ndarray) and (y.dtype != kind or y.shape != tuple(shape)):
                raise InputError(f"outputs_info says {np.dtype(kind)}{list(shape)}, the result is {y.dtype}{list(y.shape)}",
                                 where=node.op_type)
        return results

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether code runs on a device, such as "CPU" or "CPU:0"."""
        return device.split(":")[0] == "CPU"


def _options(given: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The target and what else `graphopt.compile` is given. Raises InputError naming the options there are."""
    for name in given:
        if name not in OPTIONS:
            raise InputError(f"no option {name!r}", hint=f"The options are {', '.join(OPTIONS)}")
    return given.get("target", "x86"), {k: v for k, v in given.items() if k != "target"}


is_compatible = GraphOptBackend.is_compatible
prepare = GraphOptBackend.prepare
run_model = GraphOptBackend.run_model
run_node = GraphOptBackend.run_node
supports_device = GraphOptBackend.supports_device

__all__ = ["EVALUATOR", "OPTIONS", "GraphOptBackend", "GraphOptRep", "is_compatible", "prepare", "run_model", "run_node",
           "specialised", "supports_device"]
