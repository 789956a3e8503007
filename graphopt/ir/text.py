"""The text form of graphs: `print_graph`, and in parse.py its exact inverse but for constant data held by reference.

    graph @name(%x: f32[N, 64]) -> f32[N, 64] {
      %w = const @weight : f32[64, 64]
      %0 = matmul(%x, %w) : f32[N, 64]                     # loc("layer1")
      %a, %b = split(%0) {axis=1, sizes=[32, 32]} : f32[N, 32], f32[N, 32]
      %1 = if(%c, %0) [
        graph @then(%v: f32[N, 64]) -> f32[N, 64] { ... }
        graph @else(%v: f32[N, 64]) -> f32[N, 64] { ... }
      ] : f32[N, 64]
      return %1
    }

Constants of at most INLINE elements are written out; larger ones print as `@name`, and the parser
takes their data from `constants=` (without it the graph has the type but no data).
"""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np

from graphopt.ir.graph import Graph, Op, Tensor, Value
from graphopt.ir.types import DType

INLINE = 8


# Printing -----------------------------------------------------------------------------------
class _Names:
    """Unique printable names for a graph's values and its constants."""

    def __init__(self) -> None:
        self.taken: set[str] = set()
        self.of: dict[Value, str] = {}
        self.count = 0

    def name(self, value: Value) -> str:
        if value not in self.of:
            if value.name is not None:
                base = re.sub(r"[^A-Za-z0-9_.$/-]", "_", value.name) or "_"
                if base.isdigit():  # numbers are for values without a name, and the parser takes them so
                    base = "_" + base
                name, k = base, 1
                while name in self.taken:
                    name, k = f"{base}.{k}", k + 1
            else:
                while (name := str(self.count)) in self.taken:
                    self.count += 1
                self.count += 1
            self.taken.add(name)
            self.of[value] = name
        return "%" + self.of[value]


class ConstantNames:
    """Names for constants printed by reference: the same Tensor keeps one name, two Tensors never share one."""

    def __init__(self) -> None:
        self.of: dict[int, str] = {}
        self.tensors: dict[str, Tensor] = {}

    def name(self, data: Tensor) -> str:
        if id(data) not in self.of:
            base = re.sub(r"[^A-Za-z0-9_.$/-]", "_", data.name or "c") or "c"
            name, k = base, 1
            while name in self.tensors:
                name, k = f"{base}.{k}", k + 1
            self.of[id(data)], self.tensors[name] = name, data
        return self.of[id(data)]


class StableNames:
    """Names that values keep from one printing of a changing graph to the next: `print_graph(graph, constants, stable)`.

    A value's name changes only where its own does. What has none of its own has a number that is never given to another, so
    that one op more does not rename all that follow.
    """

    def __init__(self) -> None:
        self.kept: dict[Value, tuple[str | None, str]] = {}  # the value's own name, and the printed one
        self.count = 0

    def names(self, graph: Graph) -> _Names:
        """What to call the values of a graph (nested ones apart)."""
        names = _Names()
        names.count = self.count
        for v in graph.values():
            own, printed = self.kept.get(v, (None, ""))
            if printed and own == v.name and printed not in names.taken:
                names.of[v] = printed
                names.taken.add(printed)
        _fill(names, graph)
        self.count = max(self.count, names.count)
        self.kept.update((v, (v.name, printed)) for v, printed in names.of.items())
        return names


def _names(graph: Graph) -> _Names:
    names = _Names()
    _fill(names, graph)
    return names


def _fill(names: _Names, graph: Graph) -> None:
    for v in graph.values():  # source names first, so that numbers fill the gaps
        if v.name is not None:
            names.name(v)
    for v in graph.values():
        names.name(v)


def value_names(graph: Graph) -> dict[Value, str]:
    """What `print_graph` calls the values of `graph` (nested graphs apart), without the %."""
    return _names(graph).of


