"""Normalisations, softmax and attention: composites whose fused form matters, each with its decomposition.

The reference computes in f64 inside, the decompositions of f16 and bf16 in f32; both round once at the end.
"""

from __future__ import annotations

import numpy as np

from graphopt.ir.dims import DimLike, Shape
from graphopt.ir.graph import Builder, Op, Value
from graphopt.ir.ops.windows import widest
from graphopt.ir.table import (
    Operands,
    Trait,
    broadcast_dims,
    decomposition,
    f32_or_wider,
    first_rows,
    normalise_axis,
    op,
    rows_beside,
)
from graphopt.ir.types import F32

FLOATS = "f16|bf16|f32|f64"


def _along_axis(o: Operands) -> Shape:
    if o.axis != normalise_axis(o.axis, o.x.rank, o._def.name):
        raise o.fail(f"axis={o.axis} must not be negative")
    return o.x.shape


def _few_operations(per_element: int):
    return lambda o, results: results[0].size * per_element


def _widened(b: Builder, v: Value) -> Value:
    return b.cast(v, to=F32) if v.dtype.bits < 32 else v


def _narrowed(b: Builder, v: Value, like: Value) -> Value:
    return b.cast(v, to=like.dtype) if v.dtype is not like.dtype else v


def _given(op: Op, count: int) -> list[Value]:
    """The first operands, which are never absent."""
    return [v for v in op.operands[:count] if v is not None]


def _per_channel(b: Builder, v: Value, rank: int) -> Value:
    """[C] widened and shaped to broadcast along axis 1 of a value of that rank."""
    wide = _widened(b, v)
    return wide if rank == 2 else b.reshape(wide, shape=(v.shape[0], *[1] * (rank - 2)))


# Softmax ------------------------------------------------------------------------------------
def _shifted(x: np.ndarray, axis: int) -> np.ndarray:
    wide = widest(x)
    return wide - wide.max(axis=axis, keepdims=True, initial=-np.inf)


@op("softmax(x: T; axis: int) -> T", T=FLOATS, shape=_along_axis, traits=Trait.COMPOSITE | Trait.REDUCTION,
    operations=_few_operations(5), rows=rows_beside)
def softmax(x, *, axis):
    """exp(x - max) / sum(exp(x - max)) along one axis. A slice that is all -inf gives NaN."""
    e = np.exp(_shifted(x, axis))
    return (e / e.sum(axis=axis, keepdims=True)).astype(x.dtype)


@decomposition("softmax")
def _(b: Builder, op: Op) -> Value:
    axes, [x] = [op.attrs["axis"]], _given(op, 1)
    wide = _widened(b, x)
    e = b.exp(b.sub(wide, b.reduce_max(wide, axes=axes, keepdims=True)))
    return _narrowed(b, b.mul(e, b.reciprocal(b.reduce_sum(e, axes=axes, keepdims=True))), x)


@op("log_softmax(x: T; axis: int) -> T", T=FLOATS, shape=_along_axis, traits=Trait.COMPOSITE | Trait.REDUCTION,
    operations=_few_operations(5), rows=rows_beside)
def log_softmax(x, *, axis):
    """x - max - log(sum(exp(x - max))) along one axis."""
    shifted = _shifted(x, axis)
    return (shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))).astype(x.dtype)


@decomposition("log_softmax")
def _(b: Builder, op: Op) -> Value:
    axes, [x] = [op.attrs["axis"]], _given(op, 1)
    wide = _widened(b, x)
    shifted = b.sub(wide, b.reduce_max(wide, axes=axes, keepdims=True))
    return _narrowed(b, b.sub(shifted, b.log(b.reduce_sum(b.exp(shifted), axes=axes, keepdims=True))), x)


