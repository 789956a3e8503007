"""Transposed convolutions become convolutions."""

from __future__ import annotations

import math

from graphopt.ir.graph import Value
from graphopt.rewrite.common import static_shape
from graphopt.rewrite.manager import RulePass
from graphopt.rewrite.pattern import Match
from graphopt.rewrite.rules import Rule


def _phases(m: Match) -> Value | None:
    """With stride s, result element s*z + r takes only the kernel's elements s*t + r: all residues r are one convolution of
    x with s times the output channels (Shi et al., arXiv:1609.07009), whose channels are then spread over the pixels.

    Where the kernel is no multiple of the stride some taps would be zeros, which turn infinities into NaN: those stay.
    """
    op = m.root
    x, w, bias = (*op.operands, None)[:3]
    shape, kernel = static_shape(x), static_shape(w)
    out = static_shape(op.result)
    if x is None or w is None or shape is None or kernel is None or out is None or 0 in (*shape, *kernel, *out):
        return None
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
    if any(k % s for k, s in zip(window, stride)) or any(d != 1 for d in dilation) or groups != 1:
        return None
    if any(e > p for e, p in zip(a["output_padding"], pad[n:])) or min(pad) < 0:
        return None
    taps = [k // s for k, s in zip(window, stride)]
    channels, outs, phases = kernel[0], kernel[1], math.prod(stride)
    b = m.build
    # [C, O, (t, r) of each axis] to [O, r of each axis, C, t of each axis], with t turned around
    split = b.reshape(w, shape=[channels, outs, *(e for t, s in zip(taps, stride) for e in (t, s))])
    order = [1, *(3 + 2 * i for i in range(n)), 0, *(2 + 2 * i for i in range(n))]
    filters = b.reshape(b.transpose(split, perm=order), shape=[outs * phases, channels, *taps])
    filters = b.flip(filters, axes=list(range(2, 2 + n)))
    if bias is not None:
        bias = b.reshape(b.expand(b.reshape(bias, shape=[outs, 1]), shape=[outs, phases]), shape=[outs * phases])
    y = b.conv(x, filters, bias, stride=[1] * n, pad=[t - 1 for t in taps] * 2, dilation=[1] * n, groups=1)
    sizes = [i + t - 1 for i, t in zip(shape[2:], taps)]
    # Channels [O, r...] over pixels [z...]: each axis is z, then r.
    y = b.reshape(y, shape=[shape[0], outs, *stride, *sizes])
    y = b.transpose(y, perm=[0, 1, *(axis for i in range(n) for axis in (2 + n + i, 2 + i))])
    y = b.reshape(y, shape=[shape[0], outs, *(z * s for z, s in zip(sizes, stride))])
    if all(p == 0 for p in pad):
        return y
    return b.slice(y, axes=list(range(2, 2 + n)), starts=list(pad[:n]), ends=[p + o for p, o in zip(pad[:n], out[2:])],
                   steps=[1] * n)


def _turned(m: Match, w: Value, groups: int) -> Value:
    """[C, O/g, window] to [O, C/g, window], the window back to front."""
    channels, outs, *window = w.static_shape
    b = m.build
    grouped = b.reshape(w, shape=[groups, channels // groups, outs, *window])
    swapped = b.transpose(grouped, perm=[0, 2, 1, *range(3, 3 + len(window))])
    flat = b.reshape(swapped, shape=[groups * outs, channels // groups, *window])
    return b.flip(flat, axes=list(range(2, 2 + len(window))))


class Upsample(RulePass):
    """Before: transposed convolutions. After: those of constant weights, with stride 1 or a window that is a multiple of the
    stride, are convolutions; their elements are the same sums."""

    name = "upsample"
    rules = (Rule("transposed convolution as a convolution", "conv_transpose(%x, #w, ...)", _phases, ulps=10),)
