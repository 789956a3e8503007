"""What running the first layers for a few images at a time saves and costs, on x86."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from graphopt.codegen.program.plan import nbytes
from graphopt.codegen.x86.costs import costs_of
from graphopt.ir.graph import Op
from graphopt.targets.x86 import X86


def parts(ops: Sequence[Op], cuts: Sequence[int], batch: int, target: X86) -> tuple[int, int] | None:
    """How many of the first `ops`, one of `cuts`, are best run for how many of `batch` images at a time; None for all at once.

    A kernel whose operands and result together exceed half of the shared cache finds nothing of the kernel before it there.
    Against what is saved stand the weights, which come once for every part.
    """
    costs, room = costs_of(target), target.l3 // 2
    values = [sum(nbytes(v) for v in (*op.operands, *op.results) if v is not None and v.constant is None) for op in ops]
    weights = [sum(nbytes(v) for v in op.operands if v is not None and v.constant is not None) for op in ops]
    pace = lambda size: costs.through_memory if size > room else costs.through_l3
    moved = lambda size: size * pace(size)
    best, chosen = costs.gain * sum(map(moved, values)), None
    for images in _divisors(batch)[:-1]:
        times = batch // images
        more = costs.call * (times - 1)
        saved = list(itertools.accumulate(moved(v) - times * moved(v * images // batch) - more for v in values))
        held = list(itertools.accumulate(weights))
        largest = list(itertools.accumulate((v * images // batch for v in values), max))
        for count in cuts:
            k = count - 1
            again = (times - 1) * held[k] * pace(held[k] + largest[k])
            if saved[k] - again > best:
                best, chosen = saved[k] - again, (count, images)
    return chosen


def _divisors(n: int) -> list[int]:
    """All of them, in order."""
    small = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
    return sorted({*small, *(n // d for d in small)})


__all__ = ["parts"]
