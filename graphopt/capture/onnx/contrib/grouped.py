"""Grouped-query attention with a cache of keys and values."""

from __future__ import annotations

import numpy as np

from graphopt.capture.onnx.context import Context, Node, rank_of
from graphopt.capture.onnx.contrib.attention import merged_heads, number, scale_of, split_heads
from graphopt.capture.onnx.contrib.common import contrib, refuse
from graphopt.capture.onnx.contrib.rotary import turned_by
from graphopt.capture.onnx.table import Defer, Results
from graphopt.ir.dims import Dim, DimLike
from graphopt.ir.graph import Value
from graphopt.ir.types import F32, I64

ATTRS = ("num_heads kv_num_heads scale softcap do_rotary rotary_interleaved local_window_size smooth_softmax causal qk_output "
         "sliding_window_cache k_quant_type v_quant_type kv_cache_bit_width qk_norm_epsilon q_norm_epsilon k_norm_epsilon")


@contrib("GroupQueryAttention", inputs=17, outputs=3, attrs=ATTRS)
def group_query_attention(b: Context, n: Node) -> Results:
    """Row t of a batch element's cache is that of position t: its past ones, then the new ones.

    `seqlens_k` + 1 is how many there are afterwards, and `total_sequence_length` the largest of them, which says how long the
    present is (that of the past, where it is a buffer with room). A first call (as many queries as keys) has no past. Rows
    behind the last position are zeros, as onnxruntime leaves them where past and present are not the same memory. Where the
    new rows are padded, `query_seqlens` is how many there are.
    """
    refuse(n, "sliding_window_cache", "qk_output")
    for name in ("k_quant_type", "v_quant_type"):
        if n.attr(name, "NONE") != "NONE":
            raise n.error(f"{name}={n.attr(name)!r} is not supported", "A cache of floats is (NONE)")
    for i, name in ((12, "k_scale"), (13, "v_scale")):
        if n.get(i) is not None:
            raise n.error(f"operand {i}, {name}, is not supported: a cache of floats is")
    q, k, v = _normalised(b, n, *_operands(b, n))
    batch, _, length, _ = rank_of(q)
    past_k, past_v = n.get(3), n.get(4)
    total = _total(n)
    held: DimLike = 0 if past_k is None else rank_of(past_k)[2]
    first, room = _form(n, length, total, held)
    first = first and n.get(16) is None
    counts = b.reshape(b.add(b.to(n[5], I64), 1), shape=(batch, 1))
    new = number(b, length) if n.get(16) is None else b.reshape(b.to(n[16], I64), shape=(batch, 1))
    before = b.const(np.zeros((1, 1), np.int64)) if first else b.sub(counts, new)
    if n.attr("do_rotary", 0):
        positions = _positions(b, n, length, before, counts, first)
        q, k = (turned_by(b, x, positions, n[7], n[8], bool(n.attr("rotary_interleaved", 0))) for x in (q, k))
    if not first and past_k is not None and past_v is not None:
        k, v = (_placed(b, x, old, before, new, room) for x, old in ((k, past_k), (v, past_v)))
    elif room != length:
        k, v = (_grown(b, x, room) for x in (k, v))
    y = _attend(b, n, q, k, v, before, counts, first)
    return [merged_heads(b, y), k, v]


def _operands(b: Context, n: Node) -> tuple[Value, Value, Value]:
    heads, shared = n.attr("num_heads"), n.attr("kv_num_heads")
    q, k, v = n[0], n.get(1), n.get(2)
    if k is None or v is None:  # packed
        width = rank_of(q)[2]
        size = width // (heads + 2 * shared)
        q, k, v = b.parts(q, 2, (heads * size, shared * size, shared * size))
    return split_heads(b, q, heads), split_heads(b, k, shared), split_heads(b, v, shared)


def _normalised(b: Context, n: Node, q: Value, k: Value, v: Value) -> tuple[Value, Value, Value]:
    """Queries and keys with the RMS norm of every head where its weights are given."""
    q_weight, k_weight = n.get(14), n.get(15)
    if q_weight is None or k_weight is None:
        return q, k, v
    both = n.attr("qk_norm_epsilon", 1e-6)
    return (b.rms_norm(q, q_weight, axis=3, eps=n.attr("q_norm_epsilon", both)),
            b.rms_norm(k, k_weight, axis=3, eps=n.attr("k_norm_epsilon", both)), v)


def _positions(b: Context, n: Node, length: DimLike, before: Value, counts: Value, first: bool) -> Value:
    """[B or 1, S]: those given (of a first call the very first alone, from which on they count), or those behind the past."""
    given, steps = n.get(9), b.iota(shape=(1, length), axis=1, dtype=I64)
    if given is not None:
        return b.add(b.cut(b.cut(given, 0, 0, 1), 1, 0, 1), steps) if first else given
    positions = b.add(steps, before)
    if length != 1 and (first or n.get(16) is not None):  # behind the end there is no position
        positions = b.where(b.less(positions, counts), positions, b.const(1, I64))
    return positions


