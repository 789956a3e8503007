"""Discrete Fourier transforms along one axis. A complex tensor is a pair of values here, its real and its imaginary part.

The reference is numpy's transform in f64, rounded once. The decompositions are products with constant cosines and sines, which
run at the speed of matrix products: whole ones where the axis is short, else a factor of the length at a time (Cooley and
Tukey 1965; the four steps of Bailey 1990), by convolution with a chirp where a prime is long (Bluestein 1970).
"""

from __future__ import annotations

import math

import numpy as np

from graphopt.ir.dims import DimLike, Shape, product
from graphopt.ir.graph import Builder, Op, Value
from graphopt.ir.ops.windows import widest
from graphopt.ir.table import Operands, Trait, decomposition, normalise_axis, op

FLOATS = "f32|f64"
NORMS = ("none", "root", "n")
WHOLE = 128  # up to this length one matrix transforms complex rows at once
WHOLE_REAL = 512  # and real ones, which take a quarter of the work
LONGEST_PRIME = 512  # whose matrix is worth its memory


def _checked(o: Operands, x: str) -> tuple[int, Shape]:
    shape = getattr(o, x).shape
    if o.axis != normalise_axis(o.axis, len(shape), o._def.name) or not shape:
        raise o.fail(f"axis={o.axis} is not one of {getattr(o, x)}")
    if o.norm not in NORMS:
        raise o.fail(f"norm={o.norm!r} is none of {', '.join(NORMS)}")
    if "re" == x and o.im is not None and o.im.shape != shape:
        raise o.fail(f"the parts are {o.re} and {o.im}")
    return o.axis, shape


def _with(shape: Shape, axis: int, n: DimLike) -> Shape:
    return (*shape[:axis], n, *shape[axis + 1:])


def _fft_shape(o: Operands) -> list[Shape]:
    axis, shape = _checked(o, "re")
    if shape[axis] == 0:
        raise o.fail("the axis is empty")
    return [shape, shape]


