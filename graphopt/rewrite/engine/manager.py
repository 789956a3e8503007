"""Passes and their manager: timing, verification after each, snapshots and diffs, translation validation, reasons."""

from __future__ import annotations

import difflib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from graphopt.errors import EvaluationError, GraphOptError, IRError, RewriteError
from graphopt.ir.evaluate import evaluate
from graphopt.ir.graph import Graph
from graphopt.ir.settle import settle
from graphopt.ir.table import Trait
from graphopt.ir.verify import verify
from graphopt.rewrite.engine.context import Context
from graphopt.rewrite.engine.rules import Rewriter, Rule
from graphopt.rewrite.engine.validate import compare, first_bad_change, is_deterministic, random_inputs, sensitivity

log = logging.getLogger("graphopt.rewrite")


class Pass:
    """One step from graph to graph, in place.

    A subclass sets `name` (what the command line calls it), says in its docstring what holds before and after, states in
    `ulps` by how much it may change a float result (see `validate.difference`; 0 is not at all), and defines `run`.
    Every change is announced with `context.take(...)` before it is made, and not made where that refuses.
    """

    name: ClassVar[str]
    ulps: float = 0.0

    def run(self, graph: Graph, context: Context) -> bool:
        """Rewrite `graph`; True if it changed."""
        raise NotImplementedError


class GraphPass(Pass):
    """A pass that treats each graph on its own: the bodies of control flow first, then the graph that holds them."""

    def run(self, graph: Graph, context: Context) -> bool:
        changed = False
        for op in graph.ops:
            if op.definition.has(Trait.CONTROL):
                for region in op.regions:
                    changed |= self.run(region, context)
        return self.run_on(graph, context) or changed

    def run_on(self, graph: Graph, context: Context) -> bool:
        """Rewrite the ops of `graph`, not those inside of them; True if it changed."""
        raise NotImplementedError


class RulePass(GraphPass):
    """A pass that is a list of rules, applied to fixpoint. Its tolerance is that of its rules, with room for it to grow
    through the layers that follow."""

    rules: Sequence[Rule] = ()

    @property
    def ulps(self) -> float:  # type: ignore[override]
        return 100 * max((rule.ulps for rule in self.rules), default=0.0)

    def run_on(self, graph: Graph, context: Context) -> bool:
        return Rewriter(self.rules, graph, context).run() > 0


@dataclass(frozen=True)
class PassResult:
    """What one pass did."""

    name: str
    seconds: float
    ops_before: int
    ops_after: int
    changed: bool


@dataclass
class Results:
    """What a run of passes did; `context` holds the reasons."""

    context: Context
    passes: list[PassResult] = field(default_factory=list)

    def __str__(self) -> str:
        width = max((len(p.name) for p in self.passes), default=4)
        lines = [f"{'pass':{width}}  seconds  ops before  after"]
        lines += [f"{p.name:{width}}  {p.seconds:7.3f}  {p.ops_before:10}  {p.ops_after:5}{'' if p.changed else '  unchanged'}"
                  for p in self.passes]
        return "\n".join(lines)


class WrongResult(RewriteError):
    """A pass that changed what the graph computes: `changed` says what, `culprit` by which of its changes (empty where none
    alone is to blame). `before` is the graph before the pass; `right` and `wrong` are it just before and after that change."""

    def __init__(self, changed: str, culprit: str, by: Pass, before: Graph, right: Graph, wrong: Graph) -> None:
        self.changed, self.culprit = changed, culprit
        super().__init__("; ".join(filter(None, (changed, culprit))), where=f"pass {by.name}",
                         hint="This is a bug in graphopt; leave the pass out to get on")
        self.pass_name, self.ulps = by.name, by.ulps
        self.before, self.right, self.wrong = before, right, wrong


Hook = Callable[[str, Graph], None]