# Normalisations -----------------------------------------------------------------------------
def _channels(o: Operands, **given) -> None:
    if o.x.rank < 2:
        raise o.fail(f"x must have a channel axis 1, got {o.x}")
    for name, t in given.items():
        if t is None:
            continue
        if t.rank != 1 or (isinstance(t.shape[0], int) and isinstance(o.x.shape[1], int) and t.shape[0] != o.x.shape[1]):
            raise o.fail(f"{name} is {t}, it must be [{o.x.shape[1]}]")


def _batch_norm_shape(o: Operands) -> Shape:
    _channels(o, scale=o.scale, bias=o.bias, mean=o.mean, var=o.var)
    return o.x.shape


@op("batch_norm(x: T, scale: T, bias: T, mean: T, var: T; eps: float) -> T", T=FLOATS, shape=_batch_norm_shape,
    traits=Trait.COMPOSITE, operations=_few_operations(2))
def batch_norm(x, scale, bias, mean, var, *, eps):
    """(x - mean) / sqrt(var + eps) * scale + bias, each of them [C] along axis 1: batch normalisation at inference.

    Where scale / sqrt(var + eps) is infinite it is x times that, plus bias - mean times that, as PyTorch and onnxruntime compute
    all channels: then mostly NaN.
    """
    shape = (-1, *[1] * (x.ndim - 2))
    scale, bias, mean, var = (widest(v).reshape(shape) for v in (scale, bias, mean, var))
    factor = scale / np.sqrt(var + eps)
    endless = np.isinf(factor)
    shift = np.where(endless, bias - mean * factor, bias)
    return ((widest(x) - np.where(endless, 0, mean)) * factor + shift).astype(x.dtype)


@decomposition("batch_norm")
def _(b: Builder, op: Op) -> Value:
    x, *parameters = _given(op, 5)
    scale, bias, mean, var = (_per_channel(b, v, x.rank) for v in parameters)
    factor = b.mul(scale, b.reciprocal(b.sqrt(b.add(var, op.attrs["eps"]))))
    endless = b.isinf(factor)
    shift = b.where(endless, b.sub(bias, b.mul(mean, factor)), bias)
    centre = b.where(endless, b.const(0, mean.dtype), mean)
    return _narrowed(b, b.add(b.mul(b.sub(_widened(b, x), centre), factor), shift), x)


def _tail_shape(o: Operands) -> Shape:
    shape = _along_axis(o)
    for name in ("scale", "bias"):
        t = getattr(o, name) if any(p.name == name for p in o._def.operands) else None
        if t is not None and (t.rank > len(shape) or _grows(shape, broadcast_dims([shape, t.shape]))):
            raise o.fail(f"{name} {t} does not broadcast to {o.x}")
    return shape


def _grows(shape: Shape, common: Shape) -> bool:
    return any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in zip(shape, common, strict=True))


def _affine(y: np.ndarray, scale: np.ndarray | None, bias: np.ndarray | None, like: np.ndarray) -> np.ndarray:
    if scale is not None:
        y = y * widest(scale)
    if bias is not None:
        y = y + widest(bias)
    return y.astype(like.dtype)


def _standardise(x: np.ndarray, axes: tuple[int, ...], eps: float) -> np.ndarray:
    centred = x - x.mean(axis=axes, keepdims=True)
    return centred / np.sqrt((centred * centred).mean(axis=axes, keepdims=True) + eps)


def _build_standardised(b: Builder, x: Value, axes: list[int], eps: float) -> Value:
    centred = b.sub(x, b.reduce_mean(x, axes=axes, keepdims=True))
    variance = b.reduce_mean(b.mul(centred, centred), axes=axes, keepdims=True)
    return b.mul(centred, b.reciprocal(b.sqrt(b.add(variance, eps))))


def _build_affine(b: Builder, y: Value, scale: Value | None, bias: Value | None, like: Value) -> Value:
    if scale is not None:
        y = b.mul(y, scale)
    if bias is not None:
        y = b.add(y, bias)
    return _narrowed(b, y, like)


def _or_none(b: Builder, v: Value | None) -> Value | None:
    return None if v is None else _widened(b, v)


