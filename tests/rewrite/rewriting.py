"""What the tests of rewrites share: text before, text after, and the same values from both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphopt.ir import Graph, evaluate, parse_graph, verify
from graphopt.rewrite import Context, DeadCode, Pass, PassManager
from graphopt.rewrite.engine.validate import difference, random_inputs


def plain(graph: Graph) -> str:
    """The graph's text without the names of values and without locations, so that two spellings compare."""
    copy = graph.clone()
    _strip(copy)
    return str(copy)


def _strip(graph: Graph) -> None:
    for v in graph.values():
        v.name = None
    for op in graph.ops:
        op.loc = ()
        for region in op.regions:
            _strip(region)


def parse(text: str, **constants: np.ndarray) -> Graph:
    graph = parse_graph(text, constants)
    verify(graph)
    return graph


def rewritten(passes: Pass | Sequence[Pass], text: str, *, inputs: Sequence[Any] | None = None, target: Any = None,
              constants: Mapping[str, np.ndarray] | None = None, ulps: float | None = None) -> Graph:
    """The graph after the passes and a sweep of dead code, once its values are those of before."""
    passes = [passes] if isinstance(passes, Pass) else list(passes)
    graph = parse(text, **(constants or {}))
    given = random_inputs(graph, seed=1) if inputs is None else list(inputs)
    expected = evaluate(graph, given)
    PassManager([*passes, DeadCode()]).run(graph, Context(target))
    allowed = max(p.ulps for p in passes) if ulps is None else ulps
    for a, b in zip(expected, evaluate(graph, given), strict=True):
        assert difference(a, b, allowed) is None
    return graph


def check(passes: Pass | Sequence[Pass], before: str, after: str, **options: Any) -> None:
    """`passes` turn `before` into `after`, and both compute the same."""
    graph = rewritten(passes, before, **options)
    assert plain(graph) == plain(parse(after, **(options.get("constants") or {})))


def unchanged(passes: Pass | Sequence[Pass], text: str, **options: Any) -> None:
    check(passes, text, text, **options)


def names(graph: Graph) -> list[str]:
    """The ops, constants apart."""
    return [op.name for op in graph.ops if op.name != "const"]


def body(graph: Graph) -> list[str]:
    """The ops inside the only fused op, constants apart."""
    fused = [op for op in graph.ops if op.name == "fused"]
    assert len(fused) == 1
    return names(fused[0].regions[0])
