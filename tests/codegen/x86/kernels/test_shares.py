"""Work shared out over threads: every unit once, and no thread with two more than another."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.codegen.kernel.expr import Buffer, Expr, const
from graphopt.codegen.kernel.loops import Kernel, Stmt, loop, seq, store
from graphopt.codegen.kernel.machine import run_kernel
from graphopt.codegen.lower.schedule import Style
from graphopt.codegen.x86.kernels.shares import shares
from graphopt.ir.types import I32


@pytest.mark.parametrize("threads", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("units", [1, 2, 3, 6, 7, 20, 29])
def test_every_unit_is_done_once_by_workers_with_equal_shares(units: int, threads: int) -> None:
    own = shares(units, 1000, Style(threads=threads, parallel_work=1000))
    done, by = Buffer("out0", I32, (units,)), Buffer("out1", I32, (units,))
    order = Buffer("out2", I32, (units,))

    def unit(u: Expr, before: Expr) -> Stmt:
        return seq(store(done, u, done[u] + const(1, I32)), store(by, u, own.worker.cast(I32)), store(order, u, before.cast(I32)))

    nothing = loop(units, lambda i: store(done, i, const(0, I32)))
    kernel = Kernel("k", (done, by, order), seq(nothing, own.spread(own.each(unit))), 0, 3)
    times, worker, place = run_kernel(kernel, [])
    np.testing.assert_array_equal(times, 1)
    counts = np.bincount(worker, minlength=own.workers)
    assert own.workers == min(units, threads) == len(counts) and counts.max() - counts.min() <= 1
    assert (np.diff(worker) >= 0).all()  # contiguous
    np.testing.assert_array_equal(place, np.concatenate([np.arange(n) for n in counts]))


def test_little_work_stays_with_one() -> None:
    assert shares(100, 999, Style(threads=4, parallel_work=1000)).workers == 1
