"""The state of one capture, shared by the main graph and all nested ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx
from onnx import defs

from graphopt.capture.onnx.known import Knowledge
from graphopt.capture.onnx.table import domain_of, find
from graphopt.capture.onnx.types import Symbols
from graphopt.ir.graph import Graph, Tensor, Value
from graphopt.ir.types import TensorType

CONTROL_ELEMENTS = 1024  # an input larger than this is data, whatever its values are used for

FunctionKey = tuple[str, str, str]


@dataclass
class Session:
    """`where` is the file for messages; `functions` are the model's own; `tensors` the main graph's initialisers."""

    where: str
    functions: Mapping[FunctionKey, onnx.FunctionProto]
    tensors: Mapping[str, Tensor]
    ir_version: int
    knowledge: Knowledge = field(default_factory=Knowledge)
    symbols: Symbols = field(default_factory=Symbols)
    unresolved: list[Value] = field(default_factory=list)
    conditions: list[Value] = field(default_factory=list)
    origin: dict[Value, Value] = field(default_factory=dict)  # a region's input to the outer value it stands for
    deferred: int = 0

    def function(self, node: onnx.NodeProto) -> onnx.FunctionProto | None:
        domain = domain_of(node.domain)
        return self.functions.get((domain, node.op_type, node.overload)) or self.functions.get((domain, node.op_type, ""))

    def control_inputs(self, graph: Graph) -> list[str]:
        """Names of the inputs whose values would settle the unresolved control operands and the conditions.

        What depends on large or high-rank inputs is left out, and conditions on floats: those are data, and
        specialising on data would compile anew at every call.
        """
        names = dict(zip(graph.inputs, graph.input_names))
        found: set[Value] = set()
        for operand, is_condition in [(v, False) for v in self.unresolved] + [(v, True) for v in self.conditions]:
            inputs = self._inputs_of(operand)
            if all(v in names and _is_control(v) and not (is_condition and v.dtype.is_float) for v in inputs):
                found |= inputs
        return [names[v] for v in graph.inputs if v in found]

    def _inputs_of(self, value: Value) -> set[Value]:
        """Inputs whose contents `value` depends on (not only their shapes): the graph's, and those of a loop's body."""
        found: set[Value] = set()
        seen: set[Value] = set()
        stack = [value]
        while stack:
            v = stack.pop()
            if v in seen:
                continue
            seen.add(v)
            if v in self.origin:
                stack.append(self.origin[v])
            elif v.op is not None:
                if v.op.name != "shape":
                    stack.extend(o for o in v.op.operands if o is not None)
            else:
                found.add(v)
        return found


def _is_control(v: Value) -> bool:
    t = v.type
    if not isinstance(t, TensorType) or t.shape is None or len(t.shape) > 1:
        return False
    return not t.is_static or t.size <= CONTROL_ELEMENTS  # type: ignore[operator]


def opset_versions(imports: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    return {domain_of(o.domain): o.version for o in imports}


def schema_of(domain: str, name: str, version: int) -> Any:
    """ONNX's OpSchema (whose type stubs lack half its attributes), None where there is none."""
    try:
        return defs.get_schema(name, max_inclusive_version=version, domain=domain)
    except defs.SchemaError:
        return None


def advice(missing: Iterable[tuple[str, str]]) -> str | None:
    """What to do where there is something better than to write an entry."""
    if any(name.startswith("com.microsoft.nchwc.") for name, _ in missing):
        return ("onnxruntime blocked the weights for the machine that it optimised the file on, which does not say how: "
                "optimise it at ORT_ENABLE_EXTENDED, or take the file that it was made of")
    return None


def supported(domain: str, name: str, version: int) -> bool:
    if find(domain, name, version) is not None:
        return True
    schema = schema_of(domain, name, version)
    return schema is not None and (schema.has_function or schema.has_context_dependent_function)


__all__ = ["CONTROL_ELEMENTS", "FunctionKey", "Session", "advice", "opset_versions", "schema_of", "supported"]