def print_graph(graph: Graph, constants: ConstantNames | None = None, stable: StableNames | None = None) -> str:
    """The graph as text. `constants` collects the tensors that were printed by reference; `stable` holds the names of values
    that an earlier text gave."""
    lines: list[str] = []
    _print(graph, lines, "", constants or ConstantNames(), stable)
    return "\n".join(lines) + "\n"


def _print(graph: Graph, lines: list[str], indent: str, constants: ConstantNames, stable: StableNames | None) -> None:
    names = _names(graph) if stable is None else stable.names(graph)
    inputs = ", ".join(f"{names.name(v)}: {v.type}" for v in graph.inputs)
    outputs = ", ".join(str(v.type) for v in graph.outputs)
    arrow = f"({outputs})" if len(graph.outputs) != 1 else outputs
    name = re.sub(r"[^A-Za-z0-9_.$/-]", "_", graph.name) or "_"
    lines.append(f"{indent}graph @{name}({inputs}) -> {arrow} {{")
    inner = indent + "  "
    for op in graph.ops:
        _print_op(op, names, lines, inner, constants, stable)
    lines.append(f"{inner}return {', '.join(names.name(v) for v in graph.outputs)}".rstrip())
    lines.append(indent + "}")


def _print_op(op: Op, names: _Names, lines: list[str], indent: str, constants: ConstantNames,
              stable: StableNames | None) -> None:
    results = ", ".join(names.name(r) for r in op.results)
    types = ", ".join(str(r.type) for r in op.results)
    loc = f"  # loc({', '.join(json.dumps(p, ensure_ascii=False) for p in op.loc)})" if op.loc else ""
    if op.name == "const":
        lines.append(f"{indent}{results} = const {_print_constant(op.attrs['value'], constants)} : {types}{loc}")
        return
    operands = ", ".join("_" if v is None else names.name(v) for v in op.operands)
    attrs = ", ".join(f"{k}={print_attr(v)}" for k, v in op.attrs.items() if v is not None)
    text = f"{indent}{results + ' = ' if results else ''}{op.name}({operands})" + (f" {{{attrs}}}" if attrs else "")
    if not op.regions:
        lines.append(f"{text} : {types}{loc}")
        return
    lines.append(text + " [")
    for region in op.regions:
        _print(region, lines, indent + "  ", constants, stable)
    lines.append(f"{indent}] : {types}{loc}")


def _print_constant(data: Tensor, constants: ConstantNames) -> str:
    array = data.array
    if array is None or array.size > INLINE or array.size == 0 or not _inlines(data.type.dtype):
        return "@" + constants.name(data)
    prefix = f"@{constants.name(data)} = " if data.name else ""
    return prefix + _print_nested(array.tolist() if data.type.dtype.name in ("f64", "bool") or data.type.dtype.is_integer
                                  else _floats(array))


def _inlines(d: DType) -> bool:
    return (d.kind in ("bool", "int", "uint") and d.bits >= 8) or d.name in ("f16", "bf16", "f32", "f64")


def _floats(array: np.ndarray) -> Any:
    """Nested lists of the shortest decimal strings that read back as the same elements."""
    if array.ndim:
        return [_floats(a) for a in array]
    x = array[()]
    if isinstance(x, (np.float16, np.float32)):
        size = abs(float(x))
        scientific = 0 < size < 1e-4 or 1e7 <= size < np.inf
        return _Raw(np.format_float_scientific(x, unique=True, trim="-") if scientific else str(x))
    return _Raw(repr(float(x)))


class _Raw(str):
    __slots__ = ()


def _print_nested(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_print_nested(v) for v in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, _Raw) else repr(value)


def print_attr(value: Any) -> str:
    """An attribute's value as it stands in the text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(print_attr(v) for v in value) + "]"
    if isinstance(value, float):
        return repr(value)
    return str(value)


Graph.printer = print_graph

__all__ = ["ConstantNames", "StableNames", "print_attr", "print_graph", "value_names"]
