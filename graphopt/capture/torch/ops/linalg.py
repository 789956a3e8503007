"""Systems of equations, inverses and determinants. What needs eigenvalues, singular values or QR is not among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.capture.torch.context import Context, Refusal
from graphopt.capture.torch.table import aten
from graphopt.ir.dims import DimLike
from graphopt.ir.graph import Value
from graphopt.ir.table import broadcast_dims
from graphopt.ir.types import F32, I64


def _turned(c: Context, x: Value) -> Value:
    return c.swap(x, x.rank - 2, x.rank - 1)


def _eye(c: Context, like: Value) -> Value:
    """Identity matrices of a stack's shape."""
    n = like.shape[-1]
    equal = c.b.equal(c.b.iota(shape=(n, 1), axis=0, dtype=I64), c.b.iota(shape=(1, n), axis=1, dtype=I64))
    return c.expand(c.cast(equal, like.dtype), like.shape)


def _together(c: Context, a: Value, b: Value) -> tuple[Value, Value]:
    """Both with the same leading axes."""
    lead: Sequence[DimLike] = broadcast_dims((a.shape[:-2], b.shape[:-2]))
    return c.expand(a, (*lead, *a.shape[-2:])), c.expand(b, (*lead, *b.shape[-2:]))


@aten("aten.linalg_cholesky_ex.default")
def _(c: Context, x: Value, upper: bool = False) -> Any:
    factor, info = c.b.cholesky(_turned(c, x) if upper else x)
    return _turned(c, factor) if upper else factor, info


@aten("aten.cholesky.default")
def _(c: Context, x: Value, upper: bool = False) -> Value:
    factor = c.b.cholesky(_turned(c, x) if upper else x)[0]
    return _turned(c, factor) if upper else factor


def _triangular(c: Context, a: Value, b: Value, upper: bool, unit: bool = False) -> Value:
    return c.b.triangular_solve(*_together(c, a, b), upper=upper, unit=unit)


def _cholesky_solve(c: Context, b: Value, factor: Value, upper: bool) -> Value:
    """x with L L^T x = b, or U^T U x = b."""
    first, second = (_turned(c, factor), factor) if upper else (factor, _turned(c, factor))
    return _triangular(c, second, _triangular(c, first, b, upper=False), upper=True)


@aten("aten.cholesky_solve.default")
def _(c: Context, x: Value, input2: Value, upper: bool = False) -> Value:
    return _cholesky_solve(c, x, input2, upper)


@aten("aten.cholesky_inverse.default")
def _(c: Context, x: Value, upper: bool = False) -> Value:
    return _cholesky_solve(c, _eye(c, x), x, upper)


@aten("aten.linalg_solve_triangular.default")
def _(c: Context, x: Value, B: Value, upper: bool, left: bool = True, unitriangular: bool = False) -> Value:
    if left:
        return _triangular(c, x, B, upper, unitriangular)
    return _turned(c, _triangular(c, _turned(c, x), _turned(c, B), not upper, unitriangular))


@aten("aten.triangular_solve.default")
def _(c: Context, x: Value, A: Value, upper: bool = True, transpose: bool = False, unitriangular: bool = False) -> Any:
    solution = _triangular(c, _turned(c, A) if transpose else A, x, upper != transpose, unitriangular)
    return solution, _together(c, A, x)[0]


@aten("aten.linalg_inv_ex.default")
def _(c: Context, A: Value) -> Any:
    return tuple(c.b.solve(A, _eye(c, A)))


@aten("aten._linalg_solve_ex.default")
def _(c: Context, A: Value, B: Value, left: bool = True) -> Any:
    vector = B.rank == 1 or (B.rank == A.rank - 1 and B.shape == A.shape[:-1])
    if vector:
        B = c.unsqueeze(B, B.rank)
    a, b = (A, B) if left else (_turned(c, A), _turned(c, B))
    solution, info = c.b.solve(*_together(c, a, b))
    solution = solution if left else _turned(c, solution)
    return c.reshape(solution, c.shape), None, None, info


@aten("aten._linalg_det.default")
def _(c: Context, A: Value) -> Any:
    return (c.b.det(A),)


@aten("aten._linalg_slogdet.default")
def _(c: Context, A: Value) -> Any:
    return tuple(c.b.slogdet(A))


@aten("aten.linalg_matrix_exp.default")
def _(c: Context, x: Value) -> Value:
    """The Taylor series of degree 8 of x / 2^s, squared s times; s is chosen matrix by matrix so that the norm is at most 1/8,
    and is no more than 20 (Moler and Van Loan, 2003)."""
    if x.dtype is not F32:
        raise Refusal(f"of {x.dtype}")
    last = x.rank - 1
    norm = c.b.reduce_max(c.b.reduce_sum(c.b.abs(x), axes=(last - 1,), keepdims=True), axes=(last,), keepdims=True)
    squarings: Value = c.full(0, norm.shape, F32)
    for s in range(20):
        squarings = c.b.add(squarings, c.cast(c.b.greater(norm, c.scalar(2.0 ** (s - 3), F32)), F32))
    small = c.b.mul(x, c.b.pow(c.scalar(0.5, F32), squarings))
    eye = _eye(c, x)
    out = eye
    for k in range(8, 0, -1):
        out = c.b.add(eye, c.b.mul(c.b.matmul(small, out), c.scalar(1 / k, F32)))
    for s in range(20):
        out = c.b.where(c.b.greater(squarings, c.scalar(s, F32)), c.b.matmul(out, out), out)
    return out
