"""Numpy helpers of the reference semantics: in which precision narrow dtypes are computed, and erf."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np

from graphopt.ir.types import dtype


def widen(x: np.ndarray) -> np.ndarray:
    """The array in a dtype that numpy computes in: floats narrower than f32 as f32, sub-byte integers as 8 bits."""
    x = np.asarray(x)
    if x.dtype in _NATIVE:
        return x
    d = dtype(x.dtype)
    if d.is_float:
        return x.astype(np.float32)
    return x.astype(np.int8 if d.kind == "int" else np.uint8)


_NATIVE = {np.dtype(t) for t in ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8", "O")}


def narrow(x: np.ndarray, to: np.dtype) -> np.ndarray:
    """The result rounded (floats) or wrapped (integers) to `to`."""
    return np.asarray(x).astype(to, copy=False)


def same_dtype(f: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """`f` computed on widened operands, its result rounded once to the first operand's dtype."""

    def run(*xs: np.ndarray, **attrs: object) -> np.ndarray:
        to = np.asarray(xs[0]).dtype
        return narrow(f(*(widen(x) for x in xs), **attrs), to)

    run.__doc__, run.__module__ = f.__doc__, getattr(f, "__module__", __name__)
    return run


def accumulator(d: np.dtype) -> np.dtype:
    """In what sums and products of a dtype are carried: f64 for floats, integers in themselves (they wrap)."""
    return np.dtype(np.float64) if dtype(d).is_float else widen(np.empty(0, d)).dtype


def lowest(d: np.dtype) -> Any:
    """The identity of max: -inf, or the least integer."""
    wide = widen(np.empty(0, d)).dtype
    if dtype(d).is_float:
        return wide.type(-np.inf)
    return wide.type(_integer_limits(d)[0])


def highest(d: np.dtype) -> Any:
    """The identity of min: +inf, or the greatest integer."""
    wide = widen(np.empty(0, d)).dtype
    if dtype(d).is_float:
        return wide.type(np.inf)
    return wide.type(_integer_limits(d)[1])


def _integer_limits(d: np.dtype) -> tuple[int, int]:
    of = dtype(d)
    return (-(1 << of.bits - 1), (1 << of.bits - 1) - 1) if of.kind == "int" else (0, (1 << of.bits) - 1)


def fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c of f32 or f64 with one rounding, to nearest even (IEEE 754-2019, 5.4.1)."""
    a, b, c = map(np.asarray, (a, b, c))
    with np.errstate(all="ignore"):
        return odd_sum(a, b, c).astype(np.float32) if a.dtype == np.float32 else np.asarray(_exact_fma(a, b, c), np.float64)


def odd_sum(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c of f32 in f64, rounded to odd where it is inexact: rounding that again, to nearest, is right (Boldo and
    Melquiond, IEEE Transactions on Computers 57(4), 2008)."""
    x, y = a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64)  # the product is exact
    s = x + y
    back = s - x
    rest = (x - (s - back)) + (y - back)  # what rounding lost (Knuth's TwoSum)
    odd = (s.view(np.int64) & 1) == 1
    toward = np.nextafter(s, np.where(rest > 0, np.inf, -np.inf))
    return np.where(np.isfinite(s) & (rest != 0) & ~odd, toward, s)


def _one_fma(a: float, b: float, c: float) -> float:
    if math.isfinite(a) and math.isfinite(b) and not math.isfinite(c):
        return c
    plain = a * b + c
    if not (math.isfinite(a) and math.isfinite(b)):
        return plain
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if exact == 0:
        return plain  # of the right sign
    try:
        return float(exact)
    except OverflowError:
        return math.inf if exact > 0 else -math.inf


_exact_fma = np.vectorize(_one_fma, otypes=[np.float64])


@lru_cache(1)
def _erf_nodes() -> tuple[np.ndarray, np.ndarray]:
    """At k/64 up to 6: erf and its derivative."""
    at = np.arange(6 * 64 + 1) / 64
    return np.array([math.erf(v) for v in at]), 2 / math.sqrt(math.pi) * np.exp(-at * at)


def erf(x: np.ndarray) -> np.ndarray:
    """erf in float64: the Taylor series about the nearest multiple of 1/64, whose sixth-order rest is below 1e-15.

    The derivatives of erf are those of a Gaussian: erf^(n+1)(a) = (-1)^n H_n(a) erf'(a), H_n Hermite's polynomials.
    """
    x = np.asarray(x, np.float64)
    values, slopes = _erf_nodes()
    size = np.minimum(np.abs(x), 6.0)
    node = np.rint(np.nan_to_num(size) * 64).astype(np.int64)
    a = node / 64.0
    d = size - a
    series = d * (1 - d * (a - d * ((2 * a**2 - 1) / 3 - d * ((2 * a**3 - 3 * a) / 6 - d * (
        (4 * a**4 - 12 * a**2 + 3) / 30 - d * (4 * a**5 - 20 * a**3 + 15 * a) / 90)))))
    return np.copysign(values[node] + slopes[node] * series, x)
