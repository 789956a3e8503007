"""Special functions that are iterated: a number of steps that depends on the arguments, the same for numpy and for the lowering.

As in `special`, `m` is numpy or its like over expressions, and everything happens in f64. The operands have one shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.ir.ops.numeric import narrow, widen
from graphopt.ir.ops.special import FORMULAS, zeta_tail
from graphopt.ir.table import Operands, op, same_shape

MOST = 1e5  # steps of one element


@dataclass(frozen=True)
class Iteration:
    """count(m, *x): how many steps; start(m, *x): the state before; step(m, k, state, *x): the state after step k = 0, 1, …;
    finish(m, state, *x): the result."""

    count: Callable[..., Any]
    start: Callable[..., Sequence[Any]]
    step: Callable[..., Sequence[Any]]
    finish: Callable[..., Any]


ITERATIONS: dict[str, Callable[..., Iteration]] = {}


def _alike(o: Operands) -> Any:
    if o.types[0].shape != o.types[1].shape:
        raise o.fail(f"operands {o.types[0]} and {o.types[1]} must have one shape")
    return same_shape(o)


def iterated(name: str, arguments: str, doc: str, of: Callable[..., Iteration], attrs: str = "", shape: Any = _alike) -> None:
    """Define an op by its iteration, `of(**attributes)`."""

    def run(*xs: np.ndarray, **given: Any) -> np.ndarray:
        f = of(**given)
        wide = [widen(x).astype(np.float64) for x in xs]
        counts = np.nan_to_num(f.count(np, *wide))
        state = [np.broadcast_to(s, wide[0].shape) for s in f.start(np, *wide)]
        for k in range(int(counts.max(initial=0))):
            state = [np.where(k < counts, new, old) for new, old in zip(f.step(np, float(k), state, *wide), state)]
        return narrow(f.finish(np, state, *wide), np.asarray(xs[0]).dtype)

    run.__doc__, run.__module__ = doc, __name__
    signature = ", ".join(f"{a}: T" for a in arguments.split())
    op(f"{name}({signature}{'; ' + attrs if attrs else ''}) -> T", T="float", shape=shape)(run)
    ITERATIONS[name] = of


# Hurwitz' zeta function -------------------------------------------------------------------------
def _zeta() -> Iteration:
    def count(m: Any, s: Any, q: Any) -> Any:
        return m.minimum(10.0 + m.maximum(-m.floor(q), 0.0), MOST)

    def step(m: Any, k: Any, state: Sequence[Any], s: Any, q: Any) -> Sequence[Any]:
        return (state[0] + m.power(q + k, -s),)

    def finish(m: Any, state: Sequence[Any], s: Any, q: Any) -> Any:
        total = state[0] + zeta_tail(m, s, q + count(m, s, q))
        lost = (s < 1.0) | ((q < 0) & (m.floor(s) < s) & (m.floor(q) < q)) | m.isnan(q) | m.isnan(s)
        pole = m.equal(s, 1.0) | ((q <= 0) & m.equal(m.floor(q), q))
        return m.where(lost, math.nan, m.where(pole, math.inf, m.where(m.equal(q, math.inf), 0.0, total)))

    return Iteration(count, lambda m, s, q: (0.0 * q,), step, finish)


iterated("zeta", "s q", "Hurwitz' zeta function, the sum of (q + k)^-s over k >= 0, by Euler and Maclaurin's formula (DLMF "
         "25.11.28). As PyTorch has it: infinite for s = 1 and where q is zero or a negative integer, NaN for s < 1.", _zeta)


# Incomplete gamma functions ---------------------------------------------------------------------
TINY = 1e-300


def _gammainc(upper: bool) -> Iteration:
    """The series (DLMF 8.7.1) for x < a + 1, and Lentz's evaluation of the continued fraction (DLMF 8.9.2) beyond."""

    def count(m: Any, a: Any, x: Any) -> Any:
        reach = m.where((x > 0) & (x < math.inf) & (a > 0) & (a < math.inf), m.maximum(a, m.minimum(x, a + 64.0)), 0.0)
        return m.minimum(64.0 + 10.0 * m.sqrt(reach), MOST)

    def start(m: Any, a: Any, x: Any) -> Sequence[Any]:
        first = 1.0 / (x + 1.0 - a)
        return 1.0 / a, 1.0 / a, 0.0 * x + 1.0 / TINY, first, first

    def step(m: Any, k: Any, state: Sequence[Any], a: Any, x: Any) -> Sequence[Any]:
        term, total, ahead, below, fraction = state
        term = term * x / (a + k + 1.0)
        i = k + 1.0
        numerator, b = -i * (i - a), x + 2.0 * i + 1.0 - a
        below = 1.0 / _nonzero(m, numerator * below + b)
        ahead = _nonzero(m, b + numerator / ahead)
        return term, total + term, ahead, below, fraction * (ahead * below)

    def finish(m: Any, state: Sequence[Any], a: Any, x: Any) -> Any:
        _, total, _, _, fraction = state
        factor = m.exp(a * m.log(x) - x - FORMULAS["lgamma"](m, a))
        near = x < a + 1.0
        lower = m.where(near, factor * total, 1.0 - factor * fraction)
        higher = m.where(near, 1.0 - factor * total, factor * fraction)
        whole, none = (0.0, 1.0) if upper else (1.0, 0.0)
        out = higher if upper else lower
        out = m.where(m.equal(x, 0.0), none, m.where(m.equal(x, math.inf), whole, out))
        out = m.where(m.equal(a, math.inf), m.where(m.equal(x, math.inf), math.nan, none), out)
        out = m.where(m.equal(a, 0.0), m.where(x > 0, whole, math.nan), out)
        return m.where((a < 0) | (x < 0) | m.isnan(a) | m.isnan(x), math.nan, out)

    return Iteration(count, start, step, finish)


