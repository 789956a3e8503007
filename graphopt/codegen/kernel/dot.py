"""What one instruction of a contraction's inner step means: accumulators plus sums of products of narrow operands.

An `Instruction` says it on numpy arrays, with its rounding, so that the interpreter does what the machine does. Targets keep
tables of them (codegen/x86/isa.py), whose rows also say how each is written and what it costs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from graphopt.ir.ops.numeric import fma, odd_sum
from graphopt.ir.types import DType

# accumulators [lanes], a and b [lanes, depth] -> accumulators; of tiles: [rows, columns], [rows, k * depth], [k, columns * depth]
Meaning = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """Adds `depth` products of elements of dtypes `a` and `b` to each of `lanes` accumulators of dtype `acc`.

    `tile` is None for vectors. For tile registers it is (rows, bytes of a row) of each at most; one of m by n accumulators then
    adds the product of m by k * depth elements and of k by n * depth, `depth` rows of a column side by side; `lanes` is n at
    most. `fused` says of a depth of 1 that product and sum are rounded once.
    """

    name: str
    a: DType
    b: DType
    acc: DType
    depth: int
    lanes: int
    meaning: Meaning
    fused: bool = False
    tile: tuple[int, int] | None = None

    @property
    def exact(self) -> bool:
        """Whether the order of the sum does not matter: integers, which wrap."""
        return self.acc.is_integer

    def __repr__(self) -> str:
        return self.name


INSTRUCTIONS: dict[str, Instruction] = {}  # by name, of every table that was imported


# Meanings ---------------------------------------------------------------------------------------
def integers(acc: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The exact sum, modulo 2^bits of the accumulators."""
    wide = acc.astype(np.int64)
    with np.errstate(over="ignore"):
        return np.asarray(wide + (a.astype(np.int64) * b.astype(np.int64)).sum(-1)).astype(acc.dtype)


def twice_rounded(acc: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Depth 1: the product is rounded, then the sum."""
    return np.asarray(acc + a[..., 0] * b[..., 0])


def once_rounded(acc: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Depth 1: a fused multiply-add (IEEE 754-2019, 5.4.1)."""
    return fma(a[..., 0], b[..., 0], acc)


LEAST = 2.0**-126  # the least normal f32


def flushed_fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """`fma` of f32 that takes denormal operands for 0, and gives 0 where the result would be one (DAZ and FTZ of Intel SDM
    volume 1, 10.2.3; a result is tiny that is so after rounding to 24 bits, 4.9.1.5)."""
    a, b, c = (_no_denormals(x) for x in (a, b, c))
    s = odd_sum(a, b, c)
    tiny = np.abs(s) < LEAST * (1 - 2.0**-25)
    return np.where(tiny, np.copysign(0.0, s), s).astype(np.float32)


def flushed_add(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return flushed_fma(a, np.ones_like(b), b)


def _no_denormals(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < np.float32(LEAST), np.copysign(np.float32(0), x), x).astype(np.float32)


def bf16_pairs(acc: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Two multiply-adds one after the other, each rounded to nearest even, the second element of a pair first; no denormals."""
    x, y = a.astype(np.float32), b.astype(np.float32)
    acc = flushed_fma(x[..., 1], y[..., 1], acc)
    return flushed_fma(x[..., 0], y[..., 0], acc)


def tile_integers(acc: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (acc.astype(np.int64) + a.astype(np.int64) @ rows_of(b, a.shape[1]).astype(np.int64)).astype(acc.dtype)


def tile_bf16(acc: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Even and odd elements of k are summed from 0, each by multiply-adds in order; then both sums are added, then to `acc`;
    every step rounded to nearest even, no denormals."""
    x, y = a.astype(np.float32), rows_of(b, a.shape[1]).astype(np.float32)
    sums = [np.zeros(acc.shape, np.float32) for _ in range(2)]
    for k in range(a.shape[1]):
        row, column = np.broadcast_arrays(x[:, k, None], y[k, None, :])
        sums[k % 2] = flushed_fma(row, column, sums[k % 2])
    return flushed_add(acc, flushed_add(sums[0], sums[1]))


def rows_of(b: np.ndarray, k: int) -> np.ndarray:
    """The second operand of a tile instruction as k rows: [k / depth, n * depth] -> [k, n]."""
    depth = k // b.shape[0]
    return b.reshape(b.shape[0], -1, depth).transpose(0, 2, 1).reshape(k, -1)


__all__ = ["INSTRUCTIONS", "Instruction", "Meaning", "bf16_pairs", "flushed_add", "flushed_fma", "fma", "integers",
           "once_rounded", "rows_of", "tile_bf16", "tile_integers", "twice_rounded"]
