"""Scaled dot-product attention."""

from __future__ import annotations

import math

import numpy as np

from graphopt.capture.onnx.context import Context, Node, rank_of
from graphopt.capture.onnx.table import Defer, Expand, Results, entry
from graphopt.ir.dims import Dim, DimLike
from graphopt.ir.graph import Value
from graphopt.ir.types import I64, TensorType


@entry("Attention")
def attention(b: Context, n: Node) -> Results:
    """Query i stands at `offset + i` among the keys: after the past ones, or at the end of a batch's valid ones.

    What a query may see (causality, window, valid keys, a boolean mask) becomes one boolean mask, or none where
    plain causality says it all. The scores as a result are left to the schema's function body.
    """
    if n.wants(3) or n.attr("softmax_precision", 0) == 11:
        raise Expand
    q, k, v, mask, past_key, past_value, valid = n[0], n[1], n[2], n.get(3), n.get(4), n.get(5), n.get(6)
    flat = len(rank_of(q)) == 3
    if flat:
        heads, shared = n.attr("q_num_heads"), n.attr("kv_num_heads")
        q, k, v = _heads(b, q, heads), _heads(b, k, shared), _heads(b, v, shared)
    if past_key is not None and past_value is not None:
        k, v = b.concat(past_key, k, axis=2), b.concat(past_value, v, axis=2)
    size = rank_of(q)[3]
    scale = n.attr("scale", 0.0)
    if not scale:
        if isinstance(size, Dim):
            raise Defer("the size of a head is not known")
        scale = 1 / math.sqrt(size)
    mask, causal = _mask(b, n, q, k, mask, past_key, valid)
    y = b.op("attention", [q, k, v, mask], {"scale": scale, "causal": causal, "softcap": n.attr("softcap", 0.0)}).result
    if flat:
        batch, heads, length, depth = rank_of(y)
        y = b.reshape(b.transpose(y, perm=(0, 2, 1, 3)), shape=(batch, length, heads * depth))
    return [y, k, v]


def _heads(b: Context, x: Value, count: int) -> Value:
    """[B, S, H * D] as [B, H, S, D]."""
    batch, length, width = rank_of(x)
    return b.transpose(b.reshape(x, shape=(batch, length, count, width // count)), perm=(0, 2, 1, 3))


def _mask(b: Context, n: Node, q: Value, k: Value, mask: Value | None, past: Value | None,
          valid: Value | None) -> tuple[Value | None, bool]:
    """The mask, and whether causality is left to the op."""
    causal = bool(n.attr("is_causal", 0))
    left, right = n.attr("left_window_size", -1), n.attr("right_window_size", -1)
    queries, keys = rank_of(q)[2], rank_of(k)[2]
    if mask is not None:
        mask = _full_width(b, mask, keys)
    aligned = past is None and valid is None
    plain = causal and aligned and left < 0
    rows = b.iota(shape=(queries, 1), axis=0, dtype=I64)
    columns = b.iota(shape=(1, keys), axis=1, dtype=I64)
    conditions = []
    if valid is not None:
        count = b.reshape(b.to(valid, I64), shape=(rank_of(q)[0], 1, 1, 1))
        conditions.append(b.less(columns, count))
        rows = b.add(rows, b.sub(count, _number(b, queries))) if past is None else rows
    if past is not None:
        rows = b.add(rows, _number(b, rank_of(past)[2]))
    if causal and not plain:
        conditions.append(b.less_equal(columns, rows))
    if left >= 0:
        conditions.append(b.greater_equal(columns, b.sub(rows, left)))
    if right >= 0:
        conditions.append(b.less_equal(columns, b.add(rows, right)))
    seen = None
    for c in conditions:
        seen = c if seen is None else b.and_(seen, c)
    if seen is None or mask is None:
        return seen if mask is None else mask, plain
    if mask.dtype.kind == "bool":
        return b.and_(mask, seen), plain
    return b.where(seen, mask, b.const(-np.inf, mask.dtype)), plain


def _number(b: Context, d: DimLike) -> Value:
    return b.reshape(b.dims(values=(d,)), shape=()) if isinstance(d, Dim) else b.const(np.int64(d))


def _full_width(b: Context, mask: Value, keys: DimLike) -> Value:
    """A mask may be shorter than the keys: those beyond it are not seen."""
    have = rank_of(mask)[-1]
    if have == keys or (have == 1 and not isinstance(keys, int)):
        return mask
    if not TensorType(mask.dtype, (have, keys)).is_static:
        return mask
    rank = len(rank_of(mask))
    blocked = b.const(False) if mask.dtype.kind == "bool" else b.const(-np.inf, mask.dtype)
    return b.pad(mask, blocked, pads=[0] * (2 * rank - 1) + [keys - have])
