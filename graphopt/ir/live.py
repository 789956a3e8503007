"""Which ops a graph needs: those with results that are used, and those that alone show a size which others name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from graphopt.ir.dims import Dim, dim_symbols
from graphopt.ir.types import TensorType

if TYPE_CHECKING:
    from graphopt.ir.graph import Graph, Op, Value


def is_dead(op: Op) -> bool:
    """Does nothing use the op's results, nor the sizes that they show first? Those behind it that nothing needs are erased."""
    if any(r.uses for r in op.results):
        return False
    assert op.graph is not None
    shown = {s for r in op.results for s in _shown(r)}
    if not shown:
        return True
    shown -= {s for v in op.graph.inputs for s in _shown(v)}
    before = op.prev
    while shown and before is not None:
        shown -= {s for r in before.results for s in _shown(r)}
        before = before.prev
    return not shown or not shown & set(_named_behind(op))


def _shown(v: Value) -> Iterator[str]:
    """Symbols that are known once the value is: dims of its type that are nothing else."""
    if isinstance(v.type, TensorType):
        yield from (str(d) for d in v.type.shape or () if isinstance(d, Dim) and str(d).isidentifier())


def _named_behind(op: Op) -> Iterator[str]:
    """Symbols in attributes of the ops after this one, and of those that they hold."""
    at = op.next
    while at is not None:
        yield from _named(at)
        at = at.next


def _named(op: Op) -> Iterator[str]:
    for a in op.attrs.values():
        yield from _in(a)
    for region in op.regions:
        yield from _within(region)


def _within(graph: Graph) -> Iterator[str]:
    for op in graph.ops:
        yield from _named(op)


def _in(a: Any) -> Iterator[str]:
    for d in a if isinstance(a, tuple) else (a,):
        if isinstance(d, Dim):
            yield from dim_symbols(d)


__all__ = ["is_dead"]