def _nonzero(m: Any, x: Any) -> Any:
    return m.where(m.abs(x) < TINY, TINY, x)


iterated("gammainc", "a x", "The regularised lower incomplete gamma function P(a, x), within 1e-6 of right for a up to 1e8; NaN "
         "where a or x is negative.", lambda: _gammainc(False))
iterated("gammaincc", "a x", "The regularised upper incomplete gamma function Q(a, x) = 1 - P(a, x), also where it is small.",
         lambda: _gammainc(True))


# Orthogonal polynomials -------------------------------------------------------------------------
# (p1 as coefficients of 1 and x, the recurrence p(k+1) = f(k, x, p(k), p(k-1)), the highest degree in f32 as PyTorch has it)
_THREE_TERMS: dict[str, tuple[tuple[float, float], Callable[..., Any]]] = {
    "chebyshev_t": ((0, 1), lambda k, x, p, q: 2.0 * x * p - q),
    "chebyshev_u": ((0, 2), lambda k, x, p, q: 2.0 * x * p - q),
    "chebyshev_v": ((-1, 2), lambda k, x, p, q: 2.0 * x * p - q),
    "chebyshev_w": ((1, 2), lambda k, x, p, q: 2.0 * x * p - q),
    "hermite_h": ((0, 2), lambda k, x, p, q: 2.0 * x * p - 2.0 * k * q),
    "hermite_he": ((0, 1), lambda k, x, p, q: x * p - k * q),
    "laguerre_l": ((1, -1), lambda k, x, p, q: ((2.0 * k + 1.0 - x) * p - k * q) / (k + 1.0)),
    "legendre_p": ((0, 1), lambda k, x, p, q: ((2.0 * k + 1.0) * x * p - k * q) / (k + 1.0)),
}


def _orthogonal(family: str) -> Iteration:
    (constant, slope), following = _THREE_TERMS[family]

    def first(x: Any) -> Any:
        return constant + slope * x

    def finish(m: Any, state: Sequence[Any], x: Any, n: Any) -> Any:
        value = m.where(n < 1.0, 0.0 * x + 1.0, state[0])
        return m.where(m.isnan(x) | m.isnan(n), math.nan, m.where(n <= -1.0, 0.0, value))

    return Iteration(lambda m, x, n: m.minimum(m.maximum(m.floor(n) - 1.0, 0.0), MOST),
                     lambda m, x, n: (first(x), 0.0 * x + 1.0),
                     lambda m, k, state, x, n: (following(k + 1.0, x, *state), state[0]), finish)


def _family(o: Operands) -> Any:
    if o.family not in _THREE_TERMS:
        raise o.fail(f"family must be one of {', '.join(_THREE_TERMS)}, got {o.family!r}")
    return _alike(o)


iterated("orthogonal_polynomial", "x n", "The polynomial of degree n, truncated, of a family at x, by its recurrence (DLMF "
         "18.9.1); 0 for a negative degree.", _orthogonal, "family: str", _family)
