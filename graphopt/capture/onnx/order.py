"""Nodes before they are captured: what each is called, what its nested graphs need from outside, and in which order they come."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

import onnx

from graphopt.errors import CaptureError


def location(node: onnx.NodeProto) -> str:
    """The name of a node, or what it is known by where it has none."""
    return node.name or next((o for o in node.output if o), node.op_type)


def free_names(graph: onnx.GraphProto) -> dict[str, None]:
    """Names that a nested graph takes from outside, in order of use."""
    inside = {i.name for i in graph.input} | {t.name for t in graph.initializer} | \
        {s.values.name for s in graph.sparse_initializer}
    for node in graph.node:
        inside.update(node.output)
    found: dict[str, None] = {}
    for node in graph.node:
        for name in (*node.input, *node_free_names(node)):
            if name and name not in inside:
                found[name] = None
    for o in graph.output:
        if o.name not in inside:
            found[o.name] = None
    return found


def node_free_names(node: onnx.NodeProto) -> dict[str, None]:
    """Names that the nested graphs of a node take from outside."""
    found: dict[str, None] = {}
    for a in node.attribute:
        for inner in [a.g] if a.type == onnx.AttributeProto.GRAPH else a.graphs:
            found.update(free_names(inner))
    return found


def in_order(nodes: Sequence[onnx.NodeProto], defined: Callable[[str], bool], where: str) -> list[onnx.NodeProto]:
    """Nodes so that producers stand before consumers, otherwise in the order given; a cycle raises CaptureError."""
    producer = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    needs: list[set[int]] = []
    sorted_already = True
    for i, node in enumerate(nodes):
        wanted = {producer[name] for name in (*node.input, *node_free_names(node))
                  if name in producer and (producer[name] != i or not defined(name))}
        sorted_already = sorted_already and all(p < i for p in wanted)
        needs.append(wanted)
    if sorted_already:
        return list(nodes)
    users: dict[int, list[int]] = {}
    for i, wanted in enumerate(needs):
        for p in wanted:
            users.setdefault(p, []).append(i)
    ready = [i for i, wanted in enumerate(needs) if not wanted]
    heapq.heapify(ready)
    order = []
    while ready:
        i = heapq.heappop(ready)
        order.append(i)
        for user in users.get(i, ()):
            needs[user].discard(i)
            if not needs[user]:
                heapq.heappush(ready, user)
    if len(order) < len(nodes):
        done = set(order)
        stuck = [nodes[i].name or nodes[i].output[0] for i in range(len(nodes)) if i not in done]
        raise CaptureError(f"the graph has a cycle through {', '.join(map(repr, stuck[:5]))}"
                           + (f" and {len(stuck) - 5} more" if len(stuck) > 5 else ""), where=where,
                           hint="ONNX graphs are acyclic; the file is damaged")
    return [nodes[i] for i in order]


__all__ = ["free_names", "in_order", "location", "node_free_names"]
