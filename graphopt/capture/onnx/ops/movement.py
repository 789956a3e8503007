"""Shapes and data movement."""

from __future__ import annotations

import math

import numpy as np

from graphopt.capture.onnx.context import Context, Node, rank_of
from graphopt.capture.onnx.table import Defer, Results, entry
from graphopt.ir.dims import Dim, DimLike, ceil_div, dim_min, dim_symbols, positive, product
from graphopt.ir.graph import Value
from graphopt.ir.ops.movement import TO_THE_END, from_front
from graphopt.ir.table import broadcast_dims, normalise_axes, normalise_axis
from graphopt.ir.types import F32, I64, TensorType

MOST_STEPS = 1 << 26  # of a range in floating point, which is made at capture


@entry("Shape")
def shape(b: Context, n: Node) -> Results:
    x = n[0]
    whole = b.shape_value(x)
    if "start" not in n.attrs and "end" not in n.attrs:
        return whole
    dims = rank_of(x)[_clamped(n.attr("start", 0), len(rank_of(x))):_clamped(n.attr("end", len(rank_of(x))), len(rank_of(x)))]
    return b.const(np.array(dims, np.int64)) if TensorType(I64, dims).is_static else b.dims(values=dims)


def _clamped(i: int, rank: int) -> int:
    return min(max(i + rank if i < 0 else i, 0), rank)


@entry("Size")
def size(b: Context, n: Node) -> Results:
    t = n[0].type
    if not isinstance(t, TensorType) or t.shape is None:
        return b.reduce_prod(b.shape(n[0]), axes=(0,))
    if t.is_static:
        return b.const(np.array(t.size, np.int64))
    return b.reshape(b.dims(values=(t.size,)), shape=())


@entry("Constant")
def constant(b: Context, n: Node) -> Results:
    for name, np_type in (("value", None), ("sparse_value", None), ("value_float", np.float32), ("value_floats", np.float32),
                          ("value_int", np.int64), ("value_ints", np.int64), ("value_string", object), ("value_strings", object)):
        if name in n.attrs:
            return b.const(n.attrs[name] if np_type is None else np.array(n.attrs[name], dtype=np_type))
    raise n.error("has no value")


@entry("ConstantOfShape")
def constant_of_shape(b: Context, n: Node) -> Results:
    value = n.attr("value", np.zeros(1, np.float32))
    dims = n.dims(0)
    assert dims is not None
    return b.full(np.asarray(value).reshape(()), dims, value.dtype)


@entry("Reshape", since=1)
def reshape(b: Context, n: Node) -> Results:
    x = n[0]
    if "shape" in n.attrs:
        wanted: list[DimLike] = list(n.attrs["shape"])
    else:
        wanted = list(n.dims(1) or ())
    copies = not n.attr("allowzero", 0)
    for i, d in enumerate(wanted):
        if copies and not isinstance(d, Dim) and d == 0:
            if i >= len(rank_of(x)):
                raise n.error(f"dim {i} is to be copied, but the operand has rank {len(rank_of(x))}")
            wanted[i] = rank_of(x)[i]
    if sum(not isinstance(d, Dim) and d == -1 for d in wanted) > 1:
        raise n.error(f"more than one -1 in the shape {wanted}")
    made = _whole(n, x, wanted)
    if copies and any(isinstance(d, Dim) and d != rank_of(x)[i] for i, d in enumerate(wanted[:len(rank_of(x))])):
        # A size of the inputs that is 0 is copied where they are settled; before that it is left out where the sizes agree.
        invented = {s for d in wanted for s in dim_symbols(d)} - n.scope.session.symbols.names()
        if invented or product(made) != product(rank_of(x)):
            made = _whole(n, x, [_copied(d, e) for d, e in zip(wanted, rank_of(x))] + wanted[len(rank_of(x)):])
    return b.reshaped(x, made)


