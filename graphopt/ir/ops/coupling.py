"""Class probabilities from those of pairs of classes."""

from __future__ import annotations

import numpy as np

from graphopt.ir.table import Operands, first_rows, op

ROUNDS = 100  # of the iteration at most


def _shape(o: Operands) -> tuple:
    if o.r.rank != 3 or o.r.shape[1] != o.r.shape[2]:
        raise o.fail(f"r must be [rows, classes, classes], got {o.r}")
    return o.r.shape[:2]


@op("couple_pairs(r: T) -> T", T="f32|f64", shape=_shape, rows=first_rows,
    operations=lambda o, results: o.r.size * 4 * 10)
def couple_pairs(r):
    """The probability of each class [rows, classes] that fits best to r[row, i, j], that of class i among i and j.

    The second method of Wu, Lin and Weng, Probability estimates for multi-class classification by pairwise coupling (JMLR 5,
    2004), as libsvm iterates it: until all gradients are below 0.005 / classes, 100 rounds at most. The diagonal is not read.
    """
    rows, k = r.shape[:2]
    off = ~np.eye(k, dtype=bool)
    r = np.where(off, r, 0)
    q = -np.swapaxes(r, 1, 2) * r
    q[:, ~off] = (r * r).sum(axis=1)
    p = np.full((rows, k), 1 / k, r.dtype)
    active = np.arange(rows)
    for _ in range(ROUNDS):
        qp = (q[active] * p[active, None, :]).sum(axis=2)
        total = (p[active] * qp).sum(axis=1)
        going = ~(np.abs(qp - total[:, None]).max(axis=1, initial=0) < 0.005 / k)
        active, qp, total = active[going], qp[going], total[going]
        if not active.size:
            break
        for t in range(k):
            diff = (total - qp[:, t]) / q[active, t, t]
            p[active, t] += diff
            total = (total + diff * (diff * q[active, t, t] + 2 * qp[:, t])) / (1 + diff) / (1 + diff)
            qp = (qp + diff[:, None] * q[active, t]) / (1 + diff)[:, None]
            p[active] /= (1 + diff)[:, None]
    return p
