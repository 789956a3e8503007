"""Data movement: every result element is a copy of one operand element, or a constant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphopt.errors import IRError
from graphopt.ir.dims import Dim, DimLike, Shape, ceil_div, dim_min, never_negative, positive, product
from graphopt.ir.table import Operands, Trait, first_rows, op, rows_beside
from graphopt.ir.types import I64, TensorType

TO_THE_END = 2**31 - 1  # an end at or beyond this, as captures write "no end", is past any dim
PAD_MODES = ("constant", "reflect", "edge", "wrap")


def _check_axes(o: Operands, axes: Sequence[int], rank: int) -> None:
    if any(not 0 <= a < rank for a in axes) or len(set(axes)) != len(axes):
        raise o.fail(f"axes {list(axes)} must be different and within 0..{rank - 1} for {o.x}")


def _reshape_shape(o: Operands) -> Shape:
    if any(isinstance(d, int) and d < 0 for d in o.shape):
        raise o.fail(f"shape {_show(o.shape)} has a negative dim; write the dim itself in place of -1")
    difference = product(o.x.shape) - product(o.shape)
    if isinstance(difference, int) and difference != 0:
        raise o.fail(f"{o.x} has {o.x.size} elements, shape {_show(o.shape)} has {product(o.shape)}")
    return o.shape


def _show(dims: Sequence[DimLike]) -> str:
    return f"[{', '.join(map(str, dims))}]"


def _reshape_rows(o: Operands) -> Sequence[int]:
    return (0,) if o.shape and o.x.shape[:1] == o.shape[:1] else ()


@op("reshape(x: T; shape: dims) -> T", T="any", shape=_reshape_shape, traits=Trait.MOVEMENT | Trait.VIEW, rows=_reshape_rows)
def reshape(x, *, shape):
    """The elements of `x` in row-major order under another shape, which has as many of them."""
    return np.reshape(x, shape)


def _transpose_shape(o: Operands) -> Shape:
    if sorted(o.perm) != list(range(o.x.rank)):
        raise o.fail(f"perm {list(o.perm)} does not permute the {o.x.rank} axes of {o.x}")
    return tuple(o.x.shape[p] for p in o.perm)


def _transpose_rows(o: Operands) -> Sequence[int]:
    return (0,) if o.perm[:1] == (0,) else ()


def _transpose_view(o: Operands, result: TensorType) -> int | None:
    """Where every axis lies as it does in the operand, and neither has a halo or a pitch."""
    here = o.x
    same = tuple(o.perm[k] for k in result.storage_axes) == here.storage_axes
    return 0 if same and sorted(here.storage) == sorted(result.storage) == sorted(here.static_shape) else None


@op("transpose(x: T; perm: ints) -> T", T="any", shape=_transpose_shape, traits=Trait.MOVEMENT,
    rows=_transpose_rows, view=_transpose_view)
def transpose(x, *, perm):
    """Axes reordered: result axis i is axis perm[i] of `x`."""
    return np.transpose(x, perm)


def _expand_shape(o: Operands) -> Shape:
    if len(o.shape) < o.x.rank:
        raise o.fail(f"{o.x} does not expand to {_show(o.shape)}: it has fewer axes")
    out = list(o.shape)
    for i, d in enumerate(o.x.shape, len(out) - o.x.rank):
        if isinstance(d, int) and isinstance(out[i], int) and d not in (1, out[i]):
            raise o.fail(f"{o.x} does not expand to {_show(o.shape)}: axis {i - len(out) + o.x.rank} is {d}")
        if isinstance(d, int) and d != 1:
            out[i] = d
    return tuple(out)


def _expand_rows(o: Operands) -> Sequence[int]:
    return (0,) if o.x.rank == len(o.shape) and o.x.shape[:1] == o.shape[:1] else ()


@op("expand(x: T; shape: dims) -> T", T="any", shape=_expand_shape, traits=Trait.MOVEMENT, rows=_expand_rows)
def expand(x, *, shape):
    """`x` broadcast to exactly `shape`: axes are added in front, and axes of 1 repeated."""
    return np.broadcast_to(x, shape)


def slice_extent(n: DimLike, start: DimLike, end: DimLike, step: int) -> DimLike:
    """How many elements start:end:step takes of an axis of `n`, by numpy's rules."""
    if isinstance(n, int) and isinstance(start, int) and isinstance(end, int):
        return len(range(n)[start:end:step])
    ahead = step > 0
    first, last = (_edge(d, n, 0 if ahead else 1) for d in (start, end))
    return ceil_div(positive(last - first if ahead else first - last), abs(step))