def _total(n: Node) -> DimLike:
    content = n.dims(6)
    if content is None:
        raise n.error("operand 6, total_sequence_length, is missing")
    return content[0]


def _form(n: Node, length: DimLike, total: DimLike, held: DimLike) -> tuple[bool, DimLike]:
    """Whether there is no past, and how long the present is."""
    if total == length:
        first = True
    elif isinstance(total - length, Dim):
        raise Defer("whether there is a past is not known")
    else:
        first = False
    if held == 0 or total == held:
        return first, total
    if isinstance(total, Dim) or isinstance(held, Dim):
        if total == held + length:
            return first, total
        raise Defer("the length of the present is not known")
    return first, max(total, held)


def _grown(b: Context, x: Value, room: DimLike) -> Value:
    """x [B, heads, L, size] with zeros up to `room` rows."""
    batch, heads, length, size = rank_of(x)
    return b.concat(x, b.full(0, (batch, heads, room - length, size), x.dtype), axis=2)


def _placed(b: Context, new: Value, old: Value, before: Value, count: Value, room: DimLike) -> Value:
    """A cache [B, heads, room, size]: the first `before` [B, 1] rows of `old`, `count` rows of `new`, and zeros."""
    batch, heads, length, size = rank_of(new)
    held = rank_of(old)[2]
    if held != room:
        old = _grown(b, old, room)
    rows = b.iota(shape=(1, room), axis=1, dtype=I64)
    place = b.sub(rows, before)  # [B, room]: which of the new rows
    ours = b.and_(b.greater_equal(place, 0), b.less(place, count))
    if length == 1:
        grown = new  # broadcasts along the rows
    else:
        inside = b.where(ours, place, b.const(0, I64))
        index = b.expand(b.reshape(inside, shape=(batch, 1, room, 1)), shape=(batch, heads, room, size))
        grown = b.gather_elements(new, index, axis=2)
    kept = b.where(b.reshape(b.less(rows, before), shape=(batch, 1, room, 1)), old, b.const(0, old.dtype))
    return b.where(b.reshape(ours, shape=(batch, 1, room, 1)), grown, kept)


def _attend(b: Context, n: Node, q: Value, k: Value, v: Value, before: Value, counts: Value, first: bool) -> Value:
    batch, heads, length, size = rank_of(q)
    room, window, bias, sink = rank_of(k)[2], n.attr("local_window_size", -1), n.get(10), n.get(11)
    causal = bool(n.attr("causal", 1))
    smooth = bool(n.attr("smooth_softmax", 0)) or sink is not None
    plain = causal and first and window <= 0 and not smooth
    seen = None
    columns = b.iota(shape=(1, 1, 1, room), axis=3, dtype=I64)
    rows = b.add(b.iota(shape=(1, 1, length, 1), axis=2, dtype=I64), b.reshape(before, shape=(rank_of(before)[0], 1, 1, 1)))
    if causal and not plain:
        seen = b.less_equal(columns, rows)
        if window > 0:
            seen = b.and_(seen, b.greater(columns, b.sub(rows, window)))
    elif not causal:
        seen = b.less(columns, b.reshape(counts, shape=(batch, 1, 1, 1)))
    mask = seen
    if bias is not None:
        bias = b.to(bias, q.dtype)
        if rank_of(bias)[3] != room:  # behind the last position nothing is seen
            bias = b.concat(bias, b.full(0, (*rank_of(bias)[:3], room - rank_of(bias)[3]), q.dtype), axis=3)
        mask = bias if seen is None else b.where(seen, bias, b.const(-np.inf, q.dtype))
    if smooth:
        k, v, mask = _with_sink(b, k, v, mask, sink, heads)
    return b.op("attention", [q, k, v, mask], {"scale": scale_of(n, size), "causal": plain,
                                               "softcap": n.attr("softcap", 0.0)}).result


def _with_sink(b: Context, k: Value, v: Value, mask: Value | None, sink: Value | None, heads: DimLike
               ) -> tuple[Value, Value, Value]:
    """A key more, of zeros and with a value of zeros, whose score is the sink's (or 0): it takes its part of the softmax."""
    batch, shared = rank_of(k)[:2]
    assert mask is not None
    if mask.dtype.kind == "bool":
        mask = b.where(mask, b.const(0, F32), b.const(-np.inf, F32))
    mask = b.to(mask, F32)
    score = b.const(np.zeros((1, 1, 1, 1), np.float32)) if sink is None else b.reshape(b.to(sink, F32), shape=(1, heads, 1, 1))
    lead = rank_of(mask)
    wide = (lead[0], heads if sink is not None else lead[1], lead[2])
    mask = b.concat(b.expand(mask, shape=(*wide, lead[3])), b.expand(score, shape=(*wide, 1)), axis=3)
    k, v = (b.concat(x, b.full(0, (batch, shared, 1, rank_of(x)[3]), x.dtype), axis=2) for x in (k, v))
    return k, v, mask