@op("layer_norm(x: T, scale?: T, bias?: T; axis: int, eps: float) -> T", T=FLOATS, shape=_tail_shape,
    traits=Trait.COMPOSITE | Trait.REDUCTION, operations=_few_operations(8), rows=rows_beside)
def layer_norm(x, scale=None, bias=None, *, axis, eps):
    """(x - mean) / sqrt(variance + eps) * scale + bias over the axes from `axis` to the last (Ba et al. 2016).

    The variance is the biased one; scale and bias broadcast to x (ONNX LayerNormalization, torch layer_norm).
    """
    return _affine(_standardise(widest(x), tuple(range(axis, x.ndim)), eps), scale, bias, x)


@decomposition("layer_norm")
def _(b: Builder, op: Op) -> Value:
    [x] = _given(op, 1)
    y = _build_standardised(b, _widened(b, x), list(range(op.attrs["axis"], x.rank)), op.attrs["eps"])
    return _build_affine(b, y, _or_none(b, op.operand("scale")), _or_none(b, op.operand("bias")), x)


@op("rms_norm(x: T, scale?: T; axis: int, eps: float) -> T", T=FLOATS, shape=_tail_shape,
    traits=Trait.COMPOSITE | Trait.REDUCTION, operations=_few_operations(5), rows=rows_beside)
def rms_norm(x, scale=None, *, axis, eps):
    """x / sqrt(mean(x*x) + eps) * scale over the axes from `axis` to the last (Zhang and Sennrich 2019)."""
    wide = widest(x)
    mean = (wide * wide).mean(axis=tuple(range(axis, x.ndim)), keepdims=True)
    return _affine(wide / np.sqrt(mean + eps), scale, None, x)


@decomposition("rms_norm")
def _(b: Builder, op: Op) -> Value:
    [x] = _given(op, 1)
    wide = _widened(b, x)
    mean = b.reduce_mean(b.mul(wide, wide), axes=list(range(op.attrs["axis"], x.rank)), keepdims=True)
    y = b.mul(wide, b.reciprocal(b.sqrt(b.add(mean, op.attrs["eps"]))))
    return _build_affine(b, y, _or_none(b, op.operand("scale")), None, x)


def _group_norm_shape(o: Operands) -> Shape:
    _channels(o, scale=o.scale, bias=o.bias)
    c = o.x.shape[1]
    if o.groups < 1 or (isinstance(c, int) and c % o.groups):
        raise o.fail(f"{c} channels do not divide into {o.groups} groups")
    return o.x.shape


@op("group_norm(x: T, scale?: T, bias?: T; groups: int, eps: float) -> T", T=FLOATS, shape=_group_norm_shape,
    traits=Trait.COMPOSITE | Trait.REDUCTION, operations=_few_operations(8), rows=first_rows)
def group_norm(x, scale=None, bias=None, *, groups, eps):
    """Standardise over the channels of each group and all spatial axes, then scale and shift by [C] (Wu and He 2018).

    With as many groups as channels this is instance normalisation.
    """
    grouped = widest(x).reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
    y = _standardise(grouped, tuple(range(2, grouped.ndim)), eps).reshape(x.shape)
    shape = (-1, *[1] * (x.ndim - 2))
    return _affine(y, None if scale is None else scale.reshape(shape), None if bias is None else bias.reshape(shape), x)


