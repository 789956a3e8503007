"""Graphs for other tools and for eyes: Graphviz, JSON, and the numbers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from graphopt.ir import Graph, Op, Trait, Value
from graphopt.ir.dims import Dim, DimLike
from graphopt.ir.graph import Tensor
from graphopt.ir.text import value_names
from graphopt.ir.types import TensorType

# Fill colours by the first trait that an op has; the rest stay white.
COLOURS = ((Trait.CONTRACTION, "#f4c7a1"), (Trait.REDUCTION, "#c9daf8"), (Trait.MOVEMENT | Trait.VIEW, "#e6e6e6"),
           (Trait.ELEMENTWISE, "#d9ead3"), (Trait.CONTROL, "#ead1dc"), (Trait.COMPOSITE, "#fff2cc"))


# JSON ---------------------------------------------------------------------------------------
def to_json(graph: Graph) -> str:
    """The graph as JSON: types, ops in order with operands by name, attributes, source locations; no weights."""
    return json.dumps(_graph_data(graph), indent=1, ensure_ascii=False) + "\n"


def _graph_data(graph: Graph) -> dict[str, Any]:
    names = value_names(graph)
    data: dict[str, Any] = {"name": graph.name, "inputs": [_value_data(v, names) for v in graph.inputs]}
    if graph.input_names:
        data["input_names"], data["output_names"] = graph.input_names, graph.output_names
    data["ops"] = [_op_data(op, names) for op in graph.ops]
    data["outputs"] = [names[v] for v in graph.outputs]
    return data


def _op_data(op: Op, names: Mapping[Value, str]) -> dict[str, Any]:
    data: dict[str, Any] = {"op": op.name, "operands": [None if v is None else names[v] for v in op.operands],
                            "results": [_value_data(r, names) for r in op.results]}
    if attrs := {k: _plain(v) for k, v in op.attrs.items() if v is not None}:
        data["attrs"] = attrs
    if op.regions:
        data["regions"] = [_graph_data(r) for r in op.regions]
    if op.loc:
        data["loc"] = list(op.loc)
    return data


def _value_data(v: Value, names: Mapping[Value, str]) -> dict[str, Any]:
    if not isinstance(v.type, TensorType):
        return {"name": names[v], "type": str(v.type)}
    shape = None if v.type.shape is None else [_plain(d) for d in v.type.shape]
    data = {"name": names[v], "dtype": v.type.dtype.name, "shape": shape}
    return {**data, "layout": str(v.type.layout)} if v.type.layout is not None else data


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)  # JSON has no word for it
    if isinstance(value, Tensor):
        return {"name": value.name, "bytes": _known(value.type.nbytes)}
    return value if isinstance(value, (bool, int, float, str)) else str(value)


# Graphviz -----------------------------------------------------------------------------------
def to_dot(graph: Graph) -> str:
    """The graph for Graphviz (`dot -Tsvg`): an op a node coloured by its traits, nested graphs as clusters."""
    lines = ["digraph {", "  rankdir=TB; node [shape=box, style=filled, fillcolor=white, fontname=Helvetica];"]
    _dot(graph, lines, "g")
    return "\n".join([*lines, "}"]) + "\n"


def _dot(graph: Graph, lines: list[str], prefix: str) -> None:
    names = value_names(graph)
    ids: dict[Value, str] = {}
    for i, v in enumerate(graph.inputs):
        ids[v] = f"{prefix}_in{i}"
        lines.append(f"  {ids[v]} [label={_quote('%' + names[v], str(v.type))}, shape=ellipse];")
    for number, op in enumerate(op for op in graph.ops if op.name != "const"):
        node = f"{prefix}_{number}"
        weights = [str(v.type) for v in op.operands if v is not None and v.constant is not None]
        colour = next((c for trait, c in COLOURS if op.definition.has(trait)), "white")
        label = _quote(op.name, *([f"constants {', '.join(weights)}"] if weights else []), *op.loc[:1])
        lines.append(f'  {node} [label={label}, fillcolor="{colour}"];')
        for operand in op.operands:
            if operand in ids:
                lines.append(f"  {ids[operand]} -> {node} [label={_quote(str(operand.type))}];")
        ids.update((r, node) for r in op.results)
        for k, region in enumerate(op.regions):
            lines.append(f"  subgraph cluster_{node}_{k} {{ label={_quote(f'{op.name}: @{region.name}')};")
            _dot(region, lines, f"{node}_{k}")
            lines.append("  }")
    for i, v in enumerate(graph.outputs):
        lines.append(f"  {prefix}_out{i} [label={_quote('return')}, shape=ellipse];")
        if v in ids:
            lines.append(f"  {ids[v]} -> {prefix}_out{i} [label={_quote(str(v.type))}];")


def _quote(*lines: str) -> str:
    return json.dumps("\n".join(lines), ensure_ascii=False)


# Numbers ------------------------------------------------------------------------------------
def leaves(graph: Graph) -> Iterator[Op]:
    """The ops that compute: bodies of fused ops and of control flow instead of the ops that hold them."""
    for op in graph.ops:
        if op.regions:
            for region in op.regions:
                yield from leaves(region)
        else:
            yield op


def statistics(graph: Graph) -> dict[str, Any]:
    """Ops, parameters, operations and bytes moved of one run; a loop's body and both branches count once.

    `bytes` is what every kernel reads and writes, so that fusion lowers it. A number that depends on
    symbolic dims is given as their expression.
    """
    kinds: Counter[str] = Counter(op.name for op in leaves(graph) if op.name != "const")
    tensors = {id(op.attrs["value"]): op.attrs["value"].type for op in graph.walk() if op.name == "const"}
    operations = _total(op.definition.cost(op.view(), [r.type for r in op.results])[0] for op in leaves(graph))
    nbytes = _total(op.definition.cost(op.view(), [r.type for r in op.results])[1] for op in graph.ops if op.name != "const")
    return {
        "ops": sum(kinds.values()),
        "ops_by_kind": dict(kinds.most_common()),
        "parameters": _known(_total(t.size for t in tensors.values())),
        "parameter_bytes": _known(_total(t.nbytes for t in tensors.values())),
        "operations": _known(operations),
        "bytes": _known(nbytes),
    }


def _total(numbers: Iterable[DimLike]) -> DimLike:
    total: DimLike = 0
    for n in numbers:
        total = total + n
    return total


def _known(n: DimLike) -> int | str:
    return str(n) if isinstance(n, Dim) else int(n)


def format_statistics(statistics: dict[str, Any]) -> str:
    """One number a line; large ones with a readable form behind."""
    lines = []
    for name, value in statistics.items():
        if isinstance(value, dict):
            text = ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in value.items())
        elif isinstance(value, int) and not isinstance(value, bool):
            text = f"{value:,}" + (f"  ({_readable(value, 'bytes' in name)})" if value >= 10_000 else "")
        else:
            text = str(value)
        lines.append(f"{name.replace('_', ' ') + ':':26}{text}")
    return "\n".join(lines) + "\n"


def _readable(n: float, is_bytes: bool) -> str:
    step, units = (1024.0, ["", "Ki", "Mi", "Gi", "Ti"]) if is_bytes else (1000.0, ["", " thousand", "M", "G", "T"])
    for unit in units:
        if abs(n) < step or unit == units[-1]:
            return f"{n:.3g} {unit}B" if is_bytes else f"{n:.3g}{unit}"
        n /= step
    raise AssertionError


__all__ = ["format_statistics", "leaves", "statistics", "to_dot", "to_json"]
