"""How x86 wants its kernels: loop style and templates."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.codegen import attention, contraction, recurrent, transposing
from graphopt.codegen.kernels import Template
from graphopt.codegen.schedule import Style
from graphopt.targets.x86 import X86

TEMPLATED = frozenset(("attention",))


def style_of(target: X86) -> Style:
    """Vectors of the target's width; several threads from some ten microseconds of work on."""
    return Style(lanes=target.lanes, threads=target.threads, parallel_work=1 << 16, templated=TEMPLATED)


def templates_of(target: X86) -> Sequence[Template]:
    """The target's hand-shaped kernels, first match wins."""
    return (attention.template(target), contraction.template(target), recurrent.template(target), transposing.template)
