"""The smallest graph that still fails in the same way, by delta debugging (Zeller and Hildebrandt: Simplifying and Isolating
Failure-Inducing Input, IEEE TSE 28(2), 2002): ops are cut away and what they computed becomes an input, dims shrink, and weights
are replaced by random ones. Every candidate is compiled in a process of its own, under a limit of time.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from graphopt.diagnose.checking import in_child
from graphopt.diagnose.repro import attempt
from graphopt.errors import GraphOptError
from graphopt.ir.dims import DimLike
from graphopt.ir.graph import Graph, Op, Tensor, Value
from graphopt.ir.text import ConstantNames, print_graph
from graphopt.ir.types import TensorType
from graphopt.ir.verify import verify
from graphopt.ship.crash import COMPARE, COMPILE, RUN, Failure, is_large, like
from graphopt.targets import Target

LIMIT_SECONDS = 120.0  # of the first compilation; a candidate may take five times what that took, 10 s at least


@dataclass
class Reduced:
    """A graph that fails, its inputs (None where random ones do), the failure, the names of constants that were drawn at random,
    and how many candidates were tried."""

    graph: Graph
    inputs: list[Any] | None
    failure: Failure
    drawn: set[str]
    tried: int


def tried(graph: Graph, target: Target, inputs: Sequence[Any] | None, last: str, seconds: float) -> Failure | None:
    """What `attempt` finds, in a forked process; a crash of compiled code is a failure too. What takes longer than `seconds`
    counts as none."""
    def work(report: Callable[[int], None]) -> Failure | None:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        report(0)
        return attempt(graph, target, inputs, last, report)

    found, crashed, reached = in_child(work, seconds)
    if not crashed or crashed == "timeout":
        return found
    return Failure(RUN if reached else COMPILE, crashed, "", "", f"the process ended with {crashed}")


def find(graph: Graph, target: Target, inputs: Sequence[Any] | None, seconds: float = LIMIT_SECONDS) -> Failure | None:
    """The first failure of compiling and running a graph, else of what it computes; None where all is right."""
    with _apart():
        return tried(graph, target, inputs, RUN, seconds) or tried(graph, target, inputs, COMPARE, seconds)


def reduce(graph: Graph, target: Target, inputs: Sequence[Any] | None, failure: Failure,
           progress: Callable[[int, int], None] = lambda ops, tried: None) -> Reduced:
    """The smallest graph found that fails as `failure` does. KeyboardInterrupt ends the search with what is found so far.

    `progress(ops, candidates)` is called after every candidate.
    """
    with _apart():
        search = _Search(graph, target, list(inputs) if inputs is not None else None, failure, progress)
        try:
            search.run()
        except KeyboardInterrupt:
            pass
        return Reduced(search.graph, search.inputs, search.failure, search.drawn, search.count)


@contextmanager
def _apart() -> Iterator[None]:
    """Candidates keep their code in a cache of their own, which goes with them."""
    before = os.environ.get("GRAPHOPT_CACHE")
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        os.environ["GRAPHOPT_CACHE"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["GRAPHOPT_CACHE"]
            else:
                os.environ["GRAPHOPT_CACHE"] = before


class _Search:
    def __init__(self, graph: Graph, target: Target, inputs: list[Any] | None, failure: Failure,
                 progress: Callable[[int, int], None]) -> None:
        self.graph, self.target, self.inputs, self.failure, self.progress = graph, target, inputs, failure, progress
        self.drawn: set[str] = set()
        self.count = 0
        self.seconds = LIMIT_SECONDS

    def fails(self, graph: Graph, inputs: list[Any] | None) -> Failure | None:
        """The failure of a candidate where it is the one that is looked for."""
        start = time.perf_counter()
        try:
            verify(graph)
        except GraphOptError:
            return None
        found = tried(graph, self.target, inputs, self.failure.stage, self.seconds)
        self.count += 1
        if self.count == 1:
            self.seconds = max(10.0, 5 * (time.perf_counter() - start))
        self.progress(sum(op.name != "const" for op in graph.ops), self.count)
        return found if found is not None and found.signature == self.failure.signature else None

    def accept(self, graph: Graph | None, inputs: list[Any] | None) -> bool:
        """Take a candidate for the graph from here on if it fails in the same way."""
        if graph is None:
            return False
        found = self.fails(graph, inputs)
        if found is None:
            return False
        self.graph, self.inputs, self.failure = graph, inputs, found
        return True

    def run(self) -> None:
        if self.inputs is not None:
            self.accept(self.graph.clone(), None)  # do random inputs do?
        self.weights(at_once=True)
        while True:
            size = _size(self.graph)
            self.ops()
            self.dims()
            if _size(self.graph) == size:
                break
        self.weights(at_once=False)

    def ops(self) -> None:
        """Classic delta debugging over the ops: keep a part, or leave a part out, of ever finer divisions."""
        parts = 2
        while True:
            ops = [op for op in self.graph.ops if op.name != "const"]
            parts = min(parts, len(ops))
            if parts < 2:
                return
            bounds = [len(ops) * k // parts for k in range(parts + 1)]
            pieces = [ops[a:b] for a, b in pairwise(bounds)]
            if any(len(p) < len(ops) and self.accept(*self.extract(p)) for p in pieces):
                parts = 2
            elif parts > 2 and any(self.accept(*self.extract([o for o in ops if o not in set(p)])) for p in pieces):
                parts = max(parts - 1, 2)
            elif parts == len(ops):
                return
            else:
                parts = min(2 * parts, len(ops))

    def extract(self, kept: Iterable[Op]) -> tuple[Graph | None, list[Any] | None]:
        """The graph of some ops: what others computed for them becomes an input, what nobody else uses an output."""
        chosen = set(kept)
        needed = dict.fromkeys(v for op in self.graph.ops if op in chosen for v in op.operands if v is not None)
        new = Graph(self.graph.name)
        new._symbols = self.graph._symbols
        seen: dict[Value, Value] = {}
        inputs: list[Any] | None = None if self.inputs is None else []
        for v in needed:
            if v.op is None or (v.op not in chosen and v.op.name != "const"):
                seen[v] = new.add_input(v.type, v.name)
                if inputs is not None:
                    if v.op is not None:
                        return None, None  # no value is known of it; random inputs were tried
                    inputs.append(self.inputs[v.index])  # type: ignore[index]
        for op in self.graph.ops:
            if op not in chosen and not (op.name == "const" and op.results[0] in needed):
                continue
            copy = Op(op.definition, [None if v is None else seen[v] for v in op.operands], dict(op.attrs),
                      [r.clone() for r in op.regions], op.loc, [r.type for r in op.results])
            new._link(copy, None)
            for old, made in zip(op.results, copy.results):
                made.name = old.name
                seen[old] = made
        returned = set(self.graph.outputs)
        new.outputs = [seen[r] for op in self.graph.ops if op in chosen for r in op.results
                       if r in returned or all(u not in chosen for u in r.users)]
        return new, inputs

    def dims(self) -> None:
        """Make every size that inputs and constants have smaller, everywhere at once, where types then still fit."""
        if self.inputs is not None:
            return
        for n in sorted(_sizes(self.graph), reverse=True):
            for smaller in dict.fromkeys((1, 2, 3, n // 8, n // 4, n // 2)):
                if 0 < smaller < n and self.accept(_shrunk(self.graph, n, smaller), None):
                    break

    def weights(self, at_once: bool) -> None:
        """Replace large constants by random ones like them: all, or (later) each that has to be kept otherwise."""
        names = ConstantNames()
        print_graph(self.graph, names)
        large = {n: t for n, t in names.tensors.items() if is_large(t) and n not in self.drawn}
        for chosen in [list(large)] if at_once else [[n] for n in large]:
            if chosen and self.accept(_with(self.graph, {id(large[n]): like(large[n], n) for n in chosen}), self.inputs):
                self.drawn |= set(chosen)


def _size(graph: Graph) -> tuple[int, int]:
    sizes = [t.size for v in graph.values() if isinstance(t := v.type, TensorType) and t.is_static]
    return len(graph), sum(n for n in sizes if isinstance(n, int))


def _sizes(graph: Graph) -> set[int]:
    values = [*graph.inputs, *(op.results[0] for op in graph.ops if op.name == "const")]
    return {d for v in values if isinstance(v.type, TensorType) and v.type.shape is not None for d in v.type.shape
            if isinstance(d, int) and d > 1}


def _shrunk(graph: Graph, n: int, smaller: int) -> Graph | None:
    """The graph with every dim of size n of another size, types inferred anew; None where they do not fit, or within regions."""
    if any(op.regions for op in graph.ops):
        return None
    new = Graph(graph.name)
    seen: dict[Value, Value] = {}

    def size(d: DimLike) -> DimLike:
        return smaller if isinstance(d, int) and d == n else d

    try:
        for v in graph.inputs:
            t = v.type
            if isinstance(t, TensorType) and t.shape is not None:
                t = replace(t, shape=tuple(map(size, t.shape)))
            seen[v] = new.add_input(t, v.name)
        for op in graph.ops:
            attrs = dict(op.attrs)
            if op.name == "const":
                array = op.attrs["value"].numpy()
                part = array[tuple(slice(0, smaller if d == n else d) for d in array.shape)]
                attrs["value"] = op.attrs["value"] if part.shape == array.shape else Tensor(part.copy(), op.attrs["value"].name)
            for a in op.definition.attrs:
                if a.kind.startswith("dims") and attrs.get(a.name) is not None:
                    attrs[a.name] = tuple(map(size, attrs[a.name]))
            made = new.add(op.name, [None if v is None else seen[v] for v in op.operands], attrs, loc=op.loc)
            for old, r in zip(op.results, made.results):
                r.name, seen[old] = old.name, r
        new.outputs = [seen[v] for v in graph.outputs]
    except (GraphOptError, ValueError, IndexError):
        return None
    return new


def _with(graph: Graph, replaced: dict[int, Tensor]) -> Graph:
    """A copy in which constants are others, by the identity of their tensors."""
    new = graph.clone()
    for op in new.walk():
        if op.name == "const":
            op.attrs["value"] = replaced.get(id(op.attrs["value"]), op.attrs["value"])
    return new


__all__ = ["Reduced", "find", "reduce", "tried"]
