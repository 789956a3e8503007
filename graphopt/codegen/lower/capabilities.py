"""What every target can do that takes its kernels from the lowering rules."""

from __future__ import annotations

from graphopt.codegen import lower  # noqa: F401  (fills the tables)
from graphopt.codegen.lower.registry import why_not
from graphopt.ir.graph import Op
from graphopt.targets.capabilities import Capabilities


class Lowered(Capabilities):
    """It has kernels for what has a lowering rule."""

    def keeps(self, op: Op) -> bool:
        return why_not(op) is None


__all__ = ["Lowered"]