def _whole(n: Node, x: Value, wanted: list[DimLike]) -> list[DimLike]:
    """The dims with that in the place of a -1 which makes as many elements as there are."""
    total, rest = product(rank_of(x)), product(d for d in wanted if isinstance(d, Dim) or d != -1)
    if isinstance(rest, int) and rest == 0 and any(not isinstance(d, Dim) and d == -1 for d in wanted):
        raise n.error(f"-1 in the shape {wanted} stands for any size")
    return [d if isinstance(d, Dim) or d != -1 else total // rest for d in wanted]


def _copied(d: DimLike, there: DimLike) -> DimLike:
    """A dim of a shape that is given, in place of which a 0 copies the one that is there."""
    return d if d == there or not isinstance(d, Dim) else d + there * positive(1 - d)


@entry("Flatten")
def flatten(b: Context, n: Node) -> Results:
    dims = rank_of(n[0])
    axis = n.attr("axis", 1)
    axis = len(dims) if axis == len(dims) else n.axis(1, len(dims))
    return b.reshaped(n[0], [product(dims[:axis]), product(dims[axis:])])


@entry("Squeeze")
def squeeze(b: Context, n: Node) -> Results:
    x = n[0]
    dims, given = rank_of(x), n.attr_or_ints("axes", 1)
    if given is None:
        if any(isinstance(d, Dim) for d in dims):
            raise Defer("which dims are 1 is not known")
        axes = tuple(i for i, d in enumerate(dims) if d == 1)
    else:
        axes = normalise_axes(given, len(dims))
        for a in axes:
            if isinstance(dims[a], int) and dims[a] != 1:
                raise n.error(f"axis {a} of {x.type} is not 1")
    return b.reshaped(x, [d for i, d in enumerate(dims) if i not in axes])


@entry("Unsqueeze")
def unsqueeze(b: Context, n: Node) -> Results:
    given = n.attr_or_ints("axes", 1)
    if given is None:
        raise n.error("axes are missing")
    return b.unsqueezed(n[0], normalise_axes(given, len(rank_of(n[0])) + len(given)))


@entry("Transpose")
def transpose(b: Context, n: Node) -> Results:
    perm = n.attr("perm", None)
    if perm is None:
        perm = list(range(len(rank_of(n[0]))))[::-1]
    return b.permuted(n[0], [p % max(len(perm), 1) for p in perm])


@entry("Concat")
def concat(b: Context, n: Node) -> Results:
    xs = [v for v in n.inputs if v is not None]
    axis = n.attr("axis", 1)
    axis = normalise_axis(axis, len(rank_of(xs[0]))) if axis < 0 else axis
    return xs[0] if len(xs) == 1 else b.concat(*xs, axis=axis)


@entry("Split")
def split(b: Context, n: Node) -> Results:
    x = n[0]
    axis = n.axis(0, len(rank_of(x)))
    total = rank_of(x)[axis]
    sizes: tuple[DimLike, ...] | None = tuple(n.attrs["split"]) if "split" in n.attrs else n.dims(1)
    if sizes is None:
        count = n.attr("num_outputs", n.outputs)
        if count != n.outputs:
            raise n.error(f"num_outputs is {count}, and the node has {n.outputs} outputs")
        if n.version < 18:  # only what divides
            each = total // count
            sizes = (*([each] * (count - 1)), total - each * (count - 1))
        else:
            each = ceil_div(total, count)
            sizes = tuple(dim_min(each, positive(total - i * each)) for i in range(count))
    return b.parts(x, axis, sizes)


@entry("Slice", since=1)
def slice_attributes(b: Context, n: Node) -> Results:
    starts, ends = n.attr("starts"), n.attr("ends")
    axes = n.attr("axes", list(range(len(starts))))
    return b.slice(n[0], axes=tuple(normalise_axis(a, len(rank_of(n[0]))) for a in axes), starts=starts, ends=ends,
                   steps=[1] * len(axes))


@entry("Slice", since=10)
def slice_(b: Context, n: Node) -> Results:
    x = n[0]
    n.need(1, 2, 3, 4)
    starts, ends, axes, steps = n.dims(1), n.dims(2), n.ints(3), n.ints(4)
    assert starts is not None and ends is not None
    axes = tuple(range(len(starts))) if axes is None else tuple(normalise_axis(a, len(rank_of(x))) for a in axes)
    steps = (1,) * len(axes) if steps is None else steps
    starts = tuple(_first(start, rank_of(x)[axis]) if step < 0 else start for axis, start, step in zip(axes, starts, steps))
    return b.slice(x, axes=axes, starts=starts, ends=ends, steps=steps)


def _first(start: DimLike, size: DimLike) -> DimLike:
    """Where a slice backwards begins: no earlier than at 0 (opset 13 clamps to [0, size - 1]), where numpy finds nothing."""
    if isinstance(start, int) and (start >= 0 or (isinstance(size, int) and start >= -size)):
        return start
    return 0 if isinstance(start, int) and start <= -TO_THE_END else positive(from_front(start, size))


@entry("Pad", since=1)
def pad_attributes(b: Context, n: Node) -> Results:
    pads = n.attr("pads", None) or n.attr("paddings")
    value = n.attr("value", 0.0)
    return b.pad(n[0], b.const(value, n[0].dtype) if value else None, pads=pads, mode=n.attr("mode", "constant"))


@entry("Pad", since=11)
def pad(b: Context, n: Node) -> Results:
    x, value = n[0], n.get(2)
    n.need(1, 3)
    rank, pads, axes = len(rank_of(x)), n.ints(1), n.ints(3)
    assert pads is not None
    if axes is not None:
        full = [0] * (2 * rank)
        for i, a in enumerate(axes):
            a = normalise_axis(a, rank)
            full[a], full[rank + a] = pads[i], pads[len(axes) + i]
        pads = tuple(full)
    if value is not None:
        value = b.reshaped(value, ())
    return b.pad(x, value, pads=pads, mode=n.attr("mode", "constant"))


@entry("Tile", since=6)
def tile(b: Context, n: Node) -> Results:
    x, repeats = n[0], n.dims(1)
    assert repeats is not None
    return repeated(b, x, repeats)


def repeated(b: Context, x: Value, repeats: tuple[DimLike, ...]) -> Value:
    """x tiled; symbolic repeats go through a new dim in front of each."""
    if not any(isinstance(r, Dim) for r in repeats):
        return b.tile(x, repeats=repeats)
    dims = rank_of(x)
    apart = b.reshape(x, shape=[e for d in dims for e in (1, d)])
    grown = b.expand(apart, shape=[e for r, d in zip(repeats, dims) for e in (r, d)])
    return b.reshape(grown, shape=[r * d for r, d in zip(repeats, dims)])


@entry("Expand")
def expand(b: Context, n: Node) -> Results:
    x, wanted = n[0], n.dims(1)
    assert wanted is not None
    shape = broadcast_dims([rank_of(x), wanted])
    return x if shape == rank_of(x) else b.expand(x, shape=shape)


@entry("Range")
def range_(b: Context, n: Node) -> Results:
    n.need(0, 1, 2)
    start, limit, delta = (np.asarray(n.known(i), dtype=object).reshape(-1).tolist()[0] for i in range(3))
    d = n[0].dtype
    if d.is_float:
        if any(isinstance(v, Dim) for v in (start, limit, delta)):
            raise Defer("its length depends on symbolic dims in floating point")
        steps_taken = max(math.ceil((float(limit) - float(start)) / float(delta)), 0)
        if steps_taken > MOST_STEPS:
            raise n.error(f"has {steps_taken} elements, more than {MOST_STEPS}")
        return b.const((np.arange(steps_taken) * float(delta) + float(start)).astype(d.numpy))
    if isinstance(delta, Dim) or delta == 0:
        raise Defer("its step depends on symbolic dims")
    span = limit - start if delta > 0 else start - limit
    count = ceil_div(positive(span), abs(delta))
    steps = b.iota(shape=(count,), axis=0, dtype=d)
    steps = steps if delta == 1 else b.mul(steps, delta)
    if isinstance(start, Dim):
        return b.add(steps, b.to(b.dims(values=(start,)), d))
    return steps if start == 0 else b.add(steps, start)


@entry("DepthToSpace", "SpaceToDepth")
def depth_space(b: Context, n: Node) -> Results:
    """DCR keeps the blocks outside of the channels, CRD inside; any number of spatial axes."""
    x, block = n[0], n.attr("blocksize")
    batch, channels, *space = rank_of(x)
    k = len(space)
    if n.kind == "SpaceToDepth":
        apart = b.reshape(x, shape=[batch, channels, *(e for s in space for e in (s // block, block))])
        inner, outer = [3 + 2 * i for i in range(k)], [2 + 2 * i for i in range(k)]
        order = [0, 1, *inner, *outer] if n.attr("mode", "DCR") == "CRD" else [0, *inner, 1, *outer]
        return b.reshape(b.transpose(apart, perm=order), shape=[batch, channels * block ** k, *(s // block for s in space)])
    rest = channels // block ** k
    if n.attr("mode", "DCR") == "DCR":
        apart = b.reshape(x, shape=[batch, *([block] * k), rest, *space])
        channel, blocks = 1 + k, [1 + i for i in range(k)]
    else:
        apart = b.reshape(x, shape=[batch, rest, *([block] * k), *space])
        channel, blocks = 1, [2 + i for i in range(k)]
    order = [0, channel, *(e for i in range(k) for e in (2 + k + i, blocks[i]))]
    return b.reshape(b.transpose(apart, perm=order), shape=[batch, rest, *(s * block for s in space)])


@entry("Trilu")
def trilu(b: Context, n: Node) -> Results:
    x, k = n[0], n.get(1)
    rows, columns = rank_of(x)[-2:]
    i = b.iota(shape=(rows, 1), axis=0, dtype=I64)
    j = b.iota(shape=(1, columns), axis=1, dtype=I64)
    if k is not None:
        i = b.add(i, b.reshaped(k, ()))
    keep = b.greater_equal(j, i) if n.attr("upper", 1) else b.less_equal(j, i)
    return b.where(keep, x, b.const(0, x.dtype))


@entry("EyeLike")
def eye_like(b: Context, n: Node) -> Results:
    rows, columns = rank_of(n[0])
    i = b.iota(shape=(rows, 1), axis=0, dtype=I64)
    j = b.iota(shape=(1, columns), axis=1, dtype=I64)
    return b.cast(b.equal(j, b.add(i, n.attr("k", 0))), to=n.dtype("dtype", n[0].dtype or F32))


@entry("ReverseSequence")
def reverse_sequence(b: Context, n: Node) -> Results:
    x = n[0]
    shape = rank_of(x)
    batch, time = n.axis(1, len(shape), "batch_axis"), n.axis(0, len(shape), "time_axis")
    step = b.iota(shape=[d if i == time else 1 for i, d in enumerate(shape)], axis=time, dtype=I64)
    lengths = b.reshape(b.to(n[1], I64), shape=[d if i == batch else 1 for i, d in enumerate(shape)])
    back = b.sub(b.sub(lengths, step), 1)
    index = b.where(b.less(step, lengths), back, step)
    return b.gather_elements(x, b.expand(index, shape=shape), axis=time)
