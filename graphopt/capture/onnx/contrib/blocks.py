"""Weights of 2, 4 and 8 bits with a scale for each block, dequantised where they are used."""

from __future__ import annotations

import numpy as np

from graphopt.capture.onnx.context import Context, Node, rank_of, static_shape
from graphopt.capture.onnx.contrib.common import contrib, refuse
from graphopt.capture.onnx.ops.contract import product_of
from graphopt.capture.onnx.table import Results
from graphopt.ir.graph import Value
from graphopt.ir.table import normalise_axis
from graphopt.ir.types import F32, I32, U8

NF4 = (-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
       -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
       0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0)
FP4 = (0.0, 0.005208333333333333, 0.6666666666666667, 1.0, 0.3333333333333333, 0.5, 0.1666666666666667, 0.25)


def unpacked(b: Context, x: Value, bits: int) -> Value:
    """Bytes [..., n] as i32 [..., n * 8 / bits], the low bits first."""
    if bits == 8:
        return b.to(x, I32)
    *lead, width = rank_of(x)
    count = 8 // bits
    shifts = b.const(np.arange(0, 8, bits, dtype=np.uint8))
    parts = b.bit_and(b.shift_right(b.unsqueezed(x, [len(lead) + 1]), shifts), b.const((1 << bits) - 1, U8))
    return b.reshape(b.cast(parts, to=I32), shape=(*lead, width * count))


