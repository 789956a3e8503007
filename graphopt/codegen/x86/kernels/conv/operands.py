"""A convolution with its operands: what all kernels of convolutions share."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.codegen.kernel.expr import Expr, const
from graphopt.codegen.kernel.loops import Stmt, store
from graphopt.codegen.lower.kernels import Sources
from graphopt.codegen.lower.schedule import Style
from graphopt.codegen.x86.kernels.conv.problem import Problem
from graphopt.codegen.x86.kernels.tile import Blocked
from graphopt.ir.graph import Op
from graphopt.targets.x86 import X86


class Convolution(Blocked):
    """A problem with its operands: image `x`, weights `w`, perhaps a `bias`."""

    def __init__(self, op: Op, inner: Op, sources: Sources, name: str, style: Style, machine: X86) -> None:
        super().__init__(op, inner, sources, name, style, machine)
        x, w, bias = (*inner.operands, None)[:3]
        assert x is not None and w is not None
        self.x, self.w, self.bias = x, w, bias
        self.problem = Problem.of(inner)

    def lanes_for(self, channels: int) -> int:
        """Elements of the longest vector that so many neighbouring channels of the result fill."""
        lanes = self.lanes
        while channels < lanes:
            lanes //= 2
        return lanes

    def packs(self) -> bool:
        """Can the weights be packed? Kernels of images that lie channels last must have them so, and know no padding that is
        cut away."""
        return self.problem.is_padded_outside and self.packable(self.w)

    def added(self, channel: Expr) -> Expr:
        """What the sum of an output channel starts with."""
        return const(0, self.dtype) if self.bias is None else self.element(self.bias, channel)

    def put(self, place: Sequence[Expr], value: Expr) -> list[Stmt]:
        """Store element `place` of the convolution, and what is made of it in the op around it."""
        return [store(buffer, offset, x) for buffer, offset, x in self.epilogue(place, value)]


__all__ = ["Convolution"]
