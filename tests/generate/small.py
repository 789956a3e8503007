"""A failing ONNX case made small: nodes are left out, from the inputs on and from the outputs on, as long as it still fails."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import onnx
from onnx import helper, numpy_helper

from tests.generate.onnx_draft import Case, Value


def made_small(case: Case, fails: Callable[[Case], bool]) -> Case:
    """The smallest case found that still fails; what a node that is left out computed becomes an input."""
    values = dict(case.values)
    for name in list(case.expected):
        only = rebuilt(case, list(case.model.graph.node), [name], values)
        if only is not None and fails(only):
            case = only
            break
    for at in range(len(case.model.graph.node)):  # from the outputs on
        nodes = list(case.model.graph.node)
        name = next((n for n in nodes[at].output if n), None) if at < len(nodes) - 1 else None
        if name is None:
            break
        shorter = rebuilt(case, nodes[:at + 1], [name], values)
        if shorter is not None and fails(shorter):
            case = shorter
            break
    again = True
    while again:
        again = False
        for node in list(case.model.graph.node):
            rest = [n for n in case.model.graph.node if n is not node and list(n.output) != list(node.output)]
            fewer = rebuilt(case, rest, list(case.expected), values) if rest else None
            if fewer is not None and fails(fewer):
                case, again = fewer, True
                break
    return case


def rebuilt(case: Case, nodes: list[onnx.NodeProto], outputs: list[str], values: dict[str, Value]) -> Case | None:
    """The case with these nodes and outputs alone; None where an output is no longer computed."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted & set(node.output):
            kept.append(node)
            wanted |= set(node.input)
    kept.reverse()
    made = {n for node in kept for n in node.output}
    if not set(outputs) <= made:
        return None
    read = dict.fromkeys(n for node in kept for n in node.input if n and n not in made)
    old = {i.name: i for i in case.model.graph.input}
    constants = {t.name for t in case.model.graph.initializer}
    infos, fixed, inputs = [], [], {}
    for n in read:
        v = values[n]
        if n in constants or (v.control and n not in old):
            fixed.append(numpy_helper.from_array(v.array, n))
        else:
            infos.append(old.get(n) or helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape))
            inputs[n] = v.array
    graph = helper.make_graph(kept, "small", infos, [helper.make_tensor_value_info(
        n, helper.np_dtype_to_tensor_dtype(values[n].dtype), None) for n in outputs], fixed)
    model = helper.make_model(graph, opset_imports=list(case.model.opset_import), ir_version=case.model.ir_version)
    return dataclasses.replace(case, model=model, inputs=inputs, expected={n: values[n].array for n in outputs},
                               err={n: values[n].err for n in outputs})
