"""Linear algebra on the last two axes: elimination, Cholesky's factor, triangular systems. Computed in f64, rounded once."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.ir.dims import Shape
from graphopt.ir.ops.numeric import narrow
from graphopt.ir.table import Operands, op


def _square(o: Operands, t: Any) -> Shape:
    if t.rank < 2 or (isinstance(t.shape[-1], int) and isinstance(t.shape[-2], int) and t.shape[-1] != t.shape[-2]):
        raise o.fail(f"needs square matrices, got {t}")
    return t.shape[:-2]


def _system(o: Operands) -> Shape:
    lead = _square(o, o.a)
    if o.b.rank != o.a.rank or o.b.shape[:-2] != lead or o.b.shape[-2] != o.a.shape[-1]:
        raise o.fail(f"a {o.a} and b {o.b} are no system of equations")
    return o.b.shape


def _flat(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float64).reshape(int(np.prod(x.shape[:-2])), *x.shape[-2:])


def _count(o: Operands, results: Any) -> Any:
    return results[0].size * o.types[0].shape[-1]


@op("solve(a: T, b: T) -> (x: T, info: i32)", T="f16|bf16|f32|f64", shape=lambda o: [_system(o), _square(o, o.a)],
    operations=_count)
def solve(a, b):
    """x with a x = b for each a [..., N, N] and b [..., N, K], by elimination with partial pivoting. `info` is 0, or the number
    (from 1) of the first pivot that is zero; x is then not finite."""
    out, info = [], []
    for left, right in zip(_flat(a), _flat(b)):
        work = np.concatenate([left, right], 1)
        n, bad = len(left), 0
        for k in range(n):
            row = k + int(np.argmax(np.abs(work[k:, k])))
            work[[k, row]] = work[[row, k]]
            if work[k, k] == 0:
                bad = bad or k + 1
                continue
            work[k + 1:] -= np.outer(work[k + 1:, k] / work[k, k], work[k])
        x = work[:, n:]
        for k in reversed(range(n)):
            x[k] = (x[k] - work[k, k + 1:n] @ x[k + 1:]) / work[k, k]
        out.append(x)
        info.append(bad)
    return narrow(np.array(out).reshape(b.shape), b.dtype), np.array(info, np.int32).reshape(a.shape[:-2])


@op("slogdet(x: T) -> (sign: T, log: T)", T="f16|bf16|f32|f64", shape=lambda o: [_square(o, o.x)] * 2)
def slogdet(x):
    """The sign of the determinant of each matrix [..., N, N], and the logarithm of its magnitude; 0 and -inf where it is
    singular."""
    sign, log = np.linalg.slogdet(x.astype(np.float64))
    return narrow(np.asarray(sign), x.dtype), narrow(np.asarray(log), x.dtype)


@op("cholesky(x: T) -> (factor: T, info: i32)", T="f16|bf16|f32|f64", shape=lambda o: [(o.x.shape), _square(o, o.x)])
def cholesky(x):
    """The lower triangular L with L L^T = x of each symmetric matrix [..., N, N], whose lower triangle is read. `info` is 0, or
    the size of the first leading part that is not positive definite; the rows of L from there on are NaN."""
    out, info = [], []
    for a in _flat(x):
        factor = np.zeros_like(a)
        bad = 0
        for k in range(len(a)):
            row = factor[k, :k]
            pivot = a[k, k] - row @ row
            if not bad and not pivot > 0:
                bad = k + 1
            factor[k, k] = np.nan if bad else np.sqrt(pivot)
            factor[k + 1:, k] = (a[k + 1:, k] - factor[k + 1:, :k] @ row) / factor[k, k]
        if bad:
            factor[bad - 1:] = np.where(np.tri(len(a), dtype=bool)[bad - 1:], np.nan, 0)
        out.append(factor)
        info.append(bad)
    return narrow(np.array(out).reshape(x.shape), x.dtype), np.array(info, np.int32).reshape(x.shape[:-2])


@op("triangular_solve(a: T, b: T; upper: bool, unit: bool = false) -> T", T="f16|bf16|f32|f64", shape=_system, operations=_count)
def triangular_solve(a, b, *, upper, unit):
    """x with a x = b, of each a [..., N, N] only the upper or lower triangle being read, and with `unit` ones taken for its
    diagonal."""
    out = []
    for left, right in zip(_flat(a), _flat(b)):
        x = right.copy()
        for k in reversed(range(len(left))) if upper else range(len(left)):
            known = slice(k + 1, None) if upper else slice(0, k)
            x[k] = x[k] - left[k, known] @ x[known]
            if not unit:
                x[k] = x[k] / left[k, k]
        out.append(x)
    return narrow(np.array(out).reshape(b.shape), b.dtype)
