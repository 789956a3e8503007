"""Per-channel constants around a contraction move into its weights, and padding into its window."""

from __future__ import annotations

import math

import numpy as np

from graphopt.ir.graph import Tensor, Value
from graphopt.rewrite.engine.common import known_shape
from graphopt.rewrite.engine.manager import RulePass
from graphopt.rewrite.engine.pattern import Match
from graphopt.rewrite.engine.rules import Rule


def _wide(a: np.ndarray) -> np.ndarray:
    return a.astype(np.float64)


def _weight(m: Match, data: np.ndarray, like: Value, what: str) -> Value:
    """A constant of the root's dtype, named after the weight that it was made from."""
    of = like.op.attrs["value"].name if like.op is not None and like.op.name == "const" else None
    name = None if of is None else f"{of.partition('/')[0]}/{what}"
    return m.build.const(Tensor(np.ascontiguousarray(data.astype(m.result.dtype.numpy)), name))


def _fits(m: Match, *arrays: np.ndarray | None) -> bool:
    """Are all the numbers finite in the root's dtype?"""
    with np.errstate(all="ignore"):
        return all(a is None or bool(np.isfinite(a.astype(m.result.dtype.numpy).astype(np.float64)).all()) for a in arrays)


def _holds(m: Match, *arrays: np.ndarray) -> bool:
    """Are all numbers that are finite so in the root's dtype too?"""
    with np.errstate(all="ignore"):
        return all(bool(np.isfinite(a.astype(m.result.dtype.numpy).astype(np.float64)[np.isfinite(a)]).all()) for a in arrays)


def _is_float(m: Match) -> bool:
    return bool(m.result.dtype.is_float)


def _normalisation(m: Match) -> Value | None:
    """batch_norm by constants is one multiplication and one addition, computed in f64."""
    if known_shape(m.x) is None:
        return None
    with np.errstate(all="ignore"):
        factor = _wide(m.array("scale")) / np.sqrt(_wide(m.array("var")) + m.eps)
        shift = _wide(m.array("bias")) - _wide(m.array("mean")) * factor
    if not _holds(m, factor, shift):
        return None
    shape = (-1, *[1] * (m.x.rank - 2))
    scaled = m.build.mul(m.x, _weight(m, factor.reshape(shape), m.values["scale"], "factor"))
    return m.build.add(scaled, _weight(m, shift.reshape(shape), m.values["bias"], "shift"))


def _by_channel(m: Match, axis: int) -> np.ndarray | None:
    """#c as [channels] where it varies along result axis `axis` only and adds no axes; None otherwise."""
    c, shape = m.array("c"), known_shape(m.result)
    if shape is None or known_shape(m.y) != shape or c.ndim > len(shape):
        return None
    channels, full = shape[axis], (1,) * (len(shape) - c.ndim) + c.shape
    if not isinstance(channels, int) or any(n != 1 for i, n in enumerate(full) if i != axis):
        return None
    return np.broadcast_to(_wide(c).reshape(full[axis]), (channels,))


