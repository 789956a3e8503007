"""Operators that only move elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphopt.capture.torch.context import Context, Refusal, axes_of, axis_of, product
from graphopt.capture.torch.table import aten
from graphopt.ir.dims import Dim, DimLike, ceil_div
from graphopt.ir.graph import Value
from graphopt.ir.types import I64

_END = 2**62  # beyond any size: torch writes sys.maxsize for an open slice


@aten("aten.view.default", "aten.reshape.default", "aten._unsafe_view.default", "aten._reshape_alias.default",
      "aten.flatten.using_ints", "aten.unflatten.int", "aten.squeeze.default", "aten.squeeze.dim", "aten.squeeze.dims",
      "aten.unsqueeze.default", "aten.view_as.default", "aten.reshape_as.default", "aten.ravel.default",
      "prims.collapse_view.default", "aten.squeeze_copy.dims", "aten.unsqueeze_copy.default", "aten.view_copy.default")
def _(c: Context, x: Value) -> Value:
    return c.reshape(x, c.shape)


@aten("aten.expand.default", "aten.expand_as.default", "aten.broadcast_to.default", "aten.expand_copy.default")
def _(c: Context, x: Value) -> Value:
    return c.expand(x, c.shape)


@aten("aten.permute.default", "aten.permute_copy.default")
def _(c: Context, x: Value, dims: Sequence[int]) -> Value:
    return c.permute(x, [d % x.rank for d in dims])


@aten("aten.transpose.int", "aten.transpose_copy.int")
def _(c: Context, x: Value, dim0: int, dim1: int) -> Value:
    return c.swap(x, axis_of(dim0, x.rank), axis_of(dim1, x.rank)) if x.rank else x


@aten("aten.t.default", "aten.mT.default")
def _(c: Context, x: Value) -> Value:
    return c.swap(x, x.rank - 2, x.rank - 1) if x.rank > 1 else x


@aten("aten.movedim.int", "aten.movedim.intlist")
def _(c: Context, x: Value, source: Any, destination: Any) -> Value:
    source = [s % x.rank for s in ([source] if isinstance(source, int) else source)]
    destination = [d % x.rank for d in ([destination] if isinstance(destination, int) else destination)]
    order = [a for a in range(x.rank) if a not in source]
    for d, s in sorted(zip(destination, source)):
        order.insert(d, s)
    return c.permute(x, order)


@aten("aten.copy.default")
def _(c: Context, src: Value) -> Value:
    return c.expand(c.cast(src, c.dtype), c.shape)


# Slices ---------------------------------------------------------------------------------------
@aten("aten.slice.Tensor", "aten.slice_copy.Tensor")
def _(c: Context, x: Value, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Value:
    axis = axis_of(dim, x.rank)
    size = x.shape[axis]
    low, high = _bounds(size, start, end)
    if isinstance(size, Dim):
        low, high = _clamped(size, low, high, step, c.shape[axis])
    return c.slice(x, axis, low, high, step, c.shape[axis])


def _clamped(size: DimLike, low: DimLike, high: DimLike, step: int, extent: DimLike) -> tuple[DimLike, DimLike]:
    """The bounds of a slice of an axis of unknown size; those that lie outside of it by torch's guards, which show in the size
    that it gives the result, are at its edge: x[-8:] of at most 7 elements is x[0:]."""
    for first, last in ((low, high), (0, high), (low, size), (0, size), (low, 0)):
        if extent == (0 if last == 0 else ceil_div(last - first, step)):
            return first, last
    return low, high


def _bounds(size: DimLike, start: Any, end: Any) -> tuple[DimLike, DimLike]:
    """Python's slice bounds counted from the front; dims are non-negative, as torch's guards have it."""
    start = 0 if start is None else start
    end = size if end is None or (isinstance(end, int) and end >= _END) else end
    start = _from_front(start, size)
    end = _from_front(end, size)
    if isinstance(end, int) and isinstance(size, int):
        end = min(end, size)
    return start, end


def _from_front(at: Any, size: DimLike) -> DimLike:
    negative = at < 0 if isinstance(at, int) else _is_negative(at)
    if negative:
        at = at + size
    return max(at, 0) if isinstance(at, int) else at


def _is_negative(d: Dim) -> bool:
    """Whether every coefficient is negative: -N, but not N - 1."""
    return all(c < 0 for _, c in d.terms)


@aten("aten.select.int", "aten.select_copy.int")
def _(c: Context, x: Value, dim: int, index: Any) -> Value:
    axis = axis_of(dim, x.rank)
    if isinstance(index, Value):
        return c.b.gather(x, c.reshape(index, ()), axis=axis)
    at = _from_front(index, x.shape[axis])
    return c.reshape(c.slice(x, axis, at, at + 1), c.shape)


@aten("aten.narrow.default", "aten.narrow_copy.default")
def _(c: Context, x: Value, dim: int, start: Any, length: Any) -> Value:
    axis = axis_of(dim, x.rank)
    at = _from_front(start, x.shape[axis])
    return c.slice(x, axis, at, at + length)


@aten("aten.slice_scatter.default")
def _(c: Context, x: Value, src: Value, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Value:
    axis = axis_of(dim, x.rank)
    size = x.shape[axis]
    start, end = _bounds(size, start, end)
    if step == 1:
        end = start + src.shape[axis]
        parts = [c.slice(x, axis, 0, start)] if start != 0 else []
        parts.append(c.cast(src, x.dtype))
        if end != size:
            parts.append(c.slice(x, axis, end, size))
        return c.concat(parts, axis)
    at = c.b.add(c.b.mul(c.b.iota(shape=(src.shape[axis],), axis=0, dtype=I64), c.scalar(step, I64)), c.scalar(start, I64))
    at = c.expand(c.reshape(at, (src.shape[axis], *[1] * (x.rank - axis - 1))), src.shape)
    return c.b.scatter_elements(x, at, c.cast(src, x.dtype), axis=axis)


@aten("aten.select_scatter.default")
def _(c: Context, x: Value, src: Value, dim: int, index: Any) -> Value:
    axis = axis_of(dim, x.rank)
    at, size = _from_front(index, x.shape[axis]), x.shape[axis]
    parts = [c.slice(x, axis, 0, at)] if at != 0 else []
    parts.append(c.unsqueeze(c.cast(src, x.dtype), axis))
    if at + 1 != size:
        parts.append(c.slice(x, axis, at + 1, size))
    return c.concat(parts, axis)


# Joining and splitting ------------------------------------------------------------------------
@aten("aten.cat.default", "aten.concat.default")
def _(c: Context, tensors: Sequence[Value], dim: int = 0) -> Value:
    kept = [t for t in tensors if not (t.rank == 1 and len(c.shape) > 1 and t.shape[0] == 0)]  # torch skips empty 1-D tensors
    return c.concat([c.cast(t, c.dtype) for t in kept], axis_of(dim, len(c.shape)))


@aten("aten.stack.default")
def _(c: Context, tensors: Sequence[Value], dim: int = 0) -> Value:
    axis = axis_of(dim, len(c.shape))
    return c.concat([c.unsqueeze(c.cast(t, c.dtype), axis) for t in tensors], axis)


@aten("aten.split.Tensor", "aten.split_with_sizes.default", "aten.chunk.default", "aten.unsafe_chunk.default",
      "aten.split.sizes", "aten.unsafe_split.Tensor", "aten.unsafe_split_with_sizes.default",
      "aten.split_with_sizes_copy.default",
      "aten.tensor_split.sections", "aten.tensor_split.indices", "aten.split_copy.Tensor")
def _(c: Context, x: Value, dim: int = 0) -> Any:
    axis = axis_of(dim, x.rank)
    sizes = [c.type(v).shape[axis] for v in c.val]  # type: ignore[index]
    if len(sizes) == 1:
        return (x,)
    parts = c.b.split(x, axis=axis, sizes=sizes)
    return tuple(parts) if isinstance(parts, (tuple, list)) else (parts,)


@aten("aten.unbind.int", "aten.unbind_copy.int")
def _(c: Context, x: Value, dim: int = 0) -> Any:
    axis = axis_of(dim, x.rank)
    return tuple(c.reshape(c.slice(x, axis, i, i + 1), c.type(v).shape) for i, v in enumerate(c.val))  # type: ignore[arg-type]


# Repeats, flips, rolls ------------------------------------------------------------------------
@aten("aten.repeat.default", "aten.tile.default")
def _(c: Context, x: Value, repeats: Any = None, dims: Any = None) -> Value:
    times = list(repeats if repeats is not None else dims)
    rank = max(len(times), x.rank)
    times = [1] * (rank - len(times)) + times
    x = c.reshape(x, (*[1] * (rank - x.rank), *x.shape))
    if all(t == 1 for t in times):
        return x
    if all(t == 1 or s == 1 for t, s in zip(times, x.shape)):
        return c.expand(x, c.shape)
    if all(isinstance(t, int) for t in times):
        return c.b.tile(x, repeats=times)
    wide = c.reshape(x, [d for s in x.shape for d in (1, s)])
    return c.reshape(c.expand(wide, [d for t, s in zip(times, x.shape) for d in (t, s)]), c.shape)


@aten("aten.repeat_interleave.self_int")
def _(c: Context, x: Value, repeats: Any, dim: int | None = None) -> Value:
    if dim is None:
        x, dim = c.reshape(x, (product(x.shape),)), 0
    axis = axis_of(dim, x.rank)
    wide = c.expand(c.unsqueeze(x, axis + 1), (*x.shape[:axis + 1], repeats, *x.shape[axis + 1:]))
    return c.reshape(wide, c.shape)


@aten("aten.flip.default")
def _(c: Context, x: Value, dims: Sequence[int]) -> Value:
    return c.b.flip(x, axes=axes_of(dims, x.rank)) if dims else x


@aten("aten.roll.default")
def _(c: Context, x: Value, shifts: Sequence[int], dims: Sequence[int] = ()) -> Value:
    if not dims:
        return c.reshape(_roll(c, c.reshape(x, (product(x.shape),)), shifts[0], 0), x.shape)
    for shift, dim in zip(shifts, dims):
        x = _roll(c, x, shift, axis_of(dim, x.rank))
    return x


def _roll(c: Context, x: Value, shift: Any, axis: int) -> Value:
    size = x.shape[axis]
    if isinstance(size, int) and isinstance(shift, int):
        shift = shift % size if size else 0
    if shift == 0:
        return x
    at = _from_front(shift * -1, size)
    return c.concat([c.slice(x, axis, at, size), c.slice(x, axis, 0, at)], axis)


# Padding --------------------------------------------------------------------------------------
@aten("aten.constant_pad_nd.default")
def _(c: Context, x: Value, pad: Sequence[int], value: Any = 0) -> Value:
    return _pad(c, x, pad, "constant", value)


@aten("aten.pad.default")
def _(c: Context, x: Value, pad: Sequence[int], mode: str = "constant", value: Any = None) -> Value:
    ours = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode]
    return _pad(c, x, pad, ours, 0 if value is None else value)


@aten("aten.reflection_pad1d.default", "aten.reflection_pad2d.default", "aten.reflection_pad3d.default")
def _(c: Context, x: Value, padding: Sequence[int]) -> Value:
    return _pad(c, x, padding, "reflect")


@aten("aten.replication_pad1d.default", "aten.replication_pad2d.default", "aten.replication_pad3d.default")
def _(c: Context, x: Value, padding: Sequence[int]) -> Value:
    return _pad(c, x, padding, "edge")


def _pad(c: Context, x: Value, pad: Sequence[Any], mode: str, value: Any = None) -> Value:
    """torch lists (before, after) from the last axis on."""
    before, after = [0] * x.rank, [0] * x.rank
    for i in range(len(pad) // 2):
        before[x.rank - 1 - i], after[x.rank - 1 - i] = pad[2 * i], pad[2 * i + 1]
    if not any(before) and not any(after):
        return x
    if mode == "edge" and any(isinstance(p, int) and p < 0 for p in pad):  # the edge of the whole, not of what is left of it
        for axis, (b, e) in enumerate(zip(before, after)):
            if b or e:
                n = x.shape[axis]
                if not (isinstance(n, int) and isinstance(b, int) and isinstance(e, int)):
                    raise Refusal("symbolic padding other than with a constant")
                x = c.b.gather(x, c.b.const(np.clip(np.arange(-b, n + e), 0, n - 1)), axis=axis)
        return x
    if all(isinstance(p, int) for p in pad):
        fill = c.operand(value, x.dtype) if mode == "constant" and value not in (None, 0) else None
        return c.b.pad(x, fill, pads=[*before, *after], mode=mode)
    if mode != "constant":
        raise Refusal("symbolic padding other than with a constant")
    for axis in range(x.rank):  # a symbolic amount: join with filled pieces
        parts = [x]
        for amount, place in ((before[axis], 0), (after[axis], len(parts))):
            if amount != 0:
                shape = (*x.shape[:axis], amount, *x.shape[axis + 1:])
                parts.insert(place if place == 0 else len(parts), c.full(value or 0, shape, x.dtype))
        x = c.concat(parts, axis)
    return x


# Windows and diagonals ------------------------------------------------------------------------
@aten("aten.unfold.default", "aten.unfold_copy.default")
def _(c: Context, x: Value, dimension: int, size: int, step: int) -> Value:
    if x.rank == 0:  # its one element, or none
        return c.full(c.reshape(x, ()), c.shape, x.dtype)
    axis = axis_of(dimension, x.rank)
    length = x.shape[axis]
    if not isinstance(length, int):
        raise Refusal("windows over a symbolic dim")
    starts = np.arange(0, length - size + 1, step)
    windows = c.b.gather(x, c.b.const((starts[:, None] + np.arange(size)).astype(np.int64)), axis=axis)
    return c.permute(windows, [a for a in range(windows.rank) if a != axis + 1] + [axis + 1])


@aten("aten.as_strided.default", "aten.as_strided_copy.default")
def _(c: Context, x: Value, size: Sequence[Any], stride: Sequence[Any], storage_offset: Any = None) -> Value:
    """Gathers from the flat input; the strides are those of a contiguous input."""
    if not all(isinstance(v, int) for v in (*size, *stride, *x.shape)):
        raise Refusal("symbolic sizes")
    offsets = np.full((), storage_offset or 0, np.int64)
    for n, s in zip(size, stride):
        offsets = offsets[..., None] + np.arange(n) * s
    return c.b.gather(c.reshape(x, (product(x.shape),)), c.b.const(offsets), axis=0)


@aten("aten.as_strided_scatter.default")
def _(c: Context, x: Value, src: Value, size: Sequence[Any], stride: Sequence[Any], storage_offset: Any = None) -> Value:
    """`src` into the places of the flat input that as_strided looks at; where two coincide the last one stays."""
    if not all(isinstance(v, int) for v in (*size, *stride, *x.shape)):
        raise Refusal("symbolic sizes")
    count = product(size)
    if count == 0:
        return x
    offsets = np.full((), storage_offset or 0, np.int64)
    for n, s in zip(size, stride):
        offsets = offsets[..., None] + np.arange(n) * s
    flat, updates = c.reshape(x, (product(x.shape),)), c.reshape(c.cast(src, x.dtype), (count,))
    return c.reshape(c.b.scatter_elements(flat, c.b.const(offsets.reshape(-1)), updates, axis=0), x.shape)


def _diagonal(x: Value, offset: int, dim1: int, dim2: int) -> tuple[list[int], np.ndarray]:
    """The order of axes that has the two of a diagonal last, and its places in those two as one."""
    a, b = axis_of(dim1, x.rank), axis_of(dim2, x.rank)
    rows, columns = x.shape[a], x.shape[b]
    if not (isinstance(rows, int) and isinstance(columns, int)):
        raise Refusal("the diagonal of symbolic dims")
    r0, c0 = max(-offset, 0), max(offset, 0)
    along = np.arange(max(min(rows - r0, columns - c0), 0))
    return [i for i in range(x.rank) if i not in (a, b)] + [a, b], (along + r0) * columns + along + c0


@aten("aten.diagonal.default", "aten.diagonal_copy.default")
def _(c: Context, x: Value, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Value:
    order, places = _diagonal(x, offset, dim1, dim2)
    x = c.permute(x, order)
    flat = c.reshape(x, (*x.shape[:-2], product(x.shape[-2:])))
    return c.b.gather(flat, c.b.const(places), axis=flat.rank - 1)


@aten("aten.diagonal_scatter.default")
def _(c: Context, x: Value, src: Value, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Value:
    """Every place takes the input's element, or that of `src` which lies there."""
    order, places = _diagonal(x, offset, dim1, dim2)
    if not len(places):
        return x
    moved = c.permute(x, order)
    shape = (*moved.shape[:-2], product(moved.shape[-2:]))
    taken = np.full(shape[-1], -1, np.int64)  # type: ignore[arg-type]  # static, as `_diagonal` asks
    taken[places] = np.arange(len(places))
    from_src = c.b.gather(c.cast(src, x.dtype), c.b.const(np.maximum(taken, 0)), axis=src.rank - 1)
    out = c.b.where(c.b.const(taken >= 0), from_src, c.reshape(moved, shape))
    return c.permute(c.reshape(out, moved.shape), [int(a) for a in np.argsort(order)])


