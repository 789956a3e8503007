"""The operands and the result of attention, read and stored through the movement ops that are fused into the kernel."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.codegen.kernel.expr import Expr, ExprLike, as_expr, cast, const
from graphopt.codegen.kernel.index import flat_index, split_index
from graphopt.codegen.kernel.loops import Stmt, store
from graphopt.codegen.lower.kernels import Sources
from graphopt.codegen.lower.schedule import Output, Style, iteration, schedule
from graphopt.codegen.x86.kernels.attention.cut import Shape
from graphopt.codegen.x86.kernels.tile import Blocked
from graphopt.ir.fused import ends
from graphopt.ir.graph import Op, Value
from graphopt.targets.x86 import X86


class Operands(Blocked):
    """One attention op with the movement ops around it."""

    def __init__(self, op: Op, inner: Op, sources: Sources, name: str, style: Style, machine: X86) -> None:
        super().__init__(op, inner, sources, name, style, machine)
        q, k, v = (inner.operand(n) for n in ("q", "k", "v"))
        assert q is not None and k is not None and v is not None
        self.q, self.k, self.v, self.mask = q, k, v, inner.operand("mask")
        batch, heads, queries, size = q.static_shape
        _, shared, keys, width = v.static_shape
        self.shape = Shape(batch, heads, shared, queries, keys, size, width, inner.attrs["causal"])
        self.inliner, _ = sources.inliner()

    @property
    def narrow(self) -> bool:
        """Are queries of another dtype than what is computed in?"""
        return self.q.dtype is not self.dtype

    def at(self, v: Value, *index: ExprLike) -> Expr:
        """An element of an operand, in the dtype that is computed in."""
        return cast(self.inliner.at(v, [as_expr(i) for i in index]), self.dtype)

    def result(self, index: Sequence[Expr], value: Expr) -> Stmt:
        """Store one element of the attention's result where the ops after it move it to."""
        v, at = self.inner.result, list(index)
        while v not in ends(self.op):
            (user,) = v.users
            if user.name == "transpose":
                at = [at[p] for p in user.attrs["perm"]]
            else:
                assert user.name == "reshape"
                at = split_index(flat_index(at, v.static_shape), user.result.static_shape)
            v = user.result
        out = self.sources.outputs[0]
        return store(out, flat_index(at, v.static_shape), cast(cast(value, self.inner.result.dtype), out.dtype))

    def zeros(self) -> Stmt:
        """No key to look at."""
        shape = self.op.result.static_shape
        value = cast(const(0, self.dtype), self.op.result.dtype)
        return schedule(iteration(shape), shape, [Output(self.sources.outputs[0], value)], self.style)


__all__ = ["Operands"]