class PassManager:
    """Runs passes in order.

    `verify`: check the graph's rules after every pass. `validate`: evaluate the graph around every pass that changed it
    with the reference evaluator, on `inputs` or on random ones from `seed`, and raise RewriteError naming the first pass
    and the first change in it after which a result is off. `before` and `after` are called as hook(pass name, graph).
    """

    def __init__(self, passes: Sequence[Pass], *, verify: bool = True, validate: bool = False,
                 inputs: Sequence[Any] | None = None, seed: int = 0,
                 before: Sequence[Hook] = (), after: Sequence[Hook] = ()) -> None:
        self.passes = list(passes)
        self.verify, self.validate, self.inputs, self.seed = verify, validate, inputs, seed
        self.before, self.after = list(before), list(after)

    def run(self, graph: Graph, context: Context | None = None) -> Results:
        """Run all passes on `graph`, in place. A pass that crashes or breaks the graph raises RewriteError."""
        context = context or Context()
        results = Results(context)
        inputs: Sequence[Any] = []
        noise: list[float] = []
        expected: list[Any] | None = None
        if self.validate:
            if is_deterministic(graph):
                inputs = list(self.inputs) if self.inputs is not None else random_inputs(graph, self.seed)
                expected, noise = _reference(graph, inputs, self.seed)
            else:
                log.warning("@%s draws random numbers without a seed: its passes are not validated", graph.name)
        for p in self.passes:
            for hook in self.before:
                hook(p.name, graph)
            original = graph.clone() if expected is not None else None
            ops_before, start = _count(graph), time.perf_counter()
            changed = _run(p, graph, context)
            seconds = time.perf_counter() - start
            results.passes.append(PassResult(p.name, seconds, ops_before, _count(graph), changed))
            log.debug("%s: %.3f s, %s", p.name, seconds, "changed" if changed else "unchanged")
            if self.verify and changed:
                try:
                    verify(graph)
                except IRError as e:
                    raise RewriteError(f"left a graph that breaks a rule: {e}", where=f"pass {p.name}") from e
            if original is not None and expected is not None and changed:
                expected = _check(p, original, graph, context, inputs, expected, noise)
            for hook in self.after:
                hook(p.name, graph)
        return results


def _reference(graph: Graph, inputs: Sequence[Any], seed: int) -> tuple[list[Any], list[float]]:
    """The outputs that every pass must keep, and how sensitive they are."""
    try:
        expected = evaluate(graph, inputs)
        return expected, sensitivity(graph, inputs, expected, seed)
    except EvaluationError as e:
        raise RewriteError(f"the graph cannot be evaluated before any pass: {e}", where="validation",
                           hint="Give inputs= that the model accepts") from e


def _count(graph: Graph) -> int:
    return sum(1 for _ in graph.walk())


def _run(p: Pass, graph: Graph, context: Context) -> bool:
    context.begin(p.name)
    try:
        changed = p.run(graph, context)
        return settle(graph) or changed  # what the pass found out of dims that were not known
    except Exception as e:
        at = f" at {context.subject.where()}" if context.subject is not None else ""
        text = str(e) if isinstance(e, GraphOptError) else f"{type(e).__name__}: {e}"
        raise RewriteError(f"failed{at}: {text}", where=f"pass {p.name}") from e


def _check(p: Pass, original: Graph, graph: Graph, context: Context, inputs: Sequence[Any], expected: list[Any],
           noise: Sequence[float]) -> list[Any]:
    """The outputs after pass `p`; raises RewriteError where they are off, naming the change that did it."""
    mismatch = compare(expected, graph, inputs, p.ulps, noise)
    if mismatch is None:
        return evaluate(graph, inputs) if p.ulps else expected

    last = ""

    def broken(changes: int) -> bool:
        nonlocal last
        trial, limited = original.clone(), Context(context.target, fuel=changes)
        _run(p, trial, limited)
        last = limited.last
        return compare(expected, trial, inputs, p.ulps, noise) is not None

    number = first_bad_change(context.applied, broken)
    culprit = ""
    if number is not None:
        broken(number)
        culprit = f"it goes wrong with change {number} of {context.applied}: {last}"
    names = graph.output_names
    output = names[mismatch.output] if mismatch.output < len(names) else str(mismatch.output)
    right, wrong = (_limited(p, original, context, n) for n in (0 if number is None else number - 1, number))
    raise WrongResult(f"changed output {output}: {mismatch.text}", culprit, p, original, right, wrong)


def _limited(p: Pass, original: Graph, context: Context, changes: int | None) -> Graph:
    """The graph after the first so many changes of a pass."""
    graph = original.clone()
    _run(p, graph, Context(context.target, fuel=changes))
    return graph


class Snapshots:
    """Hooks that keep the graph's text around passes: `s = Snapshots(); PassManager(..., before=[s.before], after=[s.after])`.

    `only` names the passes of interest (None: all). Where a pass runs twice, `text` and `diff` speak of the last time.
    """

    def __init__(self, only: Sequence[str] | None = None) -> None:
        self.only = only
        self.texts: dict[str, tuple[str, str]] = {}

    def before(self, name: str, graph: Graph) -> None:
        if self.only is None or name in self.only:
            self.texts[name] = (str(graph), "")

    def after(self, name: str, graph: Graph) -> None:
        if name in self.texts:
            self.texts[name] = (self.texts[name][0], str(graph))

    def text(self, name: str) -> str:
        """The graph after pass `name`."""
        return self._get(name)[1]

    def diff(self, name: str) -> str:
        """A unified diff of the graph around pass `name`; empty where nothing changed."""
        before, after = self._get(name)
        return "".join(difflib.unified_diff(before.splitlines(True), after.splitlines(True), f"before {name}", f"after {name}"))

    def _get(self, name: str) -> tuple[str, str]:
        if name not in self.texts:
            raise RewriteError(f"no pass {name!r} was run", hint=f"Passes: {', '.join(self.texts)}")
        return self.texts[name]