def _rfft_shape(o: Operands) -> list[Shape]:
    axis, shape = _checked(o, "x")
    if shape[axis] == 0:
        raise o.fail("the axis is empty")
    return [_with(shape, axis, shape[axis] // 2 + 1)] * 2


def _irfft_shape(o: Operands) -> Shape:
    axis, shape = _checked(o, "re")
    [n] = o.n
    if isinstance(n, int) and (n < 1 or (isinstance(shape[axis], int) and shape[axis] != n // 2 + 1)):
        raise o.fail(f"{shape[axis]} coefficients are not those of a real signal of length {n}")
    return _with(shape, axis, n)


def _operations(o: Operands, results: list) -> DimLike:
    """5 n log2 n, the usual measure, for complex rows; half of it for real ones. The logarithm of an unknown n is taken as 10."""
    axis = o.axis
    n = o.n[0] if "n" in o.attrs else o.types[0].shape[axis]
    rows = product(d for a, d in enumerate(o.types[0].shape) if a != axis)
    steps = max(1, math.ceil(math.log2(n))) if isinstance(n, int) else 10
    return rows * n * 5 * steps // (1 if o._def.name == "fft" else 2)


def _scale(norm: str, n: int) -> float:
    return {"none": 1.0, "root": 1 / math.sqrt(n), "n": 1 / n}[norm]


def _rounded(z: np.ndarray, axis: int, norm: str, n: int, like: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    z = z * _scale(norm, n)
    return z.real.astype(like.dtype), z.imag.astype(like.dtype)


@op('fft(re: T, im: T; axis: int, inverse: bool = false, norm: str = "none") -> (re: T, im: T)', T=FLOATS, shape=_fft_shape,
    traits=Trait.COMPOSITE, operations=_operations)
def fft(re, im, *, axis, inverse, norm):
    """X[k] = sum over j of x[j] exp(-2πi jk/n) along `axis`, of n elements; +2πi with `inverse`. `norm` divides by nothing
    (`none`), by the square root of n (`root`) or by n."""
    n = re.shape[axis]
    x = widest(re) + 1j * widest(im)
    x.real, x.imag = widest(re), widest(im)  # an infinite part leaves the other alone
    return _rounded(np.fft.ifft(x, axis=axis) * n if inverse else np.fft.fft(x, axis=axis), axis, norm, n, re)


@op('rfft(x: T; axis: int, norm: str = "none") -> (re: T, im: T)', T=FLOATS, shape=_rfft_shape,
    traits=Trait.COMPOSITE, operations=_operations)
def rfft(x, *, axis, norm):
    """The first n // 2 + 1 elements of the transform of a real signal; the others are the conjugates of these. See `fft`."""
    return _rounded(np.fft.rfft(widest(x), axis=axis), axis, norm, x.shape[axis], x)


@op('irfft(re: T, im: T; axis: int, n: dims, norm: str = "none") -> T', T=FLOATS, shape=_irfft_shape,
    traits=Trait.COMPOSITE, operations=_operations)
def irfft(re, im, *, axis, n, norm):
    """The real signal of length `n` (a list of one) whose transform begins with these n // 2 + 1 elements: the inverse of `rfft`
    with `norm=n`, else times n or its square root. The imaginary parts of element 0 and, for even n, of the last one are not
    read."""
    x = widest(re) + 1j * widest(im)
    x.real, x.imag = widest(re), widest(im)
    unread = [0, n[0] // 2] if n[0] % 2 == 0 else [0]
    x.imag[(slice(None),) * axis + (unread,)] = 0
    return (np.fft.irfft(x, n[0], axis) * (n[0] * _scale(norm, n[0]))).astype(re.dtype)


# Decompositions -------------------------------------------------------------------------------
# Rows are [B, n] where real, [B, 2, n] where complex: all real parts of a row, then all imaginary ones.
@decomposition("fft")
def _(b: Builder, op: Op) -> list[Value] | None:
    re, im = op.operands
    assert re is not None and im is not None
    axis, n = op.attrs["axis"], re.shape[op.attrs["axis"]]
    if not isinstance(n, int):
        return None
    rows = _joined(b, _rows(b, re, axis), _rows(b, im, axis))
    y = _complex(b, rows, n, 1 if op.attrs["inverse"] else -1, _scale(op.attrs["norm"], n))
    return _parts(b, y, re.shape, axis)


@decomposition("rfft")
def _(b: Builder, op: Op) -> list[Value] | None:
    [x] = op.operands
    assert x is not None
    axis, n = op.attrs["axis"], x.shape[op.attrs["axis"]]
    if not isinstance(n, int):
        return None
    y = _from_real(b, _rows(b, x, axis), n, _scale(op.attrs["norm"], n))
    return _parts(b, y, _with(x.shape, axis, n // 2 + 1), axis)


@decomposition("irfft")
def _(b: Builder, op: Op) -> Value | None:
    re, im = op.operands
    assert re is not None and im is not None
    axis, [n] = op.attrs["axis"], op.attrs["n"]
    if not (isinstance(n, int) and isinstance(re.shape[axis], int)):
        return None
    y = _to_real(b, _rows(b, re, axis), _rows(b, im, axis), n, _scale(op.attrs["norm"], n))
    return _back(b, y, _with(re.shape, axis, n), axis)


def _rows(b: Builder, x: Value, axis: int) -> Value:
    """[B, n] with the axis last."""
    order = [a for a in range(x.rank) if a != axis] + [axis]
    x = x if axis == x.rank - 1 else b.transpose(x, perm=order)
    return b.reshape(x, shape=(product(x.shape[:-1]), x.shape[-1]))


def _back(b: Builder, x: Value, shape: Shape, axis: int) -> Value:
    """The rows [B, n] as a tensor of `shape` with n at the axis."""
    order = [a for a in range(len(shape)) if a != axis] + [axis]
    x = b.reshape(x, shape=tuple(shape[a] for a in order))
    return x if axis == len(shape) - 1 else b.transpose(x, perm=[order.index(a) for a in range(len(shape))])


def _parts(b: Builder, x: Value, shape: Shape, axis: int) -> list[Value]:
    return [_back(b, _part(b, x, k), shape, axis) for k in (0, 1)]


def _part(b: Builder, x: Value, k: int) -> Value:
    """[B, n] of [B, 2, n]."""
    taken = b.slice(x, axes=(x.rank - 2,), starts=(k,), ends=(k + 1,), steps=(1,))
    return b.reshape(taken, shape=(*x.shape[:-2], x.shape[-1]))


def _joined(b: Builder, re: Value, im: Value) -> Value:
    """[.., 2, n] of twice [.., n]."""
    wide = [b.reshape(v, shape=(*v.shape[:-1], 1, v.shape[-1])) for v in (re, im)]
    return b.concat(*wide, axis=re.rank - 1)


def _product(b: Builder, x: Value, matrix: np.ndarray) -> Value:
    """x [.., k] @ matrix [k, m]."""
    flat = b.reshape(x, shape=(product(x.shape[:-1]), x.shape[-1]))
    return b.reshape(b.matmul(flat, b.const(matrix, x.dtype)), shape=(*x.shape[:-1], matrix.shape[1]))


def _times(b: Builder, x: Value, w: np.ndarray) -> Value:
    """x [.., 2, m, n] times constants [m, n], complex."""
    re, im = (b.slice(x, axes=(x.rank - 3,), starts=(k,), ends=(k + 1,), steps=(1,)) for k in (0, 1))
    c, s = b.const(w.real, x.dtype), b.const(w.imag, x.dtype)
    return b.concat(b.sub(b.mul(re, c), b.mul(im, s)), b.add(b.mul(re, s), b.mul(im, c)), axis=x.rank - 3)


def _complex(b: Builder, x: Value, n: int, sign: int, scale: float = 1.0) -> Value:
    """The transform of rows [B, 2, n], with exp(sign 2πi jk/n), times `scale`."""
    if n == 1:
        return x if scale == 1 else b.mul(x, b.const(scale, x.dtype))
    factor = split(n, n)
    if n <= WHOLE or (factor is None and n <= LONGEST_PRIME):
        rows = b.reshape(x, shape=(x.shape[0], 2 * n))
        return b.reshape(_product(b, rows, _matrix(n, n, n, sign) * scale), shape=(x.shape[0], 2, n))
    return _by_chirp(b, x, n, sign, scale) if factor is None else _in_steps(b, x, factor, n // factor, sign, scale)


def _in_steps(b: Builder, x: Value, n1: int, n2: int, sign: int, scale: float) -> Value:
    """With j = j1 n2 + j2 and k = k1 + n1 k2: over j1, times exp(sign 2πi j2 k1 / n), over j2."""
    rows = x.shape[0]
    x = b.transpose(b.reshape(x, shape=(rows, 2, n1, n2)), perm=(0, 3, 1, 2))
    x = _complex(b, b.reshape(x, shape=(rows * n2, 2, n1)), n1, sign)
    x = b.transpose(b.reshape(x, shape=(rows, n2, 2, n1)), perm=(0, 2, 3, 1))  # [B, 2, k1, j2]
    x = _times(b, x, roots(np.outer(np.arange(n1), np.arange(n2)), n1 * n2, sign))
    x = b.reshape(b.transpose(x, perm=(0, 2, 1, 3)), shape=(rows * n1, 2, n2))
    x = b.reshape(_complex(b, x, n2, sign, scale), shape=(rows, n1, 2, n2))
    return b.reshape(b.transpose(x, perm=(0, 2, 3, 1)), shape=(rows, 2, n1 * n2))


def _by_chirp(b: Builder, x: Value, n: int, sign: int, scale: float) -> Value:
    """jk = (j² + k² - (k - j)²) / 2 makes of the transform a convolution, and of that two transforms of a better length."""
    m = next(m for m in range(2 * n - 1, 4 * n) if _smooth(m))
    j = np.arange(n)
    chirp = roots(j * j, 2 * n, sign)
    filtered = np.zeros(m, np.complex128)
    filtered[:n] = chirp.conj()
    filtered[m - n + 1:] = chirp[:0:-1].conj()
    rows = x.shape[0]
    x = _times(b, b.reshape(x, shape=(rows, 2, 1, n)), chirp[None])
    x = b.pad(b.reshape(x, shape=(rows, 2, n)), None, pads=[0] * 5 + [m - n], mode="constant")
    x = _times(b, b.reshape(_complex(b, x, m, -1), shape=(rows, 2, 1, m)), np.fft.fft(filtered)[None])
    x = b.reshape(_complex(b, b.reshape(x, shape=(rows, 2, m)), m, 1, 1 / m), shape=(rows, 2, 1, m))
    x = b.slice(x, axes=(3,), starts=(0,), ends=(n,), steps=(1,))
    return b.reshape(_times(b, x, chirp[None] * scale), shape=(rows, 2, n))


def _from_real(b: Builder, x: Value, n: int, scale: float) -> Value:
    """The first h = n // 2 + 1 elements [B, 2, h] of the transform of real rows [B, n]."""
    rows, h = x.shape[0], n // 2 + 1
    factor = split(n, WHOLE_REAL)
    if n <= WHOLE_REAL:
        return b.reshape(_product(b, x, _matrix(n, n, h, -1)[:n] * scale), shape=(rows, 2, h))
    if factor is None:
        zeros = b.expand(b.const(0, x.dtype), shape=x.shape)
        return b.slice(_complex(b, _joined(b, x, zeros), n, -1, scale), axes=(2,), starts=(0,), ends=(h,), steps=(1,))
    n1, n2 = factor, n // factor
    h1 = n1 // 2 + 1
    x = b.transpose(b.reshape(x, shape=(rows, n1, n2)), perm=(0, 2, 1))
    x = b.reshape(_product(b, x, _matrix(n1, n1, h1, -1)[:n1]), shape=(rows, n2, 2, h1))
    x = _times(b, b.transpose(x, perm=(0, 2, 3, 1)), roots(np.outer(np.arange(h1), np.arange(n2)), n, -1))
    x = _complex(b, b.reshape(b.transpose(x, perm=(0, 2, 1, 3)), shape=(rows * h1, 2, n2)), n2, -1, scale)
    k = np.arange(h)
    mirrored = k % n1 >= h1  # what was left out is the conjugate of element n - k
    k = np.where(mirrored, n - k, k)
    at = (2 * (k % n1) + np.arange(2)[:, None]) * n2 + k // n1
    x = b.gather(b.reshape(x, shape=(rows, h1 * 2 * n2)), b.const(at.astype(np.int64)), axis=1)
    return b.mul(x, b.const(np.stack([np.ones(h), np.where(mirrored, -1, 1)]), x.dtype))


def _to_real(b: Builder, re: Value, im: Value, n: int, scale: float) -> Value:
    """Real rows [B, n] of their first h = n // 2 + 1 coefficients [B, h], times n."""
    rows, h, end = re.shape[0], n // 2 + 1, (n + 1) // 2
    factor = split(n, WHOLE_REAL)
    if n <= WHOLE_REAL:
        matrix = np.delete(_to_real_matrix(n), [h, 2 * h - 1] if n % 2 == 0 else [h], 0)
        return _product(b, b.concat(re, b.slice(im, axes=(1,), starts=(1,), ends=(end,), steps=(1,)), axis=1), matrix * scale)
    n1 = n if factor is None else factor
    n2, h1 = n // n1, n1 // 2 + 1
    k = np.arange(n)[None] if factor is None else np.arange(h1)[:, None] + n1 * np.arange(n2)  # [k1, k2]
    mirrored = k >= h
    k = np.where(mirrored, n - k, k)
    imaginary = np.where((k == 0) | (2 * k == n), 2 * h, h + k)  # not read: zero
    at = np.stack([k, imaginary], 1)  # [k1, 2, k2]
    signs = np.stack([np.ones(k.shape), np.where(mirrored, -1, 1)], 1)
    zero = b.expand(b.const(0, re.dtype), shape=(rows, 1))
    x = b.mul(b.gather(b.concat(re, im, zero, axis=1), b.const(at.astype(np.int64)), axis=1), b.const(signs, re.dtype))
    if factor is None:
        return _part(b, _complex(b, b.reshape(x, shape=(rows, 2, n)), n, 1, scale), 0)
    x = b.reshape(_complex(b, b.reshape(x, shape=(rows * h1, 2, n2)), n2, 1), shape=(rows, h1, 2, n2))
    x = _times(b, b.transpose(x, perm=(0, 2, 1, 3)), roots(np.outer(np.arange(h1), np.arange(n2)), n, 1))
    x = b.reshape(b.transpose(x, perm=(0, 3, 1, 2)), shape=(rows, n2, 2 * h1))
    return b.reshape(b.transpose(_product(b, x, _to_real_matrix(n1) * scale), perm=(0, 2, 1)), shape=(rows, n))


# Constants, in f64 ------------------------------------------------------------------------------
def roots(k: np.ndarray, n: int, sign: int) -> np.ndarray:
    """exp(sign 2πi k/n): the angle is reduced in integers to an eighth of the circle about the nearest axis."""
    k = np.asarray(k, np.int64) % n
    quarter = (8 * k + n) // (2 * n)
    angle = (4 * k - quarter * n) * (math.pi / 2 / n)
    z = np.cos(angle) + 1j * np.sin(angle)
    z = np.choose(quarter % 4, [z, -z.imag + 1j * z.real, -z, z.imag - 1j * z.real])
    return z if sign > 0 else z.conj()


def _matrix(n: int, inputs: int, outputs: int, sign: int) -> np.ndarray:
    """[2 inputs, 2 outputs]: real and imaginary parts of the first so many inputs to those of outputs, of a transform of n."""
    w = roots(np.outer(np.arange(inputs), np.arange(outputs)), n, sign)
    return np.block([[w.real, w.imag], [-w.imag, w.real]])


def _to_real_matrix(n: int) -> np.ndarray:
    """[2 (n // 2 + 1), n]: coefficients to a real signal; all but those at the ends stand for two."""
    k = np.arange(n // 2 + 1)
    w = roots(np.outer(k, np.arange(n)), n, 1) * np.where((k == 0) | (2 * k == n), 1, 2)[:, None]
    unread = (k == 0) | (2 * k == n)
    return np.concatenate([w.real, np.where(unread[:, None], 0, -w.imag)])


def split(n: int, most: int) -> int | None:
    """The divisor of n nearest to its root, of those from 2 to `most` that leave more than one; None where there is none."""
    found = [d for d in range(2, math.isqrt(n) + 1) if n % d == 0]
    both = [d for d in (*found, *(n // d for d in found)) if d <= most]
    return min(both, key=lambda d: (max(d, n // d), d), default=None)


def _smooth(n: int) -> bool:
    for p in (2, 3, 5):
        while n % p == 0:
            n //= p
    return n == 1