@contrib("MatMulNBits", inputs=6, attrs="K N bits block_size accuracy_level weight_prepacked")
def matmul_nbits(b: Context, n: Node) -> Results:
    """A W^T + bias, W [N, K] of `bits` bits in blocks along K. `accuracy_level` allows less precision than f32, never needed."""
    x, packed, scales, zeros, groups, bias = n[0], n[1], n[2], n.get(3), n.get(4), n.get(5)
    bits, block, columns, depth = n.attr("bits", 4), n.attr("block_size"), n.attr("N"), n.attr("K")
    refuse(n, "weight_prepacked")
    if bits not in (2, 4, 8):
        raise n.error(f"bits={bits} is not supported", "Known are 2, 4 and 8")
    count = -(-depth // block)
    if 0 in static_shape(packed):  # an omitted projection
        y = b.full(0, (*rank_of(x)[:-1], columns), x.dtype)
        return y if bias is None else b.add(y, bias)
    w = b.reshape(unpacked(b, b.reshape(packed, shape=(columns, count, block * bits // 8)), bits), shape=(columns, count * block))
    w = b.cut(w, 1, 0, depth) if count * block != depth else w
    scale = b.reshaped(scales, (columns, count))
    zero = _zero_points(b, zeros, bits, columns, count)
    if groups is not None:  # the block that each row of W^T is of
        scale = b.gather(scale, groups, axis=1)
        zero = zero if zero is None else b.gather(zero, groups, axis=1)
    elif isinstance(zero, Value):
        zero = _repeated(b, zero, columns, count, block, depth)
    if groups is None:
        scale = _repeated(b, scale, columns, count, block, depth)
    wide = F32 if x.dtype.bits < 32 else x.dtype
    difference = b.sub(b.cast(w, to=wide), float(1 << (bits - 1)) if zero is None else b.to(zero, wide))
    weight = b.mul(difference, b.to(scale, wide))
    y = b.to(product_of(b, b.to(x, wide), b.transpose(weight, perm=(1, 0))), x.dtype)
    return y if bias is None else b.add(y, bias)


def _zero_points(b: Context, zeros: Value | None, bits: int, columns: int, count: int) -> Value | None:
    """[N, blocks]: packed as the weights are where they are bytes, or floats."""
    if zeros is None:
        return None
    if zeros.dtype is not U8:
        return b.reshaped(zeros, (columns, count))
    width = -(-count * bits // 8)
    z = unpacked(b, b.reshaped(zeros, (columns, width)), bits)
    return b.cut(z, 1, 0, count) if width * 8 // bits != count else z


def _repeated(b: Context, v: Value, columns: int, count: int, block: int, depth: int) -> Value:
    """[N, blocks] as [N, K]."""
    wide = b.reshape(b.expand(b.reshape(v, shape=(columns, count, 1)), shape=(columns, count, block)),
                     shape=(columns, count * block))
    return b.cut(wide, 1, 0, depth) if count * block != depth else wide


@contrib("MatMulBnb4", inputs=3, attrs="K N block_size quant_type training_mode transB")
def matmul_bnb4(b: Context, n: Node) -> Results:
    """W is flat [N * K], two to a byte with the first in the high bits, values of a table times their block's largest."""
    x, packed, largest = n[0], n[1], n[2]
    depth, columns, block = n.attr("K"), n.attr("N"), n.attr("block_size")
    kind = n.attr("quant_type")
    if kind not in (0, 1):
        raise n.error(f"quant_type={kind} is not supported", "0 is FP4, 1 is NF4")
    table = np.array(NF4 if kind else [*FP4, *(-v for v in FP4)], dtype=np.float32)
    size = depth * columns
    nibbles = unpacked(b, b.reshape(packed, shape=(-(-size // 2), 1)), 4)
    codes = b.cut(b.reshape(b.flip(nibbles, axes=(1,)), shape=(-(-size // 2) * 2,)), 0, 0, size)
    count = -(-size // block)
    scale = b.cut(b.reshape(b.expand(b.reshape(b.to(largest, F32), shape=(count, 1)), shape=(count, block)),
                            shape=(count * block,)), 0, 0, size)
    weight = b.reshape(b.mul(b.gather(b.const(table), codes, axis=0), scale), shape=(columns, depth))
    if n.attr("transB", 1):
        weight = b.transpose(weight, perm=(1, 0))
    return b.to(product_of(b, b.to(x, F32), weight), x.dtype)


@contrib("GatherBlockQuantized", inputs=4, attrs="bits block_size gather_axis quantize_axis")
def gather_block_quantized(b: Context, n: Node) -> Results:
    """Gather, then dequantise what was gathered; an index out of range gives zeros."""
    data, indices, scales, zeros = _in_bytes(b, n[0]), n[1], n[2], n.get(3)
    zeros = None if zeros is None else _in_bytes(b, zeros)
    bits, block = n.attr("bits", 4), n.attr("block_size", 128)
    packed = n[0].dtype is U8
    rank = len(rank_of(data))
    axis, blocked = normalise_axis(n.attr("gather_axis", 0), rank), normalise_axis(n.attr("quantize_axis", 1), rank)
    if data.dtype.is_float:
        raise n.error(f"data of {data.dtype} is not supported", "Integers of 2, 4 and 8 bits are")
    if axis == blocked:
        raise n.error(f"gather_axis={axis} is also the quantised one, which is not supported")
    size = rank_of(data)[axis]
    if not isinstance(size, int):
        raise n.error("a table whose size is not known is not supported")
    seen = b.and_(b.greater_equal(indices, -size), b.less(indices, size))
    place = b.where(seen, indices, b.const(0, indices.dtype))
    x, scale = b.gather(data, place, axis=axis), b.gather(scales, place, axis=axis)
    zero = None if zeros is None else b.gather(zeros, place, axis=axis)
    added = len(rank_of(indices)) - 1
    blocked += added if blocked > axis else 0
    if packed and bits < 8:
        x = unpacked(b, x, bits)
        zero = None if zero is None else unpacked(b, zero, bits)
    out = rank_of(x)
    blocks = rank_of(scale)[blocked]
    width = out[blocked]
    if not isinstance(blocks, int) or not isinstance(width, int):
        raise n.error("a table whose size is not known is not supported")
    shift: Value | float = float(1 << (bits - 1)) if packed else 0.0
    if zero is not None:
        zero = b.cut(zero, blocked, 0, blocks) if rank_of(zero)[blocked] != blocks else zero
        shift = _spread(b, b.cast(zero, to=F32), blocked, block, width)
    wide = b.sub(b.cast(x, to=F32), shift) if zero is not None or packed else b.cast(x, to=F32)
    y = b.mul(wide, _spread(b, b.to(scale, F32), blocked, block, width))
    where = b.reshape(seen, shape=(*[1] * axis, *rank_of(indices), *[1] * (rank - 1 - axis)))
    return b.to(b.where(where, y, b.const(0, F32)), scales.dtype)


def _in_bytes(b: Context, x: Value) -> Value:
    """Constants of 2 and 4 bits with a byte for each: kernels gather bytes."""
    content = b.content(x) if x.dtype.bits < 8 and x.dtype.is_integer else None
    return x if content is None else b.const(content.astype(np.int8 if x.dtype.kind == "int" else np.uint8))


def _spread(b: Context, v: Value, axis: int, block: int, size: int) -> Value:
    """Each element of an axis `block` times, cut to `size`."""
    dims = list(rank_of(v))
    apart = b.unsqueezed(v, [axis + 1])
    grown = b.expand(apart, shape=(*dims[:axis + 1], block, *dims[axis + 1:]))
    dims[axis] = dims[axis] * block
    flat = b.reshape(grown, shape=dims)
    return flat if dims[axis] == size else b.cut(flat, axis, 0, size)
