"""Nodes that move elements: views, slices, joins, pads and gathers, often two or three that undo or cut one another."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import numpy as np

from tests.generate.onnx_draft import INTS, Draft, Skip, Value, proposal


def permutation(d: Draft, rank: int) -> list[int]:
    axes = list(range(rank))
    if rank > 1 and d.chance(0.4):  # two neighbours change places: attention's kind
        k = d.integer(0, rank - 2)
        axes[k], axes[k + 1] = axes[k + 1], axes[k]
        return axes
    d.random.shuffle(axes)
    return axes


def maybe_negative(d: Draft, axis: int, rank: int) -> int:
    return axis - rank if d.chance(0.35) else axis


def refactored(d: Draft, shape: tuple[int, ...]) -> list[int]:
    """Another shape of as many elements: dims merged, split, or ones put in."""
    dims = list(shape)
    for _ in range(d.integer(1, 3)):
        kind = d.choice(("merge", "split", "one", "drop"))
        if kind == "merge" and len(dims) > 1:
            k = d.integer(0, len(dims) - 2)
            dims[k:k + 2] = [dims[k] * dims[k + 1]]
        elif kind == "split" and dims and len(dims) < 6:
            k = d.integer(0, len(dims) - 1)
            divisors = [n for n in range(1, dims[k] + 1) if dims[k] % n == 0]
            if divisors:
                n = d.choice(divisors)
                dims[k:k + 1] = [n, dims[k] // n]
        elif kind == "one" and len(dims) < 6:
            dims.insert(d.integer(0, len(dims)), 1)
        elif kind == "drop" and 1 in dims:
            dims.remove(1)
    return dims


@proposal(2.5)
def transpose(d: Draft, v: Value | None = None) -> Value:
    v = v or d.any(1)
    perm = permutation(d, v.rank)
    return d.node("Transpose", [v], exact=True, **({} if d.chance(0.1) or not perm else {"perm": perm}))[0]


@proposal(3)
def reshape(d: Draft, v: Value | None = None) -> Value:
    v = v or d.any()
    dims = refactored(d, v.shape)
    attrs: dict[str, Any] = {}
    if 0 in dims and d.opset >= 14:
        attrs["allowzero"] = 1
    elif 0 not in dims:
        for k in range(min(len(dims), v.rank)):
            if dims[k] == v.shape[k] and d.chance(0.3):
                dims[k] = 0
    if dims and 0 not in v.shape and d.chance(0.4):
        dims[d.integer(0, len(dims) - 1)] = -1
    return d.node("Reshape", [v, d.ints(dims)], exact=True, **attrs)[0]


@proposal(1)
def reshape_transpose_reshape(d: Draft) -> Value:
    return reshape(d, transpose(d, reshape(d)))


@proposal(0.7)
def transposed_there_and_back(d: Draft) -> Value:
    v = d.any(2)
    perm = permutation(d, v.rank)
    first, = d.node("Transpose", [v], exact=True, perm=perm)
    if d.chance(0.6):
        first, = d.node(d.choice(("Relu", "Neg", "Abs")), [first], exact=True)
    back = [perm.index(k) for k in range(v.rank)] if d.chance(0.7) else permutation(d, v.rank)
    return d.node("Transpose", [first], exact=True, perm=back)[0]


@proposal(1)
def squeeze(d: Draft) -> Value:
    v = d.pick(lambda v: 1 in v.shape, lambda: d.leaf(d.type(), (*d.shape(0, 2), 1, *d.shape(0, 2))))
    ones = [k for k, n in enumerate(v.shape) if n == 1]
    axes = None if d.chance(0.15) else [maybe_negative(d, k, v.rank) for k in ones if d.chance(0.6)]
    if axes == []:
        axes = [ones[0]]
    more, attrs = d.with_axes(axes, 13)
    return d.node("Squeeze", [v, *more], exact=True, **attrs)[0]


@proposal(1)
def unsqueeze(d: Draft) -> Value:
    v = d.any(0, 4)
    n = d.integer(1, 2)
    axes = d.random.sample(range(v.rank + n), n)
    return d.unsqueeze(v, [maybe_negative(d, a, v.rank + n) for a in axes])[0]


@proposal(1.5)
def expand(d: Draft) -> Value:
    v = d.any(0, 4)
    dims = [d.size() if n == 1 else (1 if d.chance(0.3) else n) for n in v.shape]
    dims = [d.size() for _ in range(d.integer(0, 2))] + dims if d.chance(0.5) else dims[d.integer(0, len(dims)):]
    return d.node("Expand", [v, d.ints(dims)], exact=True)[0]


@proposal(0.8)
def tile(d: Draft) -> Value:
    v = d.any(1, 4)
    repeats = [d.choice((1, 1, 2, 3, 0) if d.chance(0.1) else (1, 1, 2, 3)) for _ in v.shape]
    return d.node("Tile", [v, d.ints(repeats)], exact=True)[0]


@proposal(0.8)
def flatten(d: Draft) -> Value:
    v = d.any()
    return d.node("Flatten", [v], exact=True, axis=d.integer(-v.rank, v.rank))[0]


@proposal(0.8)
def depth_to_space(d: Draft) -> Value:
    b = d.integer(1, 3)
    if d.chance(0.5):
        v = d.pick(lambda v: v.rank == 4 and v.is_float and v.shape[1] % (b * b) == 0,
                   lambda: d.leaf(d.float_type(), (d.integer(1, 2), b * b * d.integer(1, 3), d.integer(1, 5), d.integer(1, 5))))
        return d.node("DepthToSpace", [v], exact=True, blocksize=b, mode=d.choice(("DCR", "CRD")))[0]
    v = d.pick(lambda v: v.rank == 4 and v.is_float and v.shape[2] % b == 0 and v.shape[3] % b == 0,
               lambda: d.leaf(d.float_type(), (d.integer(1, 2), d.integer(1, 4), b * d.integer(1, 3), b * d.integer(1, 3))))
    return d.node("SpaceToDepth", [v], exact=True, blocksize=b)[0]


def bound(d: Draft, n: int) -> int:
    """A start or an end: within, negative, or far beyond."""
    p = d.random.random()
    if p < 0.8:
        return d.integer(0, n) if p < 0.45 else d.integer(-n - 1, 0)
    return d.choice((2**31 - 1, 2**62, -2**31, -2**62, n + 3, -n - 5))


def sliced(d: Draft, v: Value, axes: list[int]) -> Value:
    starts, ends, steps = [], [], []
    for a in axes:
        n = v.shape[a]
        step = d.choice((1, 1, 1, 2, 3, -1, -1, -2, 7, -5))
        start, end = bound(d, n), bound(d, n)
        if not len(range(*slice(start, end, step).indices(n))) and d.chance(0.9):  # mostly not empty
            start, end = (0, 2**62) if step > 0 else (2**62, -2**62)
        starts.append(start)
        ends.append(end)
        steps.append(step)
    named = [maybe_negative(d, a, v.rank) for a in axes]
    more: list[Value] = []
    if named != list(range(v.rank)) or d.chance(0.7):
        more.append(d.ints(named))
        if any(s != 1 for s in steps) or d.chance(0.5):
            more.append(d.ints(steps))
    elif any(s != 1 for s in steps):
        more += [d.ints(named), d.ints(steps)]
    return d.node("Slice", [v, d.ints(starts), d.ints(ends), *more], exact=True)[0]


@proposal(3)
def slice_(d: Draft, v: Value | None = None) -> Value:
    v = v or d.any(1)
    if not v.rank:
        raise Skip
    axes = d.random.sample(range(v.rank), d.integer(1, min(v.rank, 2 if d.chance(0.8) else v.rank)))
    return sliced(d, v, axes)


@proposal(0.7)
def slice_of_slice(d: Draft) -> Value:
    v = d.any(1)
    a = d.integer(0, v.rank - 1)
    return sliced(d, sliced(d, v, [a]), [a])


@proposal(2)
def concat(d: Draft) -> tuple[Value, int]:
    v = d.any(1)
    axis = d.integer(0, v.rank - 1)
    others: list[Value] = []
    for _ in range(d.integer(1, 3)):
        shape = list(v.shape)
        shape[axis] = d.size()
        new = functools.partial(d.leaf, v.dtype, shape)
        others.append(d.pick(lambda w: w.dtype == v.dtype and w.rank == v.rank and all(
            m == n or k == axis for k, (m, n) in enumerate(zip(w.shape, v.shape))), new, fresh=0.5))
    parts = [v, *others]
    d.random.shuffle(parts)
    return d.node("Concat", parts, exact=True, axis=maybe_negative(d, axis, v.rank))[0], axis


@proposal(1.6)
def slice_of_concat(d: Draft) -> Value:
    v, axis = concat(d)
    if d.chance(0.2):
        v, = d.node("Identity", [v], exact=True)
    return sliced(d, v, [axis])


@proposal(1.2)
def concat_of_slices(d: Draft) -> Value:
    v = d.any(1)
    a = d.integer(0, v.rank - 1)
    n = v.shape[a]
    cuts = sorted(d.integer(0, n) for _ in range(d.integer(1, 2)))
    edges = [0, *cuts, n]
    parts = []
    for low, high in itertools.pairwise(edges):
        parts.append(d.node("Slice", [v, d.ints([low]), d.ints([high]), d.ints([maybe_negative(d, a, v.rank)])], exact=True)[0])
    if d.chance(0.5):
        d.random.shuffle(parts)
    return d.node("Concat", parts, exact=True, axis=a)[0]


@proposal(1.5)
def split(d: Draft) -> list[Value]:
    v = d.any(1)
    axis = d.integer(0, v.rank - 1)
    n, parts = v.shape[axis], d.integer(1, 4)
    attrs: dict[str, Any] = {"axis": maybe_negative(d, axis, v.rank)}
    more: list[Value] = []
    if d.chance(0.6):
        cuts = sorted(d.integer(0, n) for _ in range(parts - 1))
        sizes = [b - a for a, b in zip([0, *cuts], [*cuts, n])]
        if d.opset >= 13:
            more = [d.ints(sizes)]
        else:
            attrs["split"] = sizes
    elif d.opset >= 18:
        attrs["num_outputs"] = parts
    results = d.node("Split", [v, *more], outputs=parts, exact=True, **attrs)
    if d.chance(0.5):
        d.random.shuffle(results)
        d.node("Concat", results, exact=True, axis=axis)
    return results


@proposal(2)
def pad(d: Draft, v: Value | None = None) -> Value:
    v = v or d.pick(lambda v: v.is_float and v.rank >= 1, lambda: d.leaf(d.float_type(), d.shape(1, 4)))
    mode = d.choice(("constant", "constant", "reflect", "edge", *(("wrap",) if d.opset >= 19 else ())))
    low, high = [0] * v.rank, [0] * v.rank
    for a in d.random.sample(range(v.rank), d.integer(1, v.rank)):
        n = v.shape[a]
        most = 3 if mode in ("constant", "edge") else max(n - 1, 0)
        low[a], high[a] = (d.integer(0, min(most, 3)) for _ in "ab")
        if mode == "constant" and d.chance(0.15):
            low[a] = -d.integer(0, n)
        if mode == "constant" and d.chance(0.15):
            high[a] = -d.integer(0, max(n + min(low[a], 0), 0))
    more: list[Value | None] = []
    axes = list(range(v.rank))
    if d.opset >= 18 and d.chance(0.3):
        axes = d.random.sample(range(v.rank), d.integer(1, v.rank))
    if mode == "constant" and d.chance(0.5):
        more = [d.constant(np.asarray(d.choice((0, 1, -2.5)), v.dtype))]
    if axes != list(range(v.rank)):
        more = (more or [None]) + [d.ints([maybe_negative(d, a, v.rank) for a in axes])]
    pads = d.ints([low[a] for a in axes] + [high[a] for a in axes])
    return d.node("Pad", [v, pads, *more], exact=True, mode=mode)[0]


def indices(d: Draft, n: int, shape: tuple[int, ...], dtype: Any = None, distinct: bool = False) -> Value:
    """Indices into n elements, some counted from the end."""
    if not n and math.prod(shape):
        raise Skip
    at = d.numbers.integers(-n if d.chance(0.4) else 0, max(n, 1), shape)
    at = np.where(at < 0, at, at) if n else np.zeros(shape, np.int64)
    dt = dtype or d.choice((np.int64, np.int64, np.int32))
    v = d.leaf(dt, shape, at.astype(dt), constant=0.6)
    return v


@proposal(2)
def gather(d: Draft, v: Value | None = None) -> Value:
    v = v or d.any(1, 5)
    a = d.integer(0, v.rank - 1)
    shape = () if d.chance(0.3) else d.shape(1, 2)
    if d.chance(0.3) and v.shape[a] > 1:  # an arithmetic progression: a slice in disguise
        at = np.arange(v.shape[a])[::d.choice((1, 2, -1, -2))]
        index = d.constant(at[d.integer(0, 1):].astype(np.int64))
    else:
        index = indices(d, v.shape[a], shape)
    return d.node("Gather", [v, index], exact=True, axis=maybe_negative(d, a, v.rank))[0]


@proposal(1)
def gather_elements(d: Draft) -> Value:
    v = d.any(1, 4)
    a = d.integer(0, v.rank - 1)
    shape = tuple(d.size() if k == a else d.integer(min(n, 1), n) for k, n in enumerate(v.shape))
    return d.node("GatherElements", [v, indices(d, v.shape[a], shape)], exact=True, axis=maybe_negative(d, a, v.rank))[0]


def tuples(d: Draft, dims: tuple[int, ...], lead: tuple[int, ...], distinct: bool = False) -> np.ndarray:
    """Index tuples into `dims`, one for each element of `lead`."""
    total, count = math.prod(dims), math.prod(lead)
    if not total and count:
        raise Skip
    if distinct:
        if count > total:
            raise Skip
        flat = d.numbers.permutation(max(total, 1))[:count]
    else:
        flat = d.numbers.integers(0, max(total, 1), count)
    at = np.stack(np.unravel_index(flat, dims), -1) if count else np.zeros((0, len(dims)), np.int64)
    return np.where(d.numbers.random(at.shape) < 0.2, at - np.array(dims), at).reshape(*lead, len(dims)).astype(np.int64)


@proposal(1)
def gather_nd(d: Draft) -> Value:
    v = d.any(1, 5)
    b = d.integer(0, min(v.rank - 1, 2)) if d.opset >= 12 and d.chance(0.4) else 0
    k = d.integer(1, v.rank - b)
    at = tuples(d, v.shape[b:b + k], (*v.shape[:b], *d.shape(0, 2)))
    index = d.leaf(np.int64, at.shape, at, constant=0.6)
    return d.node("GatherND", [v, index], exact=True, **({"batch_dims": b} if b else {}))[0]


def _scattered(d: Draft, v: Value, updates: Value, how: dict[str, Any]) -> list[Value]:
    if how.get("reduction") in ("min", "max") and v.is_float and (np.isnan(v.array).any() or np.isnan(updates.array).any()):
        raise Skip  # the references keep a NaN or lose it by the order of updates, PyTorch keeps it, and so do we
    return [v, updates]


def _reduction(d: Draft, v: Value) -> dict[str, Any]:
    allowed = ["none"]
    if d.opset >= 16 and v.dtype.kind in "fi":
        allowed += ["add", "mul"]
    if d.opset >= 18 and v.dtype.kind in "fi":
        allowed += ["min", "max"]
    how = d.choice(allowed)
    return {} if how == "none" else {"reduction": how}


@proposal(1)
def scatter_elements(d: Draft) -> Value:
    v = d.any(1, 4)
    a = d.integer(0, v.rank - 1)
    how = _reduction(d, v)
    shape = tuple(d.integer(0, n) if k != a else min(d.size(), n) if not how else d.size() for k, n in enumerate(v.shape))
    if how:
        index = indices(d, v.shape[a], shape)
    else:  # no element is written twice
        if shape[a] > v.shape[a]:
            raise Skip
        at = np.argsort(d.numbers.random(tuple(v.shape[a] if k == a else n for k, n in enumerate(shape))), axis=a)
        at = np.take(at, np.arange(shape[a]), axis=a)
        at = np.where(d.numbers.random(at.shape) < 0.2, at - v.shape[a], at).astype(np.int64)
        index = d.leaf(np.int64, shape, at, constant=0.6)
    v, updates = _scattered(d, v, d.like(v, shape), how)
    return d.node("ScatterElements", [v, index, updates], exact=not how, axis=maybe_negative(d, a, v.rank), **how)[0]


@proposal(1)
def scatter_nd(d: Draft) -> Value:
    v = d.any(1, 4)
    k = d.integer(1, v.rank)
    how = _reduction(d, v)
    at = tuples(d, v.shape[:k], d.shape(1, 2), distinct=not how)
    index = d.leaf(np.int64, at.shape, at, constant=0.6)
    v, updates = _scattered(d, v, d.like(v, (*at.shape[:-1], *v.shape[k:])), how)
    return d.node("ScatterND", [v, index, updates], exact=not how, **how)[0]


@proposal(0.6)
def trilu(d: Draft) -> Value:
    if d.opset < 14:
        raise Skip
    v = d.any(2, 4)
    more = [d.constant(np.int64(d.integer(-4, 4)))] if d.chance(0.6) else []
    return d.node("Trilu", [v, *more], exact=True, upper=d.integer(0, 1))[0]


@proposal(0.4)
def reverse_sequence(d: Draft) -> Value:
    v = d.any(2, 4)
    t, b = d.choice(((0, 1), (1, 0)))
    if not v.shape[t]:
        raise Skip
    lengths = d.numbers.integers(1, v.shape[t] + 1, v.shape[b])
    return d.node("ReverseSequence", [v, d.leaf(np.int64, lengths.shape, lengths)], exact=True, batch_axis=b, time_axis=t)[0]


@proposal(0.5)
def one_hot(d: Draft) -> Value:
    v = d.pick(lambda v: v.dtype in INTS and v.rank <= 3, lambda: d.leaf(d.choice(INTS), d.shape(0, 3)))
    depth = d.constant(np.int64(d.integer(1, 6)))
    onoff = d.constant(np.array([d.choice((0, -1.5)), d.choice((1, 3))], np.float32))
    return d.node("OneHot", [v, depth, onoff], exact=True, axis=d.integer(-v.rank - 1, v.rank))[0]


@proposal(0.4)
def compress(d: Draft) -> Value:
    v = d.any(1, 4)
    a = d.integer(0, v.rank - 1)
    keep = d.numbers.integers(0, 2, d.integer(0, v.shape[a])).astype(bool)
    mask = d.leaf(np.bool_, keep.shape, keep, constant=0.85)
    return d.node("Compress", [v, mask], exact=True, axis=maybe_negative(d, a, v.rank))[0]


@proposal(0.4)
def constant_of_shape(d: Draft) -> Value:
    from onnx import numpy_helper

    value = np.array([d.choice((0, 1, 2))], d.choice((np.float32, np.int64, np.float32)))
    return d.node("ConstantOfShape", [d.ints(d.shape(0, 3))], exact=True, value=numpy_helper.from_array(value))[0]


@proposal(0.3)
def range_(d: Draft) -> Value:
    low, step = d.integer(-3, 3), d.choice((1, 2, -1, -3))
    n = d.integer(0, 8)
    return d.node("Range", [d.constant(np.int64(x)) for x in (low, low + n * step, step)], exact=True)[0]


@proposal(0.3)
def nonzero(d: Draft) -> Value:
    v = d.any(1, 3)
    if v.err:
        raise Skip
    return d.node("NonZero", [v], exact=True)[0]


@proposal(0.5)
def shape_of(d: Draft) -> Value:
    v = d.any()
    attrs = {"start": d.integer(-3, 2), "end": d.integer(-2, 4)} if d.opset >= 15 and d.chance(0.5) else {}
    made, = d.node("Size" if not attrs and d.chance(0.2) else "Shape", [v], exact=True, **attrs)
    return d.node("Cast", [made], exact=True, to=1)[0] if d.chance(0.5) else made


@proposal(0.3)
def identity(d: Draft) -> Value:
    return d.node("Identity", [d.any()], exact=True)[0]
