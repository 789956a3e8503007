"""Transposed convolutions become convolutions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from graphopt.ir.graph import Value
from graphopt.rewrite.engine.common import static_shape
from graphopt.rewrite.engine.manager import RulePass
from graphopt.rewrite.engine.pattern import Match
from graphopt.rewrite.engine.rules import Rule


def _phases(m: Match) -> Value | None:
    """With stride s, result element s*z + r takes only the kernel's elements s*t + r: each residue r is a convolution of x
    (Shi et al., arXiv:1609.07009), all of them one with s times the output channels where the kernel is a multiple of the
    stride. Else some of its taps would be zeros, which turn infinities into NaN: the residues are convolutions of their own.
    """
    op = m.root
    x, w, bias = (*op.operands, None)[:3]
    shape, kernel = static_shape(x), static_shape(w)
    out = static_shape(op.result)
    if x is None or w is None or shape is None or kernel is None or out is None or 0 in (*shape, *kernel, *out):
        return None
    if not np.isfinite(m.array("w").astype(np.float64)).all():
        return None  # the convolution's padding would be multiplied by it, where the transposed one has nothing
    a, n = op.attrs, len(shape) - 2
    stride, groups, pad, dilation = a["stride"], a["groups"], a["pad"], a["dilation"]
    window = kernel[2:]
    if all(s == 1 for s in stride):
        # The kernel turned around.
        reach = [d * (k - 1) for d, k in zip(dilation, window)]
        pads = [r - p for r, p in zip(reach, pad[:n])] + [r - p + e for r, p, e in zip(reach, pad[n:], a["output_padding"])]
        if min(pads) < 0:
            return None
        return m.build.conv(x, _turned(m, w, groups), bias, stride=[1] * n, pad=pads, dilation=dilation, groups=groups)
    if any(k < s for k, s in zip(window, stride)) or any(d != 1 for d in dilation) or groups != 1 or min(pad) < 0:
        return None
    # How many z there are: all that x reaches, and all that the result has.
    sizes = [max(i + -(-k // s) - 1, -(-(p + o) // s)) for i, k, s, p, o in zip(shape[2:], window, stride, pad[:n], out[2:])]
    behind = [z - i for z, i in zip(sizes, shape[2:])]
    b, outs = m.build, kernel[1]
    if all(k % s == 0 for k, s in zip(window, stride)):
        filters = _joint(m, w, [k // s for k, s in zip(window, stride)], stride)
        if bias is not None:
            each = math.prod(stride)
            bias = b.reshape(b.expand(b.reshape(bias, shape=[outs, 1]), shape=[outs, each]), shape=[outs * each])
        y = b.conv(x, filters, bias, stride=[1] * n, pad=[k // s - 1 for k, s in zip(window, stride)] + behind,
                   dilation=[1] * n, groups=1)
        channel, phase = 1, 2  # the axes of [N, O, r..., z...]
        y = b.reshape(y, shape=[shape[0], outs, *stride, *sizes])
    else:
        parts = []
        for residue in itertools.product(*(range(s) for s in stride)):
            own = b.slice(w, axes=list(range(2, 2 + n)), starts=list(residue), ends=list(window), steps=list(stride))
            before = [-(-(k - r) // s) - 1 for k, r, s in zip(window, residue, stride)]
            parts.append(b.conv(x, _turned(m, own, 1), bias, stride=[1] * n, pad=before + behind, dilation=[1] * n, groups=1))
        channel, phase = 1 + n, 1
        y = b.reshape(b.concat(*parts, axis=1), shape=[shape[0], *stride, outs, *sizes])
    # Over the pixels: each axis is z, then r.
    y = b.transpose(y, perm=[0, channel, *(axis for i in range(n) for axis in (2 + n + i, phase + i))])
    y = b.reshape(y, shape=[shape[0], outs, *(z * s for z, s in zip(sizes, stride))])
    if all(p == 0 for p in pad) and list(y.shape[2:]) == list(out[2:]):
        return y
    return b.slice(y, axes=list(range(2, 2 + n)), starts=list(pad[:n]), ends=[p + o for p, o in zip(pad[:n], out[2:])],
                   steps=[1] * n)


def _joint(m: Match, w: Value, taps: list[int], stride: Sequence[int]) -> Value:
    """[C, O, (t, r) of each axis] to [O and r of each axis, C, t of each axis], with t turned around."""
    channels, outs = w.static_shape[:2]
    b, n = m.build, len(taps)
    split = b.reshape(w, shape=[channels, outs, *(e for t, s in zip(taps, stride) for e in (t, s))])
    order = [1, *(3 + 2 * i for i in range(n)), 0, *(2 + 2 * i for i in range(n))]
    filters = b.reshape(b.transpose(split, perm=order), shape=[outs * math.prod(stride), channels, *taps])
    return b.flip(filters, axes=list(range(2, 2 + n)))


def _turned(m: Match, w: Value, groups: int) -> Value:
    """[C, O/g, window] to [O, C/g, window], the window back to front."""
    channels, outs, *window = w.static_shape
    b = m.build
    grouped = b.reshape(w, shape=[groups, channels // groups, outs, *window])
    swapped = b.transpose(grouped, perm=[0, 2, 1, *range(3, 3 + len(window))])
    flat = b.reshape(swapped, shape=[groups * outs, channels // groups, *window])
    return b.flip(flat, axes=list(range(2, 2 + len(window))))


class Upsample(RulePass):
    """Before: transposed convolutions. After: those of constant weights, with stride 1 or a window that is no smaller than the
    stride, are convolutions, if all weights are finite; their elements are the same sums."""

    name = "upsample"
    rules = (Rule("transposed convolution as a convolution", "conv_transpose(%x, #w, ...)", _phases, ulps=10),)