@aten("aten.tril.default")
def _(c: Context, x: Value, diagonal: int = 0) -> Value:
    return _triangle(c, x, "less_equal", diagonal)


@aten("aten.triu.default")
def _(c: Context, x: Value, diagonal: int = 0) -> Value:
    return _triangle(c, x, "greater_equal", diagonal)


def _triangle(c: Context, x: Value, keep: str, diagonal: Any) -> Value:
    rows, columns = x.shape[-2:]
    row = c.b.iota(shape=(rows, 1), axis=0, dtype=I64)
    if diagonal != 0:
        row = c.b.add(row, c.scalar(diagonal, I64))
    mask = getattr(c.b, keep)(c.b.iota(shape=(1, columns), axis=1, dtype=I64), row)
    return c.b.where(mask, x, c.scalar(0, x.dtype))


@aten("aten.pixel_shuffle.default")
def _(c: Context, x: Value, upscale_factor: int) -> Value:
    *outer, channels, h, w = x.shape
    r, n = upscale_factor, len(outer)
    x = c.reshape(x, (*outer, channels // (r * r), r, r, h, w))
    return c.reshape(c.permute(x, (*range(n), n, n + 3, n + 1, n + 4, n + 2)), c.shape)


@aten("aten.pixel_unshuffle.default")
def _(c: Context, x: Value, downscale_factor: int) -> Value:
    *outer, channels, h, w = x.shape
    r, n = downscale_factor, len(outer)
    x = c.reshape(x, (*outer, channels, h // r, r, w // r, r))
    return c.reshape(c.permute(x, (*range(n), n, n + 2, n + 4, n + 1, n + 3)), c.shape)


@aten("aten.channel_shuffle.default", "aten.native_channel_shuffle.default")
def _(c: Context, x: Value, groups: int) -> Value:
    n, channels, *spatial = x.shape
    wide = c.reshape(x, (n, groups, channels // groups, *spatial))
    return c.reshape(c.swap(wide, 1, 2), c.shape)


@aten("aten.glu.default")
def _(c: Context, x: Value, dim: int = -1) -> Value:
    axis = axis_of(dim, x.rank)
    half = x.shape[axis] // 2
    return c.b.mul(c.slice(x, axis, 0, half), c.b.sigmoid(c.slice(x, axis, half, x.shape[axis])))


@aten("aten.im2col.default")
def _(c: Context, x: Value, kernel_size: Sequence[int], dilation: Sequence[int], padding: Sequence[int],
      stride: Sequence[int]) -> Value:
    *outer, _, h, w = x.shape
    if not (isinstance(h, int) and isinstance(w, int)):
        raise Refusal("symbolic image sizes")
    n = len(outer)
    x = _pad(c, x, (padding[1], padding[1], padding[0], padding[0]), "constant", 0)
    for axis, size, k, d, s in ((n + 1, h + 2 * padding[0], kernel_size[0], dilation[0], stride[0]),
                                (n + 3, w + 2 * padding[1], kernel_size[1], dilation[1], stride[1])):
        starts = np.arange(0, size - d * (k - 1), s)
        x = c.b.gather(x, c.b.const(np.arange(k)[:, None] * d + starts), axis=axis)
    return c.reshape(c.permute(x, (*range(n + 2), n + 3, n + 2, n + 4)), c.shape)  # [.., C, kh, kw, oh, ow]


@aten("aten.col2im.default")
def _(c: Context, x: Value, output_size: Sequence[int], kernel_size: Sequence[int], dilation: Sequence[int],
      padding: Sequence[int], stride: Sequence[int]) -> Value:
    batched = x if x.rank == 3 else c.unsqueeze(x, 0)
    image = c.b.col2im(batched, image=output_size, block=kernel_size, stride=stride, pad=[*padding, *padding], dilation=dilation)
    return c.reshape(image, c.shape)