def _scaled_weights(m: Match, factor: np.ndarray) -> np.ndarray:
    """The weights with every output channel multiplied."""
    w, op = _wide(m.array("w")), m.y.op
    assert op is not None
    ones = (1,) * (w.ndim - 2)
    if op.name == "conv":
        return w * factor.reshape(-1, 1, *ones)
    groups = op.attrs["groups"]  # conv_transpose: [C, O/g, ...], the output channels of group g belong to its input channels
    by_group = factor.reshape(groups, 1, -1, *ones)
    return (w.reshape(groups, w.shape[0] // groups, *w.shape[1:]) * by_group).reshape(w.shape)


def _scale_conv(m: Match) -> Value | None:
    """mul(conv(x, w, bias), c) is conv(x, w c, bias c)."""
    factor, op = _by_channel(m, 1), m.y.op
    assert op is not None
    bias = op.operands[2] if len(op.operands) > 2 else None
    if factor is None or (bias is not None and bias.constant is None):
        return None
    w = _scaled_weights(m, factor)
    b = None if bias is None else _wide(bias.constant) * factor  # type: ignore[arg-type]
    if not _fits(m, w, b):
        return None
    scaled = None if bias is None or b is None else _weight(m, b, bias, "scaled")
    return m.build.op(op.name, [m.x, _weight(m, w, m.w, "scaled"), scaled], op.attrs).result


def _shift_conv(m: Match) -> Value | None:
    """add(conv(x, w, bias), c) is conv(x, w, bias + c)."""
    shift, op = _by_channel(m, 1), m.y.op
    assert op is not None
    bias = op.operands[2] if len(op.operands) > 2 else None
    if shift is None or (bias is not None and bias.constant is None):
        return None
    total = shift if bias is None else _wide(bias.constant) + shift  # type: ignore[arg-type]
    if not _fits(m, total):
        return None
    new = _weight(m, total, m.values["c"] if bias is None else bias, "shifted")
    return m.build.op(op.name, [m.x, m.w, new], op.attrs).result


def _scale_matmul(m: Match) -> Value | None:
    """mul(matmul(x, w), c) is matmul(x, w c)."""
    factor = None if known_shape(m.result) is None else _by_channel(m, m.result.rank - 1)
    if factor is None:
        return None
    w = _wide(m.array("w")) * factor
    return m.build.matmul(m.x, _weight(m, w, m.w, "scaled")) if _fits(m, w) else None


def _scaled_input(m: Match) -> Value | None:
    """conv(mul(x, c), w) with one factor for each input channel (and no groups) is conv(x, w c)."""
    op, shape = m.root, known_shape(m.x)
    c, w = m.array("c"), m.array("w")
    if shape is None or known_shape(m.y) != shape or op.attrs["groups"] != 1 or c.ndim > len(shape):
        return None
    full = (1,) * (len(shape) - c.ndim) + c.shape
    if any(n != 1 for i, n in enumerate(full) if i != 1):
        return None
    factor = np.broadcast_to(_wide(c).reshape(full[1]), (w.shape[1],)).reshape(1, -1, *(1,) * (w.ndim - 2))
    scaled = _wide(w) * factor
    if not _fits(m, scaled):
        return None
    return m.build.op(op.name, [m.x, _weight(m, scaled, m.w, "scaled"), *op.operands[2:]], op.attrs).result


def _shifted_input(m: Match) -> Value | None:
    """conv(add(x, c), w) without padding and groups is conv(x, w) with the shift's share in the bias."""
    op, shape = m.root, known_shape(m.x)
    c, w = m.array("c"), m.array("w")
    bias = op.operands[2] if len(op.operands) > 2 else None
    if shape is None or known_shape(m.y) != shape or op.attrs["groups"] != 1 or c.ndim > len(shape) or any(op.attrs["pad"]):
        return None
    full = (1,) * (len(shape) - c.ndim) + c.shape
    if any(n != 1 for i, n in enumerate(full) if i != 1) or (bias is not None and bias.constant is None):
        return None
    per_input = np.broadcast_to(_wide(c).reshape(full[1]), (w.shape[1],))
    share = np.einsum("oi,i->o", _wide(w).reshape(*w.shape[:2], -1).sum(-1), per_input)
    total = share if bias is None else _wide(bias.constant) + share  # type: ignore[arg-type]
    if not _fits(m, total):
        return None
    return m.build.op(op.name, [m.x, m.w, _weight(m, total, m.w if bias is None else bias, "shifted")], op.attrs).result


def _spatial_pads(m: Match, number: float) -> tuple[int, ...] | None:
    """The pads of #y, an inner `pad` with that number, where they are of the spatial axes only and do not crop."""
    op = m.y.op
    assert op is not None
    pads, value = op.attrs["pads"], op.operands[1] if len(op.operands) > 1 else None
    rank = len(pads) // 2
    if min(pads) < 0 or any(pads[i] or pads[rank + i] for i in (0, 1)):
        return None
    if value is None:
        if number != 0:
            return None
    elif value.constant is None or not np.all(value.constant == number):
        return None
    return (*pads[2:rank], *pads[rank + 2:])


def _padded_conv(m: Match) -> Value | None:
    pads, op = _spatial_pads(m, 0.0), m.root
    if pads is None:
        return None
    attrs = {**op.attrs, "pad": tuple(a + b for a, b in zip(op.attrs["pad"], pads))}
    return m.build.op(op.name, [m.x, *op.operands[1:]], attrs).result


def _padded_pool(m: Match) -> Value | None:
    """Zeros before an average that counts its padding, -inf before a maximum."""
    op = m.root
    maximum = op.name == "max_pool"
    if op.attrs["ceil_mode"] or (not maximum and any(op.attrs["pad"])):
        return None
    pads = _spatial_pads(m, -math.inf if maximum else 0.0)
    kernel, dilation = op.attrs["kernel"], op.attrs["dilation"]
    if pads is None or any(p >= d * (k - 1) + 1 for p, k, d in zip(pads, kernel * 2, dilation * 2)):
        return None
    attrs = {**op.attrs, "pad": tuple(a + b for a, b in zip(op.attrs["pad"], pads))}
    if not maximum:
        attrs["count_include_pad"] = True
    return m.build.op(op.name, [m.x], attrs).result


RULES = [
    Rule("batch norm by constants", "batch_norm(%x, #scale, #bias, #mean, #var) {eps=?eps}", _normalisation, ulps=10),
    Rule("factor into conv weights", "mul(%y=conv|conv_transpose!(%x, #w, ...), #c)", _scale_conv, when=_is_float, ulps=10),
    Rule("shift into conv bias", "add(%y=conv|conv_transpose!(%x, #w, ...), #c)", _shift_conv, when=_is_float, ulps=10),
    Rule("factor into matmul weights", "mul(%y=matmul!(%x, #w), #c)", _scale_matmul, when=_is_float, ulps=10),
    Rule("factor of a conv's input", "conv(%y=mul!(%x, #c), #w, ...)", _scaled_input, when=_is_float, ulps=10),
    Rule("shift of a conv's input", "conv(%y=add!(%x, #c), #w, ...)", _shifted_input, when=_is_float, ulps=10),
    Rule("padding into a conv", 'conv(%y=pad!(%x, ...) {mode="constant"}, ...)', _padded_conv),
    Rule("padding into a pool", 'max_pool|avg_pool(%y=pad!(%x, ...) {mode="constant"})', _padded_pool),
]


class FoldNorm(RulePass):
    """Before: a canonical graph. After: no batch norm by constants; no per-channel constant multiplied with or added to what a
    convolution gives or (without groups; shifts without padding) takes, nor multiplied with what a matmul by a constant
    gives; zeros padded before a convolution are its own. New weights are computed in f64 and rounded once."""

    name = "fold_norm"
    rules = RULES
