"""Fourier transforms, and mel filters."""

from __future__ import annotations

import numpy as np

from graphopt.capture.onnx.context import Context, Node, rank_of, static_shape
from graphopt.capture.onnx.table import Defer, Results, entry
from graphopt.ir.dims import Dim
from graphopt.ir.graph import Value
from graphopt.ir.table import normalise_axis
from graphopt.ir.types import F32


@entry("DFT", since=17)
def dft_17(b: Context, n: Node) -> Results:
    n.need(1)
    return _dft(b, n, n[0], n.axis(1, len(rank_of(n[0]))), n.number(1))


@entry("DFT", since=20)
def dft(b: Context, n: Node) -> Results:
    n.need(1, 2)
    return _dft(b, n, n[0], normalise_axis(int(n.number(2, -2)), len(rank_of(n[0]))), n.number(1))


def _dft(b: Context, n: Node, x: Value, axis: int, length: int | None) -> Value:
    inverse, onesided = bool(n.attr("inverse", 0)), bool(n.attr("onesided", 0))
    size, last = rank_of(x)[axis], len(rank_of(x)) - 1
    if isinstance(size, Dim):
        raise Defer("the length of the transform is not known")
    if axis == last:
        raise n.error("the last axis holds real and imaginary parts and cannot be transformed")
    if length is None:
        length = 2 * (size - 1) if inverse and onesided else size
    taken = length // 2 + 1 if inverse and onesided else length
    if size > taken:
        x = b.cut(x, axis, 0, taken)
    elif size < taken:
        x = b.pad(x, None, pads=[0] * (last + 1) + [taken - size if i == axis else 0 for i in range(last + 1)])
    order = [i for i in range(last) if i != axis] + [axis, last]
    x = b.permuted(x, order)
    y = transformed(b, x, length, inverse, onesided)
    return b.permuted(y, [order.index(i) for i in range(last + 1)])


def transformed(b: Context, x: Value, length: int, inverse: bool, onesided: bool) -> Value:
    """The transform of x [..., n, 1 or 2] along its last axis but one."""
    if x.dtype.bits < 32:
        return b.cast(transformed(b, b.cast(x, to=F32), length, inverse, onesided), to=x.dtype)
    *outer, count, parts = rank_of(x)
    axis, norm = len(outer), "n" if inverse else "none"
    part = lambda k: b.reshape(b.cut(x, axis + 1, k, k + 1), shape=[*outer, count])
    re, im = part(0), part(1) if parts == 2 else None
    if im is None and not inverse:
        re, im = b.rfft(re, axis=axis, norm=norm)
        if not onesided and length > 2:  # the rest mirrors it
            mirrored = [b.flip(b.cut(v, axis, 1, (length + 1) // 2), axes=[axis]) for v in (re, im)]
            re, im = b.concat(re, mirrored[0], axis=axis), b.concat(im, b.neg(mirrored[1]), axis=axis)
    else:
        im = b.expand(b.const(0, re.dtype), shape=rank_of(re)) if im is None else im
        if inverse and onesided:
            y = b.irfft(re, im, axis=axis, n=[length], norm=norm)
            return b.reshape(y, shape=[*outer, length, 1])
        re, im = b.fft(re, im, axis=axis, inverse=inverse, norm=norm)
        if onesided:
            re, im = (b.cut(v, axis, 0, length // 2 + 1) for v in (re, im))
    outputs = rank_of(re)[axis]
    return b.concat(*(b.reshape(v, shape=[*outer, outputs, 1]) for v in (re, im)), axis=axis + 1)


@entry("STFT")
def stft(b: Context, n: Node) -> Results:
    """Frames by a gather with constant indices, windowed, each transformed."""
    n.need(1, 3)
    x, step, window = n[0], int(n.number(1)), n.get(2)
    shape = static_shape(x)
    length = n.number(3)
    if length is None:
        length = shape[1] if window is None else static_shape(window)[0]
    frames = 1 + (shape[1] - int(length)) // step
    index = np.arange(frames)[:, None] * step + np.arange(int(length))
    x = b.gather(x if len(shape) == 3 else b.unsqueezed(x, [2]), b.const(index.astype(np.int64)), axis=1)
    if window is not None:
        x = b.mul(x, b.reshape(window, shape=(length, 1)))
    return transformed(b, x, int(length), False, bool(n.attr("onesided", 1)))


@entry("MelWeightMatrix")
def mel_weight_matrix(b: Context, n: Node) -> Results:
    """Triangles between bins that are equally spaced on the mel scale; all operands shape the result."""
    n.need(0, 1, 2, 3, 4)
    count, length, rate, low, high = (n.number(i) for i in range(5))
    mel = [2595 * np.log10(1 + f / 700) for f in (low, high)]
    points = mel[0] + np.arange(count + 2) * (mel[1] - mel[0]) / (count + 2)
    bins = ((length + 1) * 700 * (10 ** (points / 2595) - 1) // rate).astype(int)
    matrix = np.zeros((length // 2 + 1, count))
    for i in range(count):
        left, centre, right = bins[i:i + 3]
        rising, falling = np.arange(left, centre + 1), np.arange(centre, right)
        matrix[rising, i] = 1 if centre == left else (rising - left) / (centre - left)
        if right > centre:
            matrix[falling, i] = (right - falling) / (right - centre)
    return b.const(matrix, n.dtype("output_datatype", F32))
