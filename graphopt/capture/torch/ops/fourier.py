"""Fourier transforms: over several axes, one after the other; and of frames of a signal, there and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from graphopt.capture.torch.context import Context, Refusal, axis_of
from graphopt.capture.torch.ops.complex import complex_of
from graphopt.capture.torch.pairs import Complex, interleaved
from graphopt.capture.torch.table import aten, aten_complex
from graphopt.capture.torch.weights import array_of
from graphopt.ir.dims import Dim, DimLike, apply, product
from graphopt.ir.graph import Value
from graphopt.ir.types import I64

NORMS = ("none", "root", "n")  # as torch counts them
SHIFTS = 16  # so many shifted sums are better than a gathering one


@aten_complex("aten._fft_r2c.default")
def _(c: Context, x: Value, dim: Sequence[int], normalization: int, onesided: bool) -> Complex:
    if not onesided:
        return _transformed(c, Complex(x, c.full(0, x.shape, x.dtype), real=True), dim, normalization, inverse=False)
    *others, last = dim
    return _transformed(c, _of_real(c, x, axis_of(last, x.rank), NORMS[normalization]), others, normalization, inverse=False)


@aten_complex("aten._fft_c2r.default")
def _(c: Context, x: Complex, dim: Sequence[int], normalization: int, last_dim_size: Any) -> Value:
    *others, last = dim
    z, axis = _transformed(c, x, others, normalization, inverse=True), axis_of(last, x.rank)
    return _to_real(c, z, axis, last_dim_size, NORMS[normalization])


@aten_complex("aten._fft_c2c.default")
def _(c: Context, x: Any, dim: Sequence[int], normalization: int, forward: bool) -> Complex:
    return _transformed(c, complex_of(c, x), dim, normalization, inverse=not forward)


def _of_real(c: Context, x: Value, axis: int, norm: str) -> Complex:
    return Complex(*c.b.rfft(x, axis=axis, norm=norm))


def _to_real(c: Context, z: Complex, axis: int, n: DimLike, norm: str) -> Value:
    count = n // 2 + 1
    re, im = (c.slice(v, axis, 0, count) for v in (z.re, z.im))
    return c.b.irfft(re, im, axis=axis, n=[n], norm=norm)


def _transformed(c: Context, z: Complex, dims: Sequence[int], normalization: int, inverse: bool) -> Complex:
    norm = NORMS[normalization]
    for axis in [axis_of(d, z.rank) for d in reversed(dims)]:
        size = z.shape[axis]
        if z.real and isinstance(size, int) and size > 2:
            half = _of_real(c, z.re, axis, norm)  # the rest mirrors it
            rest = [c.b.flip(c.slice(v, axis, 1, (size + 1) // 2), axes=(axis,)) for v in (half.re, half.im)]
            im = [half.im, c.b.neg(rest[1])]
            im = [c.b.neg(v) for v in im] if inverse else im
            z = Complex(c.concat([half.re, rest[0]], axis), c.concat(im, axis))
        else:
            z = Complex(*c.b.fft(z.re, z.im, axis=axis, inverse=inverse, norm=norm))
    return z


# Frequencies ------------------------------------------------------------------------------------
@aten("aten.fft_fftfreq.default")
def _(c: Context, n: Any, d: float = 1.0) -> Value:
    return _frequencies(c, torch.fft.fftfreq, n, d)


@aten("aten.fft_rfftfreq.default")
def _(c: Context, n: Any, d: float = 1.0) -> Value:
    return _frequencies(c, torch.fft.rfftfreq, n, d)


def _frequencies(c: Context, f: Any, n: Any, d: float) -> Value:
    if not isinstance(n, int) or isinstance(d, (Dim, Value)):
        raise Refusal("the frequencies of a symbolic length")
    return c.b.const(array_of(f(n, d, dtype=c.val.dtype)))  # type: ignore[union-attr]


# Frames -----------------------------------------------------------------------------------------
def _window(c: Context, window: Value | None, n_fft: int, win_length: int, like: Value) -> Value | None:
    """The window [n_fft]: `win_length` of its own in the middle; None where it is one everywhere."""
    if window is None:
        if win_length == n_fft:
            return None
        window = c.full(1, (win_length,), like.dtype)
    left = (n_fft - win_length) // 2
    if win_length < n_fft:
        window = c.b.pad(window, None, pads=[left, n_fft - win_length - left], mode="constant")
    return c.cast(window, like.dtype)


def frames(c: Context, x: Value, length: int, step: int) -> Value:
    """[.., frames, length] of signals [.., n]."""
    n = x.shape[-1]
    count = (n - length) // step + 1
    if isinstance(count, int):
        return c.b.gather(x, c.b.const(np.arange(count)[:, None] * step + np.arange(length)), axis=x.rank - 1)
    at = c.b.mul(c.b.iota(shape=(count, 1), axis=0, dtype=I64), c.scalar(step, I64))
    return c.b.gather(x, c.b.add(at, c.b.iota(shape=(1, length), axis=1, dtype=I64)), axis=x.rank - 1)


def overlapped(c: Context, x: Value, step: int) -> Value:
    """[.., (frames - 1) step + length]: frames [.., frames, length] added up, each `step` after the one before."""
    *outer, count, length = x.shape
    assert isinstance(length, int)
    shifts, rank = -(-length // step), x.rank
    total = (count - 1) * step + length
    if shifts > SHIFTS and isinstance(count, int) and isinstance(total, int):
        flat = c.reshape(x, (product(outer), count, length))
        image = c.b.col2im(c.permute(flat, (0, 2, 1)), image=(1, total), block=(1, length), stride=(1, step), pad=(0, 0, 0, 0),
                           dilation=(1, 1))
        return c.reshape(image, (*outer, total))
    if length != shifts * step:
        x = c.b.pad(x, None, pads=[0] * (2 * rank - 1) + [shifts * step - length], mode="constant")
    x = c.reshape(x, (*outer, count, shifts, step))
    parts = []
    for k in range(shifts):
        part = c.reshape(c.slice(x, rank - 1, k, k + 1), (*outer, count, step))
        pads = [0] * (rank - 2) + [k, 0] + [0] * (rank - 2) + [shifts - 1 - k, 0]
        parts.append(c.b.pad(part, None, pads=pads, mode="constant") if any(pads) else part)
    while len(parts) > 1:
        parts = [c.b.add(*parts[k:k + 2]) if len(parts[k:k + 2]) == 2 else parts[k] for k in range(0, len(parts), 2)]
    return c.slice(c.reshape(parts[0], (*outer, (count + shifts - 1) * step)), rank - 2, 0, total)


@aten_complex("aten.stft.default", "aten.stft.center")
def _(c: Context, x: Any, n_fft: int, hop_length: int | None = None, win_length: int | None = None, window: Any = None,
      center: bool | None = None, pad_mode: str = "reflect", normalized: bool = False, onesided: bool | None = None,
      return_complex: bool | None = None, align_to_window: bool | None = None) -> Any:
    """[.., frequencies, frames]: the transforms of the signal's frames times the window."""
    if isinstance(window, Complex):
        raise Refusal("a complex window")
    if align_to_window:
        raise Refusal("align_to_window")
    z = x if isinstance(x, Complex) else None
    signals = [z.re, z.im] if z else [x]
    batched = signals[0].rank > 1
    made = []
    step = n_fft // 4 if hop_length is None else hop_length
    for v in signals:
        v = v if batched else c.unsqueeze(v, 0)
        if center:
            v = _padded(c, v, n_fft // 2, pad_mode)
        taps = _window(c, window, n_fft, n_fft if win_length is None else win_length, v)
        v = frames(c, v, n_fft, step)
        made.append(v if taps is None else c.b.mul(v, taps))
    norm, axis = "root" if normalized else "none", 2
    onesided = z is None if onesided is None else onesided
    if z is None and onesided:
        out = _of_real(c, made[0], axis, norm)
    else:
        both = Complex(made[0], made[1]) if z else Complex(made[0], c.full(0, made[0].shape, made[0].dtype), real=True)
        out = _transformed(c, both, [axis], NORMS.index(norm), inverse=False)
        if onesided:
            out = out.each(lambda v: c.slice(v, axis, 0, n_fft // 2 + 1))
    out = out.each(lambda v: c.swap(v, 1, 2))
    if not batched:
        out = out.each(lambda v: c.reshape(v, v.shape[1:]))
    return out if c.val.dtype.is_complex else interleaved(c, out)  # type: ignore[union-attr]


def _padded(c: Context, x: Value, amount: int, mode: str) -> Value:
    ours = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}.get(mode)
    if ours is None:
        raise Refusal(f"pad_mode={mode}")
    return c.b.pad(x, None, pads=[0, amount, 0, amount], mode=ours) if amount else x


@aten_complex("aten.istft.default")
def _(c: Context, x: Complex, n_fft: int, hop_length: int | None = None, win_length: int | None = None, window: Any = None,
      center: bool = True, normalized: bool = False, onesided: bool | None = None, length: Any = None,
      return_complex: bool = False) -> Any:
    """The signal whose frames' transforms these are, by least squares: frames times the window are added up, and divided by what
    the squared window adds up to (Griffin and Lim 1984)."""
    if isinstance(window, Complex):
        raise Refusal("a complex window")
    step = n_fft // 4 if hop_length is None else hop_length
    batched = x.rank == 3
    z = [c.swap(v if batched else c.unsqueeze(v, 0), 1, 2) for v in (x.re, x.im)]  # [B, frames, frequencies]
    norm = "root" if normalized else "n"
    if onesided is None:
        onesided = z[0].shape[2] != n_fft
    if return_complex:
        if onesided:
            raise Refusal("a complex signal of one side of a spectrum")
        made = list(c.b.fft(*z, axis=2, inverse=True, norm=norm))
    else:
        made = [_to_real(c, Complex(z[0], z[1]), 2, n_fft, norm)]
    taps = _window(c, window, n_fft, n_fft if win_length is None else win_length, z[0])
    if taps is not None:
        made = [c.b.mul(v, taps) for v in made]
    count = z[0].shape[1]
    squares = c.full(1, (n_fft,), z[0].dtype) if taps is None else c.b.mul(taps, taps)
    envelope = overlapped(c, c.expand(squares, (1, count, n_fft)), step)
    total = (count - 1) * step + n_fft
    start = n_fft // 2 if center else 0
    wanted = length if length is not None else total - 2 * start
    end = apply("min", start + wanted, total) if isinstance(wanted, Dim) or isinstance(total, Dim) else min(start + wanted, total)
    envelope = c.slice(envelope, 1, start, end)
    made = [c.b.div(c.slice(overlapped(c, v, step), 1, start, end), envelope) for v in made]
    if length is not None and isinstance(end, int) and isinstance(wanted, int) and start + wanted > end:
        made = [c.b.pad(v, None, pads=[0, 0, 0, start + wanted - end], mode="constant") for v in made]
    if not batched:
        made = [c.reshape(v, v.shape[1:]) for v in made]
    return Complex(made[0], made[1]) if return_complex else made[0]


__all__ = ["frames", "overlapped"]
