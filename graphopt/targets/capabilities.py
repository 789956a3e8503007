"""What the passes ask of a target: which composite ops it has kernels for, what those take in, and what layouts cost.

A kind of target says more than these defaults by a subclass; one that says nothing gets a graph of primitives, fused where that
is right on any machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from graphopt.ir.table import Trait
from graphopt.targets.base import Choice

if TYPE_CHECKING:
    from graphopt.ir.graph import Op, Value


class Capabilities:
    """The questions, and the answers of a machine of which nothing is known."""

    has_loops = False  # whether a program can hold loops and branches at all

    def keeps(self, op: Op) -> bool:
        """Has it a kernel for this composite op?"""
        return False

    def row_kernel(self, op: Op) -> bool:
        """Softmax, the norms and their like: are they computed row by row, with what is elementwise around them?"""
        return op.definition.has(Trait.COMPOSITE) and op.definition.has(Trait.REDUCTION) and self.keeps(op)

    def loops(self, op: Op) -> bool:
        """Can a program hold this loop as one? (Composite ops in its body will have been decomposed where they need be.)"""
        return False

    def takes(self, op: Op, k: int) -> bool:
        """Does the contraction's kernel compute operand `k` as it reads it?"""
        return False

    def places(self, op: Op) -> bool:
        """Does the contraction's kernel store its result element by element, wherever transposes and reshapes put it?"""
        return False

    def layout_choice(self, op: Op) -> Choice | None:
        """What the op costs row-major and channels last; None where layouts do not matter to it."""
        return None

    def conversion(self, v: Value) -> tuple[float, float]:
        """Cycles from row-major to channels last, and back."""
        return 0.0, 0.0

    def room(self, op: Op, v: Value) -> tuple[int, int] | None:
        """The halo, and the elements to leave free after each pixel, that the op wants of an image; None: it does not care."""
        return None

    def room_between(self, channels: int, itemsize: int) -> int:
        """The elements to leave free after each pixel of an image of so many channels."""
        return 0

    def parts(self, ops: Sequence[Op], cuts: Sequence[int], batch: int) -> tuple[int, int] | None:
        """How many of the first ops (one of `cuts`) are best run for how many images at a time; None: all images at once."""
        return None

    def joins(self, op: Op) -> bool:
        """Is the op a kernel that reads and writes tensors wherever they lie?"""
        return False

    def streams(self, first: Op, second: Op) -> str | None:
        """Why two ops are better one kernel that takes rows from one to the other; None where they are not."""
        return None

    def absorbs(self, first: Op, second: Op) -> str | None:
        """Why the second of two ops should compute, piece by piece, what the first makes for it; None where it cannot."""
        return None


__all__ = ["Capabilities"]
