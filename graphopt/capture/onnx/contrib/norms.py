"""Normalisations with what stands before them."""

from __future__ import annotations

from graphopt.capture.onnx.context import Context, Node, rank_of
from graphopt.capture.onnx.contrib.common import channels_first, channels_last, contrib
from graphopt.capture.onnx.ops.norm import inverse_size, statistics
from graphopt.capture.onnx.table import Results
from graphopt.ir.graph import Value
from graphopt.ir.types import F32, I32


@contrib("SkipLayerNormalization", inputs=5, outputs=4, attrs="epsilon")
def skip_layer_norm(b: Context, n: Node) -> Results:
    """The layer norm of x + skip + bias, its mean and 1 / deviation, and the sum itself."""
    total = _sum(b, n[0], n[1], n.get(4))
    eps = n.attr("epsilon", 1e-12)
    axis = len(rank_of(total)) - 1
    y = b.layer_norm(total, n[2], n.get(3), axis=axis, eps=eps)
    mean = inverse = None
    if n.wants(1) or n.wants(2):
        mean, inverse = statistics(b, _wide(b, total), axis, eps)
    return [y, mean, inverse, total]


@contrib("SkipSimplifiedLayerNormalization", inputs=4, outputs=4, attrs="epsilon")
def skip_rms_norm(b: Context, n: Node) -> Results:
    """The same without subtracting the mean."""
    total = _sum(b, n[0], n[1], n.get(3))
    eps = n.attr("epsilon", 1e-12)
    if n.wants(1):
        raise n.error("output 1, the mean, is not supported: there is none")
    axis = len(rank_of(total)) - 1
    y = b.rms_norm(total, n[2], axis=axis, eps=eps)
    return [y, None, inverse_size(b, _wide(b, total), axis, eps) if n.wants(2) else None, total]


def _sum(b: Context, x: Value, skip: Value, bias: Value | None) -> Value:
    total = b.add(x, skip)
    return total if bias is None else b.add(total, bias)


def _wide(b: Context, x: Value) -> Value:
    """Statistics are f32 at least."""
    return b.to(x, F32) if x.dtype.bits < 32 else x


@contrib("SimplifiedLayerNormalization", inputs=2, outputs=2, attrs="axis epsilon stash_type", domain="")
def rms_norm(b: Context, n: Node) -> Results:
    """x / sqrt(mean(x^2) + epsilon) * scale over the axes from `axis` on, in the scale's dtype. It stands in ONNX's domain."""
    x, scale = n[0], n[1]
    axis, eps = n.axis(-1, len(rank_of(x))), n.attr("epsilon", 1e-5)
    if n.attr("stash_type", 1) != 1:
        raise n.error(f"stash_type={n.attr('stash_type')} is not supported", "Statistics are f32: set stash_type=1")
    wide = _wide(b, x)
    same = scale.dtype is x.dtype
    y = b.rms_norm(x, scale, axis=axis, eps=eps) if same else b.to(b.rms_norm(wide, b.to(scale, wide.dtype), axis=axis, eps=eps),
                                                                  scale.dtype)
    if not n.wants(1):
        return y
    return [y, inverse_size(b, wide, axis, eps)]


@contrib("EmbedLayerNormalization", inputs=9, outputs=3, attrs="epsilon mask_index_type")
def embed_layer_norm(b: Context, n: Node) -> Results:
    return embedded(b, n, words=n[2], positions=n[3], segments=n.get(4), gamma=n[5], beta=n[6], mask=n.get(7),
                    position_ids=n.get(8))


def embedded(b: Context, n: Node, *, words: Value, positions: Value, segments: Value | None, gamma: Value, beta: Value,
             mask: Value | None, position_ids: Value | None) -> list[Value | None]:
    """The layer norm of word + position (+ segment) embeddings, how many of each mask's elements are 1, and the sum.

    Operands 0 and 1 are the ids of words and segments. Without position ids positions count from 0.
    """
    ids, segment_ids = n[0], n.get(1)
    batch, length = rank_of(ids)
    if position_ids is None:
        where = b.cut(positions, 0, 0, length)
    else:
        where = b.gather(positions, position_ids, axis=0)
    total = b.add(b.gather(words, ids, axis=0), where)
    if segments is not None and segment_ids is not None:
        total = b.add(total, b.gather(segments, segment_ids, axis=0))
    y = b.layer_norm(total, gamma, beta, axis=2, eps=n.attr("epsilon", 1e-12))
    count = None
    if n.wants(1):
        count = b.full(0, (batch,), I32) if mask is None else \
            b.reduce_sum(b.cast(b.equal(mask, 1), to=I32), axes=(1,), keepdims=False)
    return [y, count, total]


@contrib("GroupNorm", inputs=3, attrs="channels_last activation groups epsilon")
def group_norm(b: Context, n: Node) -> Results:
    return _grouped(b, n, n[0])


@contrib("SkipGroupNorm", inputs=5, outputs=2, attrs="channels_last activation groups epsilon")
def skip_group_norm(b: Context, n: Node) -> Results:
    """The group norm of x + skip + bias, and the sum itself. A skip [N, C] holds for all pixels."""
    x, skip = n[0], n[3]
    last = n.attr("channels_last", 1)
    if len(rank_of(skip)) == 2:
        batch, channels = rank_of(skip)
        skip = b.reshape(skip, shape=(batch, 1, 1, channels) if last else (batch, channels, 1, 1))
    total = b.add(x, skip)
    if (bias := n.get(4)) is not None:
        total = b.add(total, bias if last else b.channelwise(bias, len(rank_of(x))))
    return [_grouped(b, n, total), total]


def _grouped(b: Context, n: Node, x: Value) -> Value:
    """Images are channels last unless the attribute says otherwise. Scale and shift may be wider than x."""
    last, activation = n.attr("channels_last", 1), n.attr("activation")
    if activation not in (0, 1):
        raise n.error(f"activation={activation} is not supported", "0 is none, 1 is SiLU")
    wide = n[1].dtype if n[1].dtype.bits > x.dtype.bits else x.dtype
    given = channels_first(b, x) if last else x
    y = b.group_norm(b.to(given, wide), b.to(n[1], wide), b.to(n[2], wide), groups=n.attr("groups"), eps=n.attr("epsilon", 1e-5))
    y = b.to(b.silu(y) if activation else y, x.dtype)
    return channels_last(b, y) if last else y
