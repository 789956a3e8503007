"""What a machine is. `parse_target("x86:znver4")` gives the description that codegen asks."""

from __future__ import annotations

from collections.abc import Callable

from graphopt.cache import store
from graphopt.errors import TargetError
from graphopt.targets.base import Target

FORMS = "Use x86, x86:CPU, cuda:sm_XY or fpga:PART"
Named = Callable[[str | None], Target]
_NAMED: dict[str, Named] = {}  # kinds that others add


def named(kind: str) -> Callable[[Named], Named]:
    """Register a kind of target from outside: the function gives the target for what follows `kind:`, None where nothing does.

    `graphopt.backends.base.register` does this, and says how it is compiled for. TargetError where the kind is there already.
    """

    def add(f: Named) -> Named:
        if kind in ("x86", "cuda", "fpga", *_NAMED):
            raise TargetError(f"the kind {kind!r} of targets is there already")
        store.extends(f)
        _NAMED[kind] = f
        return f

    return add


def parse_target(text: str | Target, threads: int | None = None) -> Target:
    """A target from its name: `x86`, `x86:CPU`, `cuda:sm_XY`, `fpga:PART`. Raises TargetError for anything else."""
    if isinstance(text, Target):
        return text if threads is None else text.with_threads(threads)
    if not isinstance(text, str):
        raise TargetError(f"a target is a name, not {text!r}", hint=FORMS)
    kind, _, detail = text.partition(":")
    if kind == "x86":
        from graphopt.targets.x86 import X86

        return X86.named(detail or None, threads)
    if kind == "cuda":
        from graphopt.targets.cuda import Cuda

        return Cuda.named(detail or None)
    if kind == "fpga":
        from graphopt.targets.fpga import Fpga

        return Fpga.named(detail or None)
    if kind in _NAMED:
        return _NAMED[kind](detail or None)
    raise TargetError(f"unknown target {text!r}", hint=f"{FORMS}{''.join(f', or {k}' for k in _NAMED)}")


def without_winograd(text: str | Target, threads: int | None = None) -> Target:
    """The target, forbidden to convolve by Winograd's algorithm; only x86 has kernels for that."""
    return parse_target(text, threads).without_winograd()


__all__ = ["Target", "named", "parse_target", "without_winograd"]
