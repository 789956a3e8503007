"""x86 CPUs: kernels shaped by hand, machine code through LLVM, programs that run in this process or from an artifact."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from graphopt.backends.base import Backend
from graphopt.targets import Target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from graphopt.backends.recipe import Recipe
    from graphopt.codegen.lower.kernels import Template
    from graphopt.codegen.lower.schedule import Style
    from graphopt.runtime.model import Model
    from graphopt.targets.capabilities import Capabilities
    from graphopt.targets.x86 import X86

# A program that is found in the cache needs no compiler: what does is imported where it is asked for.


class X86Backend(Backend):
    """The CPU that programs are compiled on, and its like."""

    kind = "x86"
    forms = ("tir", "asm")
    runs = artifacts = tunes = checks_indices = True

    def read(self, detail: str | None, threads: int | None) -> Target:
        from graphopt.targets.x86 import X86

        return X86.named(detail, threads)

    def capabilities(self, target: Target) -> Capabilities:
        from graphopt.codegen.x86.capabilities import X86Capabilities

        return X86Capabilities(cast("X86", target))

    def style(self, target: Target) -> Style:
        from graphopt.codegen.x86.templates import style_of

        return style_of(cast("X86", target))

    def templates(self, target: Target) -> Sequence[Template]:
        from graphopt.codegen.x86.templates import templates_of

        return templates_of(cast("X86", target))

    def missing(self, target: Target) -> list[str]:
        from graphopt.runtime.host.machine import missing

        return missing(cast("X86", target).instructions)

    def compile(self, recipe: Recipe, max_specialisations: int) -> Model:
        from graphopt.backends.x86.model import CompiledModel

        return CompiledModel(recipe, max_specialisations)


BACKEND = X86Backend()

__all__ = ["BACKEND", "X86Backend"]
