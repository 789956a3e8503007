"""Rules, and the worklist that applies them to fixpoint."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphopt.errors import IRError, RewriteError
from graphopt.ir.graph import Graph, Op, Value, refine
from graphopt.rewrite.engine.context import Context
from graphopt.rewrite.engine.pattern import Absent, AnyValue, Bound, Call, Constant, Match, Node, Number, match, parse_pattern

FEW = 64  # values with more uses are not searched below after each change, or one such value would make the work quadratic
Replacement = Callable[[Match], Value | Sequence[Value] | None]


@dataclass(frozen=True)
class Rule:
    """`replacement` of the ops that `pattern` matches, where `when` holds. `ulps` is the error that it may bring in, in
    units in the last place of the result's dtype at the magnitude of the tensor; 0 is exact (as values: -0.0 is 0.0)."""

    name: str
    pattern: str
    replacement: str | Replacement
    when: Callable[[Match], bool] | None = None
    ulps: float = 0.0
    node: Call = field(init=False, repr=False)
    template: Node | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        node = parse_pattern(self.pattern)
        if not isinstance(node, Call):
            raise IRError("the root of a pattern is an op", where=f"rule {self.name!r}")
        object.__setattr__(self, "node", node)
        object.__setattr__(self, "template", parse_pattern(self.replacement) if isinstance(self.replacement, str) else None)

    def build(self, m: Match) -> list[Value] | None:
        """The values to replace the root's results, built before it; None where the rule does not apply after all."""
        if self.when is not None and not self.when(m):
            return None
        got = instantiate(self.template, m) if self.template is not None else self.replacement(m)  # type: ignore[operator]
        if got is None:
            return None
        return [got] if isinstance(got, Value) else list(got)


def instantiate(node: Node | None, m: Match) -> Any:
    """Build a replacement's text with what the match bound."""
    if isinstance(node, (AnyValue, Constant)):
        return m.values[node.name]
    if isinstance(node, Number):
        return node.value
    if isinstance(node, Call):
        operands = [instantiate(o, m) for o in node.operands]
        attrs = {k: m.attrs[v.name] if isinstance(v, Bound) else v for k, v in node.attrs}
        return m.build.op(node.names[0], operands, attrs).result
    if isinstance(node, Absent):
        return None
    raise IRError("`...` cannot stand in a replacement")


class Rewriter:
    """Applies rules over one graph until none matches; near-linear, since only the neighbourhood of a change is seen again.

    `changed(op)` is called with every op that a rule added. Ops that become dead on the way are erased.
    """

    def __init__(self, rules: Sequence[Rule], graph: Graph, context: Context,
                 changed: Callable[[Op], None] | None = None) -> None:
        self.graph, self.context, self.changed = graph, context, changed
        self.by_root: dict[str, list[Rule]] = {}
        for rule in rules:
            for name in rule.node.names:
                self.by_root.setdefault(name, []).append(rule)
        self.depth = max((rule.node.depth for rule in rules), default=1)
        self.queue: deque[Op] = deque()
        self.queued: set[Op] = set()
        self.applications: dict[str, int] = {}

    def run(self) -> int:
        """Returns how many rules were applied. Raises RewriteError if the rules chase each other without end."""
        for op in self.graph.ops:
            self._enqueue(op)
        limit = 1000 + 50 * len(self.graph)
        total = 0
        while self.queue:
            op = self.queue.popleft()
            self.queued.discard(op)
            if op.graph is not self.graph:
                continue
            for rule in self.by_root.get(op.name, ()):
                found = match(rule.node, op)
                if found is None:
                    continue
                self.context.subject = op
                outcome = self._apply(rule, found)
                if outcome is None:
                    return total
                if outcome:
                    total += 1
                    self.applications[rule.name] = self.applications.get(rule.name, 0) + 1
                    break
            if total > limit:
                worst = max(self.applications, key=lambda n: self.applications[n])
                raise RewriteError(f"rules do not come to an end; {worst!r} was applied {self.applications[worst]} times",
                                   where=self.context.pass_name, hint="Two rules undo each other, or one rewrites its own result")
        return total

    def _enqueue(self, op: Op) -> None:
        if op.name in self.by_root and op not in self.queued:
            self.queued.add(op)
            self.queue.append(op)

    def _apply(self, rule: Rule, m: Match) -> bool | None:
        """True if applied, False if refused, None if the fuel is spent."""
        root = m.root
        before = root.prev
        values = rule.build(m)
        if values is None:
            self._discard(before, root)
            return False
        _check(rule, root, values)
        if not self.context.take(f"rule {rule.name!r}", root):
            self._discard(before, root)
            return None
        self.context.because(root, rule.name)
        added = list(_between(before, root))
        for old, new in zip(root.results, values, strict=True):
            new.type = refine(new.type, old.type)
        moved = [user for r in root.results for user in r.users]
        touched = [v for v in root.operands if v is not None]
        root.replace_with(values)
        touched += erase_dead(v.op for v in touched if v.op is not None)
        for op in added:
            self._enqueue(op)
            if self.changed is not None:
                self.changed(op)
        for v in touched:  # they lost a use: a pattern that wants to be their only one may match now
            if len(v.uses) <= FEW:
                moved += v.users
            if v.op is not None and v.op.graph is self.graph:
                self._enqueue(v.op)
        self._enqueue_below(moved)
        return True

    def _enqueue_below(self, ops: Sequence[Op]) -> None:
        """Enqueue ops, and those that a pattern could reach them from."""
        near: dict[Op, None] = {}
        frontier = list(ops)
        for _ in range(self.depth):
            frontier = [op for op in dict.fromkeys(frontier) if op not in near and op.graph is self.graph]
            near.update(dict.fromkeys(frontier))
            frontier = [user for op in frontier for r in op.results if len(r.uses) <= FEW for user in r.users]
        for op in near:
            self._enqueue(op)

    def _discard(self, before: Op | None, root: Op) -> None:
        for op in reversed(list(_between(before, root))):
            op.erase()


def _between(before: Op | None, root: Op) -> Iterator[Op]:
    """Ops after `before` (None: the beginning) and before `root`."""
    found = []
    op = root.prev
    while op is not None and op is not before:
        found.append(op)
        op = op.prev
    return reversed(found)


def _check(rule: Rule, root: Op, values: Sequence[Value]) -> None:
    if len(values) != len(root.results):
        raise RewriteError(f"gave {len(values)} values for {len(root.results)} results",
                           where=f"rule {rule.name!r} on {root.where()}")
    for old, new in zip(root.results, values):
        try:
            refine(new.type, old.type)
        except IRError:
            raise RewriteError(f"would replace {old.type} by {new.type}", where=f"rule {rule.name!r} on {root.where()}") from None


def erase_dead(ops: Iterable[Op]) -> list[Value]:
    """Erase those of `ops` that nothing uses, then their producers likewise; returns the values that lost a use."""
    lost: list[Value] = []
    stack = list(ops)
    while stack:
        op = stack.pop()
        if op.graph is None or any(r.uses for r in op.results) or not op.results:
            continue
        operands = [v for v in op.operands if v is not None]
        op.erase()
        lost += operands
        stack += [v.op for v in operands if v.op is not None]
    return lost


def rewrite(graph: Graph, rules: Sequence[Rule], context: Context | None = None) -> bool:
    """Apply `rules` to `graph` until none matches; True if anything changed."""
    return Rewriter(rules, graph, context or Context()).run() > 0