def _edge(at: DimLike, n: DimLike, behind: int) -> DimLike:
    """Where among the n + 1 edges of n elements a bound of a slice lies: before its element, or behind it."""
    if isinstance(at, int) and abs(at) >= TO_THE_END:
        return n if at > 0 else 0
    if isinstance(at, Dim) and not behind and never_negative(-at):
        return positive(n + at) - n * positive(1 + at)  # -0 is the front
    return dim_min(positive(from_front(at, n) + behind), n)


def from_front(at: DimLike, n: DimLike) -> DimLike:
    """An index of n elements that counts from the back where it is negative, counted from the front."""
    if never_negative(at):
        return at
    if never_negative(-at - 1):
        return at + n
    return at + n * (positive(-at) - positive(-at - 1))


def _slice_shape(o: Operands) -> Shape:
    _check_axes(o, o.axes, o.x.rank)
    if not len(o.axes) == len(o.starts) == len(o.ends) == len(o.steps):
        raise o.fail("axes, starts, ends and steps differ in length")
    if 0 in o.steps:
        raise o.fail("a step is 0")
    out = list(o.x.shape)
    for axis, start, end, step in zip(o.axes, o.starts, o.ends, o.steps):
        out[axis] = slice_extent(out[axis], start, end, step)
    return tuple(out)


def _slice_view(o: Operands, result: TensorType) -> int | None:
    if o.x.layout is not None or result.layout is not None:
        return None
    return slice_offset(o.x.static_shape, result.static_shape, o.axes, o.starts, o.steps)


@op("slice(x: T; axes: ints, starts: dims, ends: dims, steps: ints) -> T", T="any", shape=_slice_shape, traits=Trait.MOVEMENT,
    rows=rows_beside, view=_slice_view, picks="x")
def slice_(x, *, axes, starts, ends, steps):
    """x[start:end:step] along each of `axes`, as numpy clamps it.

    Negative starts and ends count from the back; with a negative step an end of -2^63 is past the front.
    """
    index: list[Any] = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps):
        index[axis] = slice(start, end, step)
    return x[tuple(index)]


def slice_offset(shape: Sequence[int], out: Sequence[int], axes: Sequence[int], starts: Sequence[int],
                 steps: Sequence[int]) -> int | None:
    """Where a slice of a row-major tensor begins, in elements, if it is contiguous: only size-1 axes lie outside the one that
    is cut. Else None. `out` is the shape of the slice."""
    if 0 in out or any(s != 1 for s in steps):
        return None
    first = dict(zip(axes, starts))
    offset, stride, cut = 0, 1, False
    for axis in range(len(shape) - 1, -1, -1):
        n, m = shape[axis], out[axis]
        if cut and m != 1:
            return None
        if n != m:
            start = first[axis]
            offset += (max(0, start + n) if start < 0 else min(start, n)) * stride
            cut = True
        stride *= n
    return offset


def _concat_shape(o: Operands) -> Shape:
    shapes = [t.shape for t in o.xs if t is not None]
    if not shapes or len(shapes) != len(o.xs):
        raise o.fail("needs at least one operand, and none absent")
    rank = len(shapes[0])
    if any(len(s) != rank for s in shapes) or not 0 <= o.axis < rank:
        raise o.fail(f"ranks {[len(s) for s in shapes]} must be equal and above axis {o.axis}")
    out: list[DimLike] = []
    for i in range(rank):
        dims = [s[i] for s in shapes]
        if i == o.axis:
            total: DimLike = 0
            for d in dims:
                total = total + d
            out.append(total)
            continue
        known = {d for d in dims if isinstance(d, int)}
        if len(known) > 1:
            raise o.fail(f"{', '.join(map(str, o.xs))} differ along axis {i}, which is not the one joined")
        out.append(known.pop() if known else dims[0])
    return tuple(out)