@decomposition("group_norm")
def _(b: Builder, op: Op) -> Value:
    [x], groups = _given(op, 1), op.attrs["groups"]
    n, c, *spatial = x.shape
    grouped = b.reshape(_widened(b, x), shape=(n, groups, c // groups, *spatial))
    y = b.reshape(_build_standardised(b, grouped, list(range(2, x.rank + 1)), op.attrs["eps"]), shape=x.shape)
    scale, bias = op.operand("scale"), op.operand("bias")
    return _build_affine(b, y, None if scale is None else _per_channel(b, scale, x.rank),
                         None if bias is None else _per_channel(b, bias, x.rank), x)


def _lrn_shape(o: Operands) -> Shape:
    _channels(o)
    if o.size < 1:
        raise o.fail(f"size={o.size} must be positive")
    return o.x.shape


@op("lrn(x: T; size: int, alpha: float, beta: float, bias: float) -> T", T=FLOATS, shape=_lrn_shape,
    traits=Trait.COMPOSITE, operations=lambda o, results: results[0].size * (2 * o.size + 4))
def lrn(x, *, size, alpha, beta, bias):
    """x / (bias + alpha / size * sum of squares over `size` channels around) ** beta (Krizhevsky et al. 2012).

    The window of channel c is c - (size - 1) // 2 to c + size // 2, cut off at the ends (ONNX LRN).
    """
    wide = widest(x)
    before = (size - 1) // 2
    squares = np.pad(wide * wide, [(0, 0), (before, size - 1 - before)] + [(0, 0)] * (x.ndim - 2))
    total = sum((squares[:, i:i + x.shape[1]] for i in range(size)), np.zeros_like(wide))
    return (wide / (bias + alpha / size * total) ** beta).astype(x.dtype)


@decomposition("lrn")
def _(b: Builder, op: Op) -> Value:
    [x], size = _given(op, 1), op.attrs["size"]
    wide = _widened(b, x)
    before = (size - 1) // 2
    pads = [0, before, *[0] * (x.rank - 2), 0, size - 1 - before, *[0] * (x.rank - 2)]
    squares = b.pad(b.mul(wide, wide), pads=pads)
    total = None
    for i in range(size):
        part = b.slice(squares, axes=[1], starts=[i], ends=[x.shape[1] + i], steps=[1])
        total = part if total is None else b.add(total, part)
    base = b.add(b.mul(total, op.attrs["alpha"] / size), op.attrs["bias"])
    return _narrowed(b, b.div(wide, b.pow(base, op.attrs["beta"])), x)


# Attention ----------------------------------------------------------------------------------
def _attention_shape(o: Operands) -> Shape:
    for name in ("q", "k", "v"):
        if getattr(o, name).rank != 4:
            raise o.fail(f"{name} must be [B, heads, length, size], got {getattr(o, name)}")
    (b, h, s, d), (kb, hk, length, kd), (vb, hv, vl, dv) = o.q.shape, o.k.shape, o.v.shape
    pairs = ((b, kb), (b, vb), (d, kd), (hk, hv), (length, vl))
    if any(isinstance(m, int) and isinstance(n, int) and m != n for m, n in pairs):
        raise o.fail(f"{o.q}, {o.k} and {o.v} do not match")
    if isinstance(h, int) and isinstance(hk, int) and (h % hk if hk else h):
        raise o.fail(f"{h} query heads are not a multiple of {hk} key heads")
    if o.empty not in ("zero", "nan"):
        raise o.fail(f'empty must be "zero" or "nan", got {o.empty!r}')
    if o.mask is not None and (o.mask.rank > 4 or len(broadcast_dims([(b, h, s, length), o.mask.shape])) > 4):
        raise o.fail(f"mask {o.mask} does not broadcast to [{b}, {h}, {s}, {length}]")
    return (b, h, s, dv)


def _attention_operations(o: Operands, results) -> DimLike:
    b, h, s, d = o.q.shape
    return 2 * b * h * s * o.k.shape[2] * (d + o.v.shape[3])


@op('attention(q: T, k: T, v: T, mask?: M; scale: float, causal: bool = false, softcap: float = 0, empty: str = "zero") -> T',
    T=FLOATS, M="bool|f16|bf16|f32|f64", shape=_attention_shape, traits=Trait.COMPOSITE | Trait.CONTRACTION, sums=f32_or_wider,
    operations=_attention_operations)
def attention(q, k, v, mask=None, *, scale, causal, softcap, empty):
    """softmax(cap(q k^T * scale) + mask) v with q [B, H, S, D], k [B, Hk, L, D], v [B, Hk, L, Dv] (Vaswani et al. 2017).

    Query head h reads key head h // (H / Hk). cap(s) = softcap * tanh(s / softcap) where softcap > 0, before
    the mask. A bool mask keeps what is true, a float mask is added; both broadcast to [B, H, S, L]. `causal`
    lets query i see keys j <= i. A query that may see no key (or only scores of -inf) gives zeros, as torch (2.5 and
    later) and ONNX have it, or NaN where `empty` is "nan", as the softmax written out does.
    """
    rank = q.shape[1] // max(k.shape[1], 1)
    wide_q, wide_k, wide_v = widest(q), widest(k), widest(v)
    if rank > 1:
        wide_k, wide_v = (np.repeat(t, rank, axis=1) for t in (wide_k, wide_v))
    scores = np.matmul(wide_q, wide_k.swapaxes(-1, -2)) * scale
    if softcap > 0:
        scores = softcap * np.tanh(scores / softcap)
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == np.bool_ else scores + widest(mask)
    if causal:
        scores = np.where(np.arange(scores.shape[-2])[:, None] >= np.arange(scores.shape[-1]), scores, -np.inf)
    largest = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    e = np.exp(scores - np.where(np.isneginf(largest), 0, largest))
    total = e.sum(axis=-1, keepdims=True)
    weights = e / np.where(total == 0, np.nan if empty == "nan" else 1, total)
    return np.matmul(weights, wide_v).astype(q.dtype)


@decomposition("attention")
def _(b: Builder, op: Op) -> Value:
    q, k, v = _given(op, 3)
    batch, h, s, d = q.shape
    _, hk, length, dv = v.shape
    wide_q, wide_k, wide_v = (_widened(b, t) for t in (q, k, v))
    shared = h != hk  # heads that share keys become rows of one product
    if shared:
        wide_q = b.reshape(wide_q, shape=(batch, hk, h // hk * s, d))
    scores = b.matmul(wide_q, b.transpose(wide_k, perm=[0, 1, 3, 2]))
    if shared:
        scores = b.reshape(scores, shape=(batch, h, s, length))
    scores = b.mul(scores, op.attrs["scale"])
    if (cap := op.attrs["softcap"]) > 0:
        scores = b.mul(b.tanh(b.mul(scores, 1 / cap)), cap)
    lowest = b.const(-np.inf, scores.dtype)
    mask = op.operand("mask")
    if mask is not None:
        if mask.dtype.kind == "bool":
            scores = b.where(mask, scores, lowest)
        else:
            scores = b.add(scores, mask if mask.dtype is scores.dtype else b.cast(mask, to=scores.dtype))
    if op.attrs["causal"]:
        rows, columns = (b.iota(shape=(s, length), axis=axis, dtype="i32") for axis in (0, 1))
        scores = b.where(b.greater_equal(rows, columns), scores, lowest)
    weights = _build_weights(b, scores, lowest, op.attrs["empty"])
    if shared:
        weights = b.reshape(weights, shape=(batch, hk, h // hk * s, length))
    y = b.matmul(weights, wide_v)
    if shared:
        y = b.reshape(y, shape=(batch, h, s, dv))
    return _narrowed(b, y, q)


def _build_weights(b: Builder, scores: Value, lowest: Value, empty: str) -> Value:
    """The softmax of each row; with `empty` "zero", a row of -inf alone gives zeros: it has no largest score to subtract, and
    a sum of zero."""
    largest = b.reduce_max(scores, axes=[3], keepdims=True)
    if empty == "zero":
        largest = b.where(b.equal(largest, lowest), b.const(0, scores.dtype), largest)
    e = b.exp(b.sub(scores, largest))
    total = b.reduce_sum(e, axes=[3], keepdims=True)
    if empty == "zero":
        total = b.where(b.equal(total, b.const(0, scores.dtype)), b.const(1, scores.dtype), total)
    return b.div(e, total)
