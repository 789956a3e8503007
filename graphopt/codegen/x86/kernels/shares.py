"""Units of work over threads: the one way in which the templates of x86 share out a list of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from graphopt.codegen.kernel.expr import INDEX, Expr, Var, const, minimum
from graphopt.codegen.kernel.loops import For, Stmt, loop
from graphopt.codegen.kernel.spaces import Scope
from graphopt.codegen.lower.schedule import Style


@dataclass(frozen=True)
class Shares:
    """`units` of work in contiguous ranges, one a worker, whose sizes differ by at most one. `worker` is its number."""

    units: int
    workers: int
    worker: Expr

    def each(self, body: Callable[[Expr, Expr], Stmt]) -> Stmt:
        """A worker's loop: `body(unit, before)` for all units of its range, `before` of which it has done already."""
        first = self.worker * self.units // self.workers
        count = (self.worker + 1) * self.units // self.workers - first

        def one(before: Expr) -> Stmt:
            return body(minimum(first + before, self.units - 1), before)  # never more: what the sum's bounds do not tell

        if self.units % self.workers == 0:
            return loop(count, one, name="u")
        before = Var("u", INDEX, 0, self.units // self.workers)
        return For(before, count, one(before), Scope.SERIAL)

    def spread(self, own: Stmt) -> Stmt:
        """What each worker does, for all of them at once."""
        return For(self.worker, const(self.workers, INDEX), own, Scope.PARALLEL) if isinstance(self.worker, Var) else own


def shares(units: int, effort: int, style: Style) -> Shares:
    """The shares of `units` that take `effort` scalar operations together: one for each thread, where that is enough to do."""
    workers = min(style.threads, units) if effort >= style.parallel_work else 1
    return Shares(units, workers, Var("w", INDEX, 0, workers - 1) if workers > 1 else const(0, INDEX))


__all__ = ["Shares", "shares"]