def _concat_rows(o: Operands) -> Sequence[int]:
    return range(len(o.types)) if o.axis != 0 else ()


@op("concat(xs*: T; axis: int) -> T", T="any", shape=_concat_shape, traits=Trait.MOVEMENT, rows=_concat_rows)
def concat(*xs, axis):
    """The operands one after the other along `axis`; their other dims are equal."""
    return np.concatenate(xs, axis)


@op("join(xs*: T; axis: int) -> T", T="any", shape=_concat_shape, traits=Trait.MOVEMENT, rows=_concat_rows)
def join(*xs, axis):
    """`concat` whose operands lie in the result's memory already: nothing is copied."""
    return np.concatenate(xs, axis)


def _split_types(o: Operands) -> list[TensorType]:
    if o.x.shape is None:
        return [TensorType(o.x.dtype, None) for _ in o.sizes]
    if not 0 <= o.axis < o.x.rank:
        raise o.fail(f"axis {o.axis} is out of range for {o.x}")
    total: DimLike = 0
    for d in o.sizes:
        total = total + d
    n = o.x.shape[o.axis]
    difference = n - total
    if (isinstance(difference, int) and difference != 0) or any(isinstance(d, int) and d < 0 for d in o.sizes):
        raise o.fail(f"sizes {_show(o.sizes)} do not add up to the {n} of axis {o.axis} of {o.x}")
    return [TensorType(o.x.dtype, tuple(d if i == o.axis else e for i, e in enumerate(o.x.shape))) for d in o.sizes]


@op("split(x: T; axis: int, sizes: dims) -> (parts*: T)", T="any", types=_split_types, traits=Trait.MOVEMENT, rows=rows_beside)
def split(x, *, axis, sizes):
    """Consecutive parts of `x` along `axis`, of the given sizes, which add up to the whole."""
    if sum(sizes) != x.shape[axis]:
        raise IRError(f"sizes {list(sizes)} do not add up to {x.shape[axis]}")
    return tuple(np.split(x, np.cumsum(sizes)[:-1], axis)) if sizes else ()


def _pad_shape(o: Operands) -> Shape:
    rank = o.x.rank
    if len(o.pads) != 2 * rank:
        raise o.fail(f"pads {list(o.pads)} must be {rank} begins and {rank} ends for {o.x}")
    if o.mode not in PAD_MODES:
        raise o.fail(f"mode must be one of {', '.join(PAD_MODES)}, got {o.mode!r}")
    if isinstance(t := o.types[1], TensorType) and t.shape is not None and t.shape not in ((), (1,)):
        raise o.fail(f"value must be one element, got {t}")
    out = tuple(d + o.pads[i] + o.pads[rank + i] for i, d in enumerate(o.x.shape))
    if any(isinstance(d, int) and d < 0 for d in out):
        raise o.fail(f"pads {list(o.pads)} crop more than there is of {o.x}")
    if o.mode != "constant" and any(d == 0 and max(o.pads[i], o.pads[rank + i]) > 0 for i, d in enumerate(o.x.shape)):
        raise o.fail(f"nothing to fill {o.x} with in mode {o.mode}")
    return out


def _pad_rows(o: Operands) -> Sequence[int]:
    return (0,) if o.x.rank and o.pads[0] == o.pads[o.x.rank] == 0 else ()


@op('pad(x: T, value?: T; pads: ints, mode: str = "constant") -> T', T="any", shape=_pad_shape, traits=Trait.MOVEMENT,
    rows=_pad_rows)
