"""What a kind of target brings to the compiler: one object that `compile`, the command line and the tools ask.

`graphopt.compile` never asks "is it x86?". A backend from another package is the same thing as ours: a subclass of `Backend`
(of `graphopt.backends.emitted.EmittedBackend` where it writes source), given to `register`.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from graphopt.cache import store
from graphopt.errors import TargetError
from graphopt.targets import Target, named, parse_target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from graphopt.backends.recipe import Recipe
    from graphopt.codegen.lower.kernels import Template
    from graphopt.codegen.lower.schedule import Style
    from graphopt.rewrite import Pass
    from graphopt.runtime.model import Model
    from graphopt.targets.capabilities import Capabilities


class Backend(ABC):
    """One kind of target. Methods are given a `Target` of that kind.

    `forms` are the kinds of source that its models give, the default first; `runs` says whether programs run in the process that
    compiled them, `artifacts` whether `graphopt-build` can make artifacts for it, `tunes` whether its kernels have parameters to
    measure, `checks_indices` whether its programs can look at indices.
    """

    kind: ClassVar[str]
    forms: ClassVar[tuple[str, ...]] = ()
    runs: ClassVar[bool] = False
    artifacts: ClassVar[bool] = False
    tunes: ClassVar[bool] = False
    checks_indices: ClassVar[bool] = False

    def read(self, detail: str | None, threads: int | None) -> Target:
        """The target for what follows `kind:` in its name, None where nothing does. Raises TargetError for a wrong one."""
        raise TargetError(f"{self.kind} targets have no names")

    def capabilities(self, target: Target) -> Capabilities:
        """What answers the passes' questions."""
        from graphopt.codegen.lower.capabilities import Lowered

        return Lowered()

    def passes(self, target: Target) -> list[Pass]:
        """The passes, in order."""
        from graphopt.rewrite import default_passes

        return default_passes()

    @abstractmethod
    def style(self, target: Target) -> Style:
        """How loops are written where no template has a kernel."""

    def templates(self, target: Target) -> Sequence[Template]:
        """Kernels shaped by hand, the first match wins."""
        return ()

    def missing(self, target: Target) -> list[str]:
        """What code for the target may use and this machine lacks."""
        return []

    @abstractmethod
    def compile(self, recipe: Recipe, max_specialisations: int) -> Model:
        """The model that `graphopt.compile` gives."""


_OURS = {"x86": "graphopt.backends.x86.backend", "cuda": "graphopt.backends.cuda", "fpga": "graphopt.backends.fpga"}
_BACKENDS: dict[str, Backend] = {}


def register(backend: Backend) -> None:
    """Add a kind of target. TargetError where there is one of that name already."""
    if backend.kind in (_OURS.keys() | _BACKENDS.keys()):
        raise TargetError(f"there is a backend for {backend.kind!r} already")
    store.extends(type(backend))
    named(backend.kind)(lambda detail: backend.read(detail, None))
    _BACKENDS[backend.kind] = backend


def kind_of(target: Any) -> str:
    """The kind of a target or of a target's name, without reading the rest of it."""
    return str(getattr(target, "kind", target)).partition(":")[0]


def backend_of(target: Any) -> Backend:
    """The backend for a target, or for a target's name. TargetError where there is none."""
    kind = kind_of(target)
    if kind not in _BACKENDS:
        if kind not in _OURS:
            parse_target(target)  # says what is wrong with the name
            raise TargetError(f"no code for {getattr(target, 'name', target)}",
                              hint="Register a backend for it with graphopt.backends.base.register")
        _BACKENDS[kind] = importlib.import_module(_OURS[kind]).BACKEND
    return _BACKENDS[kind]


__all__ = ["Backend", "backend_of", "kind_of", "register"]
