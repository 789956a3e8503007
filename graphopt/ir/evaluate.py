"""The reference evaluator: any graph, op by op, with the table's numpy semantics. Slow and meant to be right."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from graphopt.errors import EvaluationError, GraphOptError
from graphopt.ir.dims import Dim, substitute
from graphopt.ir.graph import Graph, Op, Value
from graphopt.ir.table import Trait
from graphopt.ir.types import TensorType, Type

Observer = Callable[[Value, Any], None]


def evaluate(graph: Graph, inputs: Sequence[Any], observe: Observer | None = None,
             outer: Mapping[str, int] | None = None) -> list[Any]:
    """Outputs of `graph` on `inputs`, which are arrays, lists of them (sequences) or None (absent optionals).

    `observe(value, result)` is called for every value computed at the top level. Values are dropped
    after their last use. `outer` are the dims of the graph that a nested one stands in; dims that the nested
    graph's own types name hide them. Raises EvaluationError naming the op that failed.
    """
    if len(inputs) != len(graph.inputs):
        raise EvaluationError(f"@{graph.name} takes {len(graph.inputs)} inputs, got {len(inputs)}")
    symbols: dict[str, int] = {}
    visible = ChainMap(symbols, dict(outer or {}))
    values: dict[Value, Any] = {}
    for v, given in zip(graph.inputs, inputs):
        values[v] = as_runtime(given)
        bind_symbols(v.type, values[v], symbols, f"input %{v.name}")
    remaining = {v: len(v.uses) for v in graph.values()}
    for op in graph.ops:
        results = evaluate_op(op, [None if v is None else values[v] for v in op.operands], visible)
        for r, result in zip(op.results, results):
            if remaining[r]:
                values[r] = result
            bind_symbols(r.type, result, symbols, op.where(), check=False)
            if observe is not None:
                observe(r, result)
        for used in op.operands:
            if used is not None:
                remaining[used] -= 1
                if not remaining[used]:
                    del values[used]
    return [values[v] for v in graph.outputs]


def evaluate_op(op: Op, operands: Sequence[Any], symbols: Mapping[str, int] | None = None,
                order: Literal["C", "K"] = "C") -> list[Any]:
    """Results of one op on runtime values. `symbols` gives the values of symbolic dims in its attributes.

    Results are row-major in memory; with order K they lie as numpy made them, and may be views of operands.
    """
    extra: dict[str, Any] = {}
    if "regions" in op.definition.wants:
        extra["regions"] = [lambda args, r=r: evaluate(r, args, outer=symbols) for r in op.regions]
    if "result_types" in op.definition.wants:
        extra["result_types"] = [r.type for r in op.results]
    try:
        attrs = {k: _bind(a, symbols or {}) for k, a in op.attrs.items()}
        with np.errstate(all="ignore"):
            got = op.definition.evaluate(*operands, **attrs, **extra)
    except GraphOptError as e:
        raise EvaluationError(e.what, where=op.where(), hint=e.hint) from e
    except Exception as e:
        raise EvaluationError(f"{type(e).__name__}: {e}", where=op.where()) from e
    results = list(got) if isinstance(got, tuple) else [got]
    if len(results) != len(op.results):
        raise EvaluationError(f"gave {len(results)} results for {len(op.results)}", where=op.where())
    return [_conform(r.type, x, op, order) for r, x in zip(op.results, results)]


def content(v: Value) -> Any:
    """The value of a constant expression; None where it depends on an input, on chance or on what has no value yet."""
    found: dict[Value, Any] = {}
    stack = [v]
    while stack:
        at = stack[-1]
        if at in found:
            stack.pop()
            continue
        op = at.op
        if op is None or op.regions or op.definition.has(Trait.RANDOM | Trait.CONTROL) or _named(op):
            return None
        if at.constant is not None:
            found[at] = at.constant
            continue
        operands = [o for o in op.operands if o is not None]
        if missing := [o for o in operands if o not in found]:
            stack.extend(missing)
            continue
        try:
            found.update(zip(op.results, evaluate_op(op, [None if o is None else found[o] for o in op.operands])))
        except GraphOptError:
            return None  # it says so where it is run
    return found[v]


def _named(op: Op) -> bool:
    """Does an attribute name a dim?"""
    return any(isinstance(d, Dim) for a in op.attrs.values() if isinstance(a, tuple) for d in a)


def as_runtime(value: Any) -> Any:
    """Arrays as numpy arrays; lists, maps and None as they are."""
    if value is None or isinstance(value, dict):
        return value
    return [as_runtime(v) for v in value] if isinstance(value, list) else np.asarray(value, order="C")


def bind_symbols(t: Type, value: Any, symbols: dict[str, int], where: str, check: bool = True) -> None:
    """Learn the dims that `t` names from a runtime value; with `check`, raise where they contradict it."""
    if not isinstance(t, TensorType) or t.shape is None or not isinstance(value, np.ndarray):
        return
    if len(t.shape) != value.ndim:
        raise EvaluationError(f"expected {t}, got shape {list(value.shape)}", where=where)
    for d, n in zip(t.shape, value.shape):
        if isinstance(d, Dim) and str(d).isidentifier():
            if symbols.setdefault(str(d), n) != n and check:
                raise EvaluationError(f"dim {d} is {symbols[str(d)]} elsewhere and {n} here", where=where)
        elif check and isinstance(d, int) and d != n:
            raise EvaluationError(f"expected {t}, got shape {list(value.shape)}", where=where)


def _bind(a: Any, symbols: Mapping[str, int]) -> Any:
    if isinstance(a, tuple) and any(isinstance(d, Dim) for d in a):
        return tuple(substitute(d, symbols) for d in a)
    return a


def _conform(t: Type, value: Any, op: Op, order: Literal["C", "K"]) -> Any:
    """Check dtype and rank against the result's type: the reference semantics must keep the table's own promise."""
    if not isinstance(t, TensorType) or value is None or isinstance(value, list):
        return value
    array = np.asarray(value, order=order)  # C: BLAS rounds by how its operands lie in memory, and that is not part of a value
    if array.dtype != t.dtype.numpy:
        raise EvaluationError(f"gave {array.dtype} for {t}", where=op.where())
    if t.shape is not None and (array.ndim != len(t.shape) or
                                any(isinstance(d, int) and d != n for d, n in zip(t.shape, array.shape))):
        raise EvaluationError(f"gave shape {list(array.shape)} for {t}", where=op.where())
    return array