def pad(x, value=None, *, pads, mode):
    """`x` with elements added at the begin and end of each axis: pads = [begins..., ends...]; negative ones crop, first.

    Modes as in numpy.pad: constant (`value`, zero where absent, the empty string for strings), reflect (without
    repeating the edge; again and again where the pad is longer than the axis), edge, wrap.
    """
    rank = x.ndim
    begins, ends = pads[:rank], pads[rank:]
    x = x[tuple(slice(max(-b, 0), n - max(-e, 0)) for n, b, e in zip(x.shape, begins, ends))]
    width = [(max(b, 0), max(e, 0)) for b, e in zip(begins, ends)]
    if mode != "constant":
        return _pad_by_index(x, width, mode)
    fill = value.reshape(()) if value is not None else np.array("", object) if x.dtype == object else np.zeros((), x.dtype)
    out = np.empty([n + b + e for n, (b, e) in zip(x.shape, width)], x.dtype)
    out[...] = fill
    out[tuple(slice(b, b + n) for n, (b, _) in zip(x.shape, width))] = x
    return out


def _pad_by_index(x: np.ndarray, width: Sequence[tuple[int, int]], mode: str) -> np.ndarray:
    for axis, (b, e) in enumerate(width):
        if b or e:
            n = x.shape[axis]
            at = np.arange(-b, n + e)
            if mode == "edge":
                at = np.clip(at, 0, n - 1)
            elif mode == "wrap":
                at %= n
            else:
                period = max(2 * n - 2, 1)
                at = np.minimum(at % period, -at % period)
            x = np.take(x, at, axis)
    return x


def _tile_shape(o: Operands) -> Shape:
    if len(o.repeats) != o.x.rank or any(r < 0 for r in o.repeats):
        raise o.fail(f"repeats {list(o.repeats)} must be {o.x.rank} counts for {o.x}")
    return tuple(d * r for d, r in zip(o.x.shape, o.repeats))


@op("tile(x: T; repeats: ints) -> T", T="any", shape=_tile_shape, traits=Trait.MOVEMENT,
    rows=lambda o: (0,) if o.repeats[:1] == (1,) else ())
def tile(x, *, repeats):
    """`x` repeated whole, repeats[i] times along axis i."""
    return np.tile(x, repeats)


def _flip_shape(o: Operands) -> Shape:
    _check_axes(o, o.axes, o.x.rank)
    return o.x.shape


@op("flip(x: T; axes: ints) -> T", T="any", shape=_flip_shape, traits=Trait.MOVEMENT, rows=rows_beside)
def flip(x, *, axes):
    """`x` reversed along each of `axes`."""
    return np.flip(x, axes)


def _iota_shape(o: Operands) -> Shape:
    if not 0 <= o.axis < len(o.shape):
        raise o.fail(f"axis {o.axis} is out of range for shape {_show(o.shape)}")
    return o.shape


@op("iota(; shape: dims, axis: int, dtype: dtype) -> @dtype", shape=_iota_shape, traits=Trait.ELEMENTWISE)
def iota(*, shape, axis, dtype):
    """Each element is its own index along `axis`: 0, 1, 2, …"""
    count = np.arange(shape[axis]).astype(dtype.numpy)
    return np.broadcast_to(count.reshape([-1 if i == axis else 1 for i in range(len(shape))]), shape)


def _shape_types(o: Operands) -> list[TensorType]:
    if not isinstance(o.x, TensorType):
        raise o.fail(f"operand x must be a tensor, got {o.x}")
    return [TensorType(I64, (None if o.x.shape is None else o.x.rank,))]  # type: ignore[arg-type]


@op("shape(x: any) -> i64", types=_shape_types)
def shape(x):
    """The dims of `x`, outermost first."""
    return np.array(x.shape, np.int64)


@op("dims(; values: dims) -> i64", types=lambda o: [TensorType(I64, (len(o.attrs["values"]),))])
def dims(*, values):
    """The given dims as a tensor; symbolic ones take the value they have in the run."""
    return np.array(values, np.int64)


@op("relayout(x: T) -> T", T="any", shape=lambda o: o.x.shape, traits=Trait.MOVEMENT, rows=first_rows)
def relayout(x):
    """`x`, laid out in memory as the result's type says."""
    return x


@op("identity(x: any) -> any", types=lambda o: [o.x], traits=Trait.MOVEMENT | Trait.VIEW, rows=first_rows)
def identity(x):
    """`x` itself, of whatever type."""
    return x
