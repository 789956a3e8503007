"""If, Loop and Scan: branches and bodies as regions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx

from graphopt.capture.onnx.context import Context, Node, rank_of, static_shape
from graphopt.capture.onnx.scope import Scope
from graphopt.capture.onnx.table import Results, entry
from graphopt.ir.dims import Dim, dim_symbols
from graphopt.ir.graph import Value
from graphopt.ir.ops.control import relax
from graphopt.ir.types import BOOL, I64, TensorType, Type

ROUNDS = 12  # a body's types settle in two or three rounds: each can only forget


@entry("If")
def if_(b: Context, n: Node) -> Results:
    """The branch itself where the condition is known; it is asked for where it depends on a small input."""
    branches = (n.attr("then_branch"), n.attr("else_branch"))
    condition = b.content(n[0])
    if isinstance(condition, np.ndarray) and condition.size == 1 and not isinstance(condition.reshape(-1)[0], Dim):
        taken = branches[0] if condition.reshape(-1)[0] else branches[1]
        return captured(n.scope.inline(), taken)
    n.scope.session.conditions.append(n[0])
    scopes: list[Scope] = []
    seeds: list[Value] = []
    for name, graph in zip(("then", "else"), branches):
        scope = n.scope.region(name)
        for value in seeds:
            scope.bring_in(value)
        scope.graph.outputs = captured(scope, graph)
        seeds = [n.scope.session.origin[v] for v in scope.graph.inputs]
        scopes.append(scope)
    for value in seeds:
        scopes[0].bring_in(value)
    return list(b.op("if", [n[0], *seeds], regions=[s.graph for s in scopes]).results)


def captured(scope: Scope, graph: onnx.GraphProto) -> list[Value]:
    """The outputs of a nested graph, its nodes captured in `scope`."""
    scope.initialisers(graph)
    scope.run(graph.node)
    return scope.outputs(o.name for o in graph.output)


@entry("Loop")
def loop(b: Context, n: Node) -> Results:
    body = n.attr("body")
    names = [i.name for i in body.input]
    start = [n[i] for i in range(2, len(n.inputs))]

    def build(scope: Scope, iteration: Value, condition: Value, state: Sequence[Value]) -> list[Value]:
        for name, value in zip(names, [iteration, condition, *state]):
            scope.define(name, value, "body")
        return captured(scope, body)

    if len(names) != 2 + len(start):
        raise n.error(f"the body takes {len(names)} inputs for {len(start)} carried values")
    return looped(b, n, n.get(0), n.get(1), start, build)


Build = Callable[[Scope, Value, Value, Sequence[Value]], list[Value]]


def looped(b: Context, n: Node, trip: Value | None, condition: Value | None, start: Sequence[Value], build: Build) -> list[Value]:
    """A loop op whose body `build` makes; carried types are loosened until an iteration keeps them."""
    types: list[Type] = [v.type for v in start]
    loose: set[str] = set()
    for _ in range(ROUNDS):
        scope = n.scope.region("body")
        graph = scope.graph
        iteration = graph.add_input(TensorType(I64, ()), "iteration")
        keep = graph.add_input(TensorType(BOOL, ()), "keep")
        state = [graph.add_input(t) for t in types]
        outputs = build(scope, iteration, keep, state)
        after = [v.type for v in outputs[1:1 + len(start)]]
        if len(after) != len(start):
            raise n.error(f"the body gives {len(after)} carried values for {len(start)}")
        joined = [_join(t, u, loose, scope, n) for t, u in zip(types, after)]
        if joined == types:
            break
        types = joined
    else:
        raise n.error("the types of the carried values do not settle")
    graph.outputs = outputs
    outside = [n.scope.session.origin[v] for v in graph.inputs[2 + len(start):]]
    return list(b.op("loop", [trip, condition, *start, *outside], {"carried": len(start)}, regions=[graph]).results)


def _join(before: Type, after: Type, loose: set[str], scope: Scope, n: Node) -> Type:
    """A type that holds before and after an iteration; `loose` are the symbols that stand for any size already."""
    if before == after:
        return before
    if isinstance(before, TensorType) and isinstance(after, TensorType) and before.dtype is after.dtype:
        if before.shape is None or after.shape is None or len(before.shape) != len(after.shape):
            return TensorType(before.dtype, None)
        dims = []
        for x, y in zip(before.shape, after.shape):
            if x != y and not (isinstance(x, Dim) and dim_symbols(x) <= loose):
                x = scope.graph.fresh_symbol()
                loose |= dim_symbols(x)
            dims.append(x)
        return TensorType(before.dtype, tuple(dims))
    joined = relax(before, after, set())
    if joined is None:
        raise n.error(f"a carried value is {before} before an iteration and {after} after it")
    return joined


@entry("Scan", since=9)
def scan(b: Context, n: Node) -> Results:
    count = n.attr("num_scan_inputs")
    split = len(n.inputs) - count
    state, sequences = [n[i] for i in range(split)], [n[i] for i in range(split, len(n.inputs))]
    axes = n.attr("scan_input_axes", [0] * count)
    results = scanned(b, n, state, sequences, [a % len(rank_of(s)) for a, s in zip(axes, sequences)],
                      n.attr("scan_input_directions", [0] * count))
    outputs = results[split:]
    back = n.attr("scan_output_directions", [0] * len(outputs))
    to = n.attr("scan_output_axes", [0] * len(outputs))
    final = []
    for v, reverse, axis in zip(outputs, back, to):
        v = b.flip(v, axes=(0,)) if reverse else v
        if axis:
            rank = len(rank_of(v))
            perm = list(range(1, rank))
            perm.insert(axis % rank, 0)
            v = b.transpose(v, perm=perm)
        final.append(v)
    return [*results[:split], *final]


def scanned(b: Context, n: Node, state: Sequence[Value], sequences: Sequence[Value], axes: Sequence[int],
            reverse: Sequence[int]) -> list[Value]:
    """The scan as a loop over slices of the sequences, outputs stacked along axis 0."""
    body = n.attr("body")
    names = [i.name for i in body.input]
    length = rank_of(sequences[0])[axes[0]]
    trip = b.reshape(b.dims(values=(length,)), shape=()) if isinstance(length, Dim) else b.const(np.int64(length))

    def build(scope: Scope, iteration: Value, condition: Value, carried: Sequence[Value]) -> list[Value]:
        items = []
        for v, axis, backward in zip(sequences, axes, reverse):
            inner = scope.bring_in(v)
            at = iteration
            if backward:
                at = scope.ctx.sub(scope.ctx.sub(scope.bring_in(trip), 1), iteration)
            items.append(scope.ctx.gather(inner, at, axis=axis))
        for name, value in zip(names, [*carried, *items]):
            scope.define(name, value, "body")
        return [condition, *captured(scope, body)]

    return looped(b, n, trip, None, state, build)


@entry("Scan", since=8)
def scan_batched(b: Context, n: Node) -> Results:
    """Opset 8: every operand has a batch axis first, and each element of the batch is scanned by itself."""
    if n.get(0) is not None:
        raise n.error("sequence_lens are not supported in opset 8", "Convert the model to opset 9 or newer")
    count = n.attr("num_scan_inputs")
    operands = [n[i] for i in range(1, len(n.inputs))]
    split = len(operands) - count
    rows = []
    for i in range(static_shape(operands[0])[0]):
        items = [b.gather(v, b.const(np.int64(i)), axis=0) for v in operands]
        rows.append(scanned(b, n, items[:split], items[split:], [0] * count, n.attr("directions", [0] * count)))
    return [b.concat(*(b.unsqueezed(row[i], [0]) for row in rows), axis=0) for i in range(len(rows[0]))]
