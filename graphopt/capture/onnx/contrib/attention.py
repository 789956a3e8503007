"""Multi-head attention with a fused projection, with queries, keys and values of their own, and of one step of decoding.

All end in the IR's attention. Masks of 0 and 1 add `mask_filter_value` to the scores, as in onnxruntime: a query whose keys
are all masked attends to them as if none were.
"""

from __future__ import annotations

import math

import numpy as np

from graphopt.capture.onnx.context import Context, Node, rank_of
from graphopt.capture.onnx.contrib.common import contrib, refuse, scalar, scale_at
from graphopt.capture.onnx.ops.contract import centred
from graphopt.capture.onnx.table import Defer, Results
from graphopt.ir.dims import Dim, DimLike
from graphopt.ir.graph import Value
from graphopt.ir.types import F32, I64


def split_heads(b: Context, x: Value, count: int) -> Value:
    """[B, S, heads * size] as [B, heads, S, size]."""
    batch, length, width = rank_of(x)
    return b.transpose(b.reshape(x, shape=(batch, length, count, width // count)), perm=(0, 2, 1, 3))


def merged_heads(b: Context, x: Value) -> Value:
    """[B, heads, S, size] as [B, S, heads * size]."""
    batch, heads, length, size = rank_of(x)
    return b.reshape(b.transpose(x, perm=(0, 2, 1, 3)), shape=(batch, length, heads * size))


def scale_of(n: Node, size: DimLike) -> float:
    scale = n.attr("scale", 0.0)
    if scale:
        return scale
    if isinstance(size, Dim):
        raise Defer("the size of a head is not known")
    return 1 / math.sqrt(size)


def number(b: Context, d: DimLike) -> Value:
    return b.reshape(b.dims(values=(d,)), shape=()) if isinstance(d, Dim) else b.const(np.int64(d))


def padding(b: Context, n: Node, mask: Value, batch: DimLike, queries: DimLike, total: DimLike, past: DimLike) -> Value:
    """What a mask of keys adds to the scores [B, heads, S, T]: nothing, or `mask_filter_value`.

    [B] is how many of the keys are there, [2 B] where they end and then where they start; [B, T], [B, S, T] and
    [B, 1, M, M] (rows from the past's length on) are 0 where a key is not seen.
    """
    shape = rank_of(mask)
    if len(shape) == 1:
        columns = b.iota(shape=(1, 1, 1, total), axis=3, dtype=I64)
        ends, starts = mask, None
        if shape[0] == 2 * batch:
            ends, starts = b.parts(mask, 0, (batch, batch))
        elif shape[0] != batch:
            if isinstance(shape[0], Dim) or isinstance(batch, Dim):
                raise Defer("the form of the mask is not known")
            raise n.error(f"a mask [{shape[0]}] for a batch of {batch} is not supported",
                          "It is [batch], [2 batch], [batch, keys], [batch, queries, keys] or [batch, 1, most, most]")
        seen = b.less(columns, b.reshape(b.to(ends, I64), shape=(batch, 1, 1, 1)))
        if starts is not None:
            seen = b.and_(seen, b.greater_equal(columns, b.reshape(b.to(starts, I64), shape=(batch, 1, 1, 1))))
    else:
        if len(shape) == 4:
            mask = b.cut(b.cut(mask, 2, past, past + queries), 3, 0, total)
        elif len(shape) == 3:
            mask = b.unsqueezed(mask, [1])
        elif len(shape) == 2:
            mask = b.unsqueezed(mask, [1, 2])
        else:
            raise n.error(f"a mask of {len(shape)} axes is not supported")
        seen = b.greater(mask, 0)
    return b.where(seen, b.const(0, F32), b.const(n.attr("mask_filter_value", -10000.0), F32))


def attend(b: Context, n: Node, q: Value, k: Value, v: Value, *, mask: Value | None, bias: Value | None, causal: bool,
           past: DimLike) -> Value:
    """[B, heads, S, size]: attention over keys of which `past` come before the first query."""
    batch, _, queries, size = rank_of(q)
    total = rank_of(k)[2]
    added = None if mask is None else b.to(padding(b, n, mask, batch, queries, total, past), q.dtype)
    if bias is not None:
        added = bias if added is None else b.add(added, bias)
    plain = causal and past == 0
    if causal and not plain and queries != 1:
        rows = b.add(b.iota(shape=(queries, 1), axis=0, dtype=I64), number(b, past))
        seen = b.less_equal(b.iota(shape=(1, total), axis=1, dtype=I64), rows)
        added = seen if added is None else b.where(seen, added, b.const(-np.inf, added.dtype))
    return b.op("attention", [q, k, v, added], {"scale": scale_of(n, size), "causal": plain}).result


def scores_of(b: Context, n: Node, q: Value, k: Value, *, mask: Value | None, bias: Value | None, past: DimLike) -> Value:
    """[B, heads, S, T]: what the softmax is taken of, without causality."""
    batch, _, queries, size = rank_of(q)
    scores = b.mul(b.matmul(q, b.transpose(k, perm=(0, 1, 3, 2))), scale_of(n, size))
    if mask is not None:
        scores = b.add(scores, b.to(padding(b, n, mask, batch, queries, rank_of(k)[2], past), q.dtype))
    return scores if bias is None else b.add(scores, bias)


def after(b: Context, past: Value | None, x: Value) -> tuple[Value, DimLike]:
    """x [B, heads, L, size] behind the past one, and that one's length."""
    return (x, 0) if past is None else (b.concat(past, x, axis=2), rank_of(past)[2])


FUSED = "num_heads unidirectional scale mask_filter_value do_rotary past_present_share_buffer"


@contrib("Attention", inputs=6, outputs=2, attrs=f"{FUSED} qkv_hidden_sizes rotary_embedding_dim",
         beyond=("past_sequence_length (of past_present_share_buffer=1)",))
def attention(b: Context, n: Node) -> Results:
    """Attention of x W + bias, split into queries, keys and values; the present is keys and values [2, B, heads, T, size]."""
    refuse(n, "past_present_share_buffer", "do_rotary")
    qkv = b.matmul(n[0], n[1])
    if (bias := n.get(2)) is not None:
        qkv = b.add(qkv, bias)
    return _projected(b, n, qkv, mask=n.get(3), past=n.get(4), bias=n.get(5))


@contrib("QAttention", inputs=9, outputs=2, attrs=FUSED)
def qattention(b: Context, n: Node) -> Results:
    """Attention of a quantised x and W; the product of integers is exact, everything behind it f32."""
    refuse(n, "past_present_share_buffer", "do_rotary")
    x = centred(b, n[0], scalar(b, n, 6))
    w = centred(b, n[1], n.get(7), 1)
    x_scale, w_scale = scale_at(b, n, 3), n[4]
    factor = b.mul(x_scale, b.reshaped(w_scale, ()) if rank_of(w_scale) == (1,) else w_scale)
    qkv = b.add(b.mul(b.cast(b.matmul(x, w), to=F32), factor), n[2])
    return _projected(b, n, qkv, mask=n.get(5), past=n.get(8), bias=None)


def _projected(b: Context, n: Node, qkv: Value, *, mask: Value | None, past: Value | None, bias: Value | None) -> Results:
    count, width = n.attr("num_heads"), rank_of(qkv)[2]
    sizes = tuple(n.attr("qkv_hidden_sizes", None) or (width // 3,) * 3)
    q, k, v = (split_heads(b, part, count) for part in b.parts(qkv, 2, sizes))
    past_k = past_v = None
    if past is not None:
        past_k, past_v = (b.reshape(part, shape=rank_of(part)[1:]) for part in b.parts(past, 0, (1, 1)))
    (k, length), (v, _) = after(b, past_k, k), after(b, past_v, v)
    y = merged_heads(b, attend(b, n, q, k, v, mask=mask, bias=bias, causal=bool(n.attr("unidirectional", 0)), past=length))
    present = b.concat(b.unsqueezed(k, [0]), b.unsqueezed(v, [0]), axis=0) if n.wants(1) else None
    return [y, present]


@contrib("MultiHeadAttention", inputs=8, outputs=4, attrs="num_heads unidirectional scale mask_filter_value",
         beyond=("past_sequence_length", "cache_indirection"))
def multi_head_attention(b: Context, n: Node) -> Results:
    """Queries [B, S, heads * size], keys and values likewise, packed into one operand, or [B, heads, L, size]."""
    q, k, v = _separate(b, n, n[0], n.get(1), n.get(2), n.get(3))
    (k, length), (v, _) = after(b, n.get(6), k), after(b, n.get(7), v)
    causal = bool(n.attr("unidirectional", 0))
    mask, bias = n.get(4), n.get(5)
    y = merged_heads(b, attend(b, n, q, k, v, mask=mask, bias=bias, causal=causal, past=length))
    scores = None
    if n.wants(3):
        if causal:
            raise n.error("output 3, the scores, with unidirectional=1 is not supported")
        scores = scores_of(b, n, q, k, mask=mask, bias=bias, past=length)
    return [y, k, v, scores]


def _separate(b: Context, n: Node, q: Value, k: Value | None, v: Value | None, bias: Value | None
              ) -> tuple[Value, Value, Value]:
    """Queries, keys and values [B, heads, length, size], with the bias of their projections added."""
    count = n.attr("num_heads")
    if len(rank_of(q)) == 5:  # [B, L, heads, 3, size]
        parts = [_unpacked(b, p) for p in b.parts(q, 3, (1, 1, 1))]
        return _biased(b, parts, bias, count)
    if k is None:
        raise n.error("operand 1, the keys, is missing")
    if len(rank_of(k)) == 5:  # [B, L, heads, 2, size]
        parts = [split_heads(b, q, count), *(_unpacked(b, p) for p in b.parts(k, 3, (1, 1)))]
        return _biased(b, parts, bias, count)
    if v is None:
        raise n.error("operand 2, the values, is missing")
    if len(rank_of(k)) == 4:  # keys and values as a cache holds them have their bias already
        q = split_heads(b, q, count)
        if bias is not None:
            width = rank_of(q)[1] * rank_of(q)[3]
            q = _plus(b, q, b.cut(bias, 0, 0, width), count)
        return q, k, v
    parts = [split_heads(b, p, count) for p in (q, k, v)]
    return _biased(b, parts, bias, count)


def _unpacked(b: Context, x: Value) -> Value:
    """[B, L, heads, 1, size] as [B, heads, L, size]."""
    batch, length, heads, _, size = rank_of(x)
    return b.transpose(b.reshape(x, shape=(batch, length, heads, size)), perm=(0, 2, 1, 3))


def _biased(b: Context, parts: list[Value], bias: Value | None, count: int) -> tuple[Value, Value, Value]:
    q, k, v = parts
    if bias is None:
        return q, k, v
    sizes = [count * rank_of(p)[3] for p in parts]
    q, k, v = (_plus(b, p, piece, count) for p, piece in zip(parts, b.parts(bias, 0, sizes)))
    return q, k, v


def _plus(b: Context, x: Value, bias: Value, count: int) -> Value:
    return b.add(x, b.reshape(bias, shape=(1, count, 1, rank_of(x)[3])))


@contrib("DecoderMaskedMultiHeadAttention", inputs=11, outputs=4,
         attrs="num_heads scale mask_filter_value past_present_share_buffer output_qk")
def decoder_attention(b: Context, n: Node) -> Results:
    """One query: of its own keys and values behind the past ones, or of those that are given as a cache is.

    With `past_present_share_buffer` the past is a buffer with room behind `past_sequence_length` rows, and so is the present.
    """
    if (beams := n.get(8)) is not None and b.content(beams) is not None and n.number(8) == 1:
        beams = None
    if beams is not None:
        raise n.error("operand 8, beam_width, is not supported unless it is the constant 1")
    q, k, v = _separate(b, n, *_unpacked_step(b, n), n.get(10))
    mask, bias, past_k, past_v = n.get(3), n.get(4), n.get(5), n.get(6)
    if len(rank_of(n[0])) == 3 and n.get(1) is not None and len(rank_of(n[1])) == 4:  # cross attention
        y = attend(b, n, q, k, v, mask=mask, bias=bias, causal=False, past=0)
        scores = scores_of(b, n, q, k, mask=mask, bias=bias, past=0) if n.wants(3) else None
    elif n.attr("past_present_share_buffer", 0):
        if past_k is None or past_v is None or n.wants(3):
            raise n.error("past_present_share_buffer=1 without a past, or with the scores as a result, is not supported")
        at = b.reshape(b.to(n[7], I64), shape=(1, 1, 1, 1))
        room = rank_of(past_k)[2]
        here = b.equal(b.iota(shape=(1, 1, room, 1), axis=2, dtype=I64), at)
        k, v, scores = b.where(here, k, past_k), b.where(here, v, past_v), None
        seen = b.less_equal(b.iota(shape=(1, 1, 1, room), axis=3, dtype=I64), at)
        added = None if mask is None else padding(b, n, mask, rank_of(q)[0], 1, rank_of(mask)[-1], 0)
        for term in (added, bias):
            if term is not None:
                term = _widened(b, b.to(term, q.dtype), room)
                seen = b.where(seen, term, b.const(-np.inf, term.dtype)) if seen.dtype.kind == "bool" else b.add(seen, term)
        y = b.op("attention", [q, k, v, seen], {"scale": scale_of(n, rank_of(q)[3])}).result
    else:
        (k, length), (v, _) = after(b, past_k, k), after(b, past_v, v)
        y = attend(b, n, q, k, v, mask=mask, bias=bias, causal=False, past=length)
        scores = scores_of(b, n, q, k, mask=mask, bias=bias, past=length) if n.wants(3) else None
    y = merged_heads(b, y)
    return [y, k, v, scores]


def _unpacked_step(b: Context, n: Node) -> tuple[Value, Value | None, Value | None]:
    """Queries, keys and values where they are one operand, else as they are."""
    if n.get(1) is not None:
        return n[0], n.get(1), n.get(2)
    width, past_v = rank_of(n[0])[2], n.get(6)
    value = width // 3 if past_v is None else n.attr("num_heads") * rank_of(past_v)[3]
    q, k, v = b.parts(n[0], 2, ((width - value) // 2, (width - value) // 2, value))
    return q, k, v


def _widened(b: Context, term: Value, room: DimLike) -> Value:
    """Scores to add [..., T] for a buffer of `room` keys; those behind are not seen anyway."""
    shape = rank_of(term)
    if shape[3] == room:
        return term
    return b.concat(term, b.full(0, (*shape[:3], room - shape[3]), term.dtype), axis=3)
