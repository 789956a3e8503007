"""Rotary position embedding (Su et al. 2021), with the angles' cosines and sines in tables."""

from __future__ import annotations

from graphopt.capture.onnx.context import Context, Node, rank_of
from graphopt.capture.onnx.contrib.common import contrib, refuse
from graphopt.capture.onnx.table import Results
from graphopt.ir.graph import Value
from graphopt.ir.types import I64


@contrib("RotaryEmbedding", inputs=4, attrs="interleaved is_packed_batching num_heads rotary_embedding_dim scale")
def rotary_embedding(b: Context, n: Node) -> Results:
    """x is [B, S, heads * size] or [B, heads, S, size]. One position is that of the first element, else each has its own."""
    x, positions, cos, sin = n[0], n[1], n[2], n[3]
    refuse(n, "is_packed_batching")
    if n.attr("scale", 1.0) != 1.0:
        raise n.error(f"scale={n.attr('scale')} is not supported", "Set scale=1, and scale the tables instead")
    flat, turned, heads = len(rank_of(x)) == 3, n.attr("rotary_embedding_dim", 0), n.attr("num_heads", 0)
    if flat:
        batch, length, width = rank_of(x)
        if turned and not heads:
            raise n.error("rotary_embedding_dim without num_heads is not supported", "Set num_heads")
        half = rank_of(cos)[1]
        size = width // heads if heads else half * 2
        x = b.transpose(b.reshape(x, shape=(batch, length, width // size, size)), perm=(0, 2, 1, 3))
    y = turned_by(b, x, placed(b, positions, rank_of(x)[2]), cos, sin, bool(n.attr("interleaved", 0)))
    return b.reshape(b.transpose(y, perm=(0, 2, 1, 3)), shape=(batch, length, width)) if flat else y


def placed(b: Context, positions: Value, length: object) -> Value:
    """Positions [B, S], or [1, S] counting from one position for all."""
    if len(rank_of(positions)) == 2:
        return positions
    steps = b.iota(shape=(1, length), axis=1, dtype=I64)
    return b.add(steps, b.reshape(b.to(positions, I64), shape=(1, 1)))


def turned_by(b: Context, x: Value, positions: Value, cos: Value, sin: Value, interleaved: bool) -> Value:
    """The first elements of every head of x [B, heads, S, size], as many as the tables [positions, half] have, turned pairwise.

    A pair is (i, i + half), or (2i, 2i + 1) where `interleaved`.
    """
    batch, heads, length, size = rank_of(x)
    half = rank_of(cos)[1]
    c, s = (b.unsqueezed(b.gather(t, positions, axis=0), [1]) for t in (cos, sin))
    rest = None
    if 2 * half != size:
        x, rest = b.parts(x, 3, (2 * half, size - 2 * half))
    if interleaved:
        pairs = b.reshape(x, shape=(batch, heads, length, half, 2))
        left, right = (b.reshape(v, shape=(batch, heads, length, half)) for v in b.parts(pairs, 4, (1, 1)))
    else:
        left, right = b.parts(x, 3, (half, half))
    new = [b.sub(b.mul(left, c), b.mul(right, s)), b.add(b.mul(left, s), b.mul(right, c))]
    if interleaved:
        y = b.reshape(b.concat(*(b.unsqueezed(v, [4]) for v in new), axis=4), shape=(batch, heads, length, 2 * half))
    else:
        y = b.concat(*new, axis=3)
    return y if rest is None else b.concat(y, rest, axis=3)
