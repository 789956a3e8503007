"""How x86 wants its kernels: loop style and templates."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphopt.cache import store
from graphopt.codegen.lower.kernels import Match, Template
from graphopt.codegen.lower.schedule import Style
from graphopt.codegen.x86.costs import costs_of
from graphopt.codegen.x86.kernels import contraction, global_pool, pooling, recurrent, scan, transposing
from graphopt.codegen.x86.kernels.attention import template as attention
from graphopt.targets.x86 import X86

TEMPLATED = frozenset(("attention",))
MAKERS: list[tuple[str, Callable[[X86], Match]]] = [  # first match wins
    ("attention", attention.template), *contraction.MAKERS, ("recurrent", recurrent.template),
    ("transpose", lambda _: transposing.template), ("scan", lambda _: scan.template), ("pool", lambda _: pooling.template),
    ("global_pool", global_pool.template)]


def style_of(target: X86) -> Style:
    """Vectors of the target's width; several threads from some ten microseconds of work on."""
    costs = costs_of(target)
    return Style(lanes=target.lanes, threads=target.threads, parallel_work=costs.parallel_work, templated=TEMPLATED, control=True,
                 line=costs.line)


def templates_of(target: X86) -> Sequence[Template]:
    """The target's hand-shaped kernels, first match wins."""
    return [Template(name, make(target)) for name, make in MAKERS]


def template(make: Callable[[X86], Match]) -> Callable[[X86], Match]:
    """Register a template from outside: `make(target)` gives a function of (op, kernel's name, style) that returns a kernel, or
    None where it has none. It is asked before those that are there, and its kernels are known by the name of `make`; the op
    needs a lowering rule beside it."""
    store.extends(make)
    MAKERS.insert(0, (make.__name__, make))
    return make
