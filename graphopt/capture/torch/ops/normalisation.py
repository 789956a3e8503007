"""Normalisations and softmax: composites of the IR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from graphopt.capture.torch.context import Context, Refusal, axis_of
from graphopt.capture.torch.table import aten
from graphopt.ir.dims import product
from graphopt.ir.graph import Value
from graphopt.ir.types import F32


@aten("aten.softmax.int", "aten._softmax.default")
def _(c: Context, x: Value, dim: int) -> Value:
    return _softmax(c, "softmax", x, dim)


@aten("aten.log_softmax.int", "aten._log_softmax.default")
def _(c: Context, x: Value, dim: int) -> Value:
    return _softmax(c, "log_softmax", x, dim)


def _softmax(c: Context, ir: str, x: Value, dim: int) -> Value:
    x = c.cast(x, c.dtype)
    if x.rank == 0:
        return c.reshape(getattr(c.b, ir)(c.reshape(x, (1,)), axis=0), ())
    return getattr(c.b, ir)(x, axis=axis_of(dim, x.rank))


@aten("aten._safe_softmax.default")
def _(c: Context, x: Value, dim: int) -> Value:
    """softmax, and zeros where a row is all -inf."""
    x = c.cast(x, c.dtype)
    axis = axis_of(dim, x.rank)
    masked = c.b.reduce_all(c.b.equal(x, c.scalar(float("-inf"), x.dtype)), axes=(axis,), keepdims=True)
    return c.b.where(masked, c.scalar(0, x.dtype), c.b.softmax(x, axis=axis))


@aten("aten.layer_norm.default", "aten.native_layer_norm.default")
def _(c: Context, input: Value, normalized_shape: Sequence[Any], weight: Value | None = None, bias: Value | None = None,
      eps: float = 1e-5) -> Any:
    axis = input.rank - len(normalized_shape)
    out = _first(c, c.b.layer_norm(input, _as(c, weight, input), _as(c, bias, input), axis=axis, eps=eps))
    return (*out, *_statistics(c, input, range(axis, input.rank), eps)) if isinstance(out, tuple) else out


@aten("aten.rms_norm.default", "aten._fused_rms_norm.default")
def _(c: Context, input: Value, normalized_shape: Sequence[Any], weight: Value | None = None, eps: float | None = None) -> Any:
    if eps is None:
        eps = torch.finfo(c.val[0].dtype if isinstance(c.val, (tuple, list)) else c.val.dtype).eps
    return _first(c, c.b.rms_norm(input, _as(c, weight, input), axis=input.rank - len(normalized_shape), eps=eps))


@aten("aten.group_norm.default")
def _(c: Context, input: Value, num_groups: int, weight: Value | None = None, bias: Value | None = None,
      eps: float = 1e-5) -> Value:
    return c.b.group_norm(input, _as(c, weight, input), _as(c, bias, input), groups=num_groups, eps=eps)


@aten("aten.native_group_norm.default")
def _(c: Context, input: Value, weight: Value | None, bias: Value | None, group: int, eps: float) -> Any:
    out = c.b.group_norm(input, _as(c, weight, input), _as(c, bias, input), groups=group, eps=eps)
    n, channels, *rest = input.shape
    return out, *_statistics(c, c.reshape(input, (n, group, channels // group * product(rest))), (2,), eps)


@aten("aten.instance_norm.default")
def _(c: Context, input: Value, weight: Value | None, bias: Value | None, running_mean: Value | None, running_var: Value | None,
      use_input_stats: bool, eps: float) -> Value:
    if not use_input_stats:
        assert running_mean is not None and running_var is not None
        return _batch_norm(c, input, weight, bias, running_mean, running_var, eps)
    if not isinstance(input.shape[1], int):
        raise Refusal("a symbolic number of channels")
    return c.b.group_norm(input, _as(c, weight, input), _as(c, bias, input), groups=input.shape[1], eps=eps)


@aten("aten.batch_norm.default")
def _(c: Context, input: Value, weight: Value | None, bias: Value | None, running_mean: Value | None, running_var: Value | None,
      training: bool, eps: float) -> Value:
    if training or running_mean is None or running_var is None:
        return _batch_statistics(c, input, weight, bias, eps)
    return _batch_norm(c, input, weight, bias, running_mean, running_var, eps)


@aten("aten._native_batch_norm_legit_no_training.default")
def _(c: Context, input: Value, weight: Value | None, bias: Value | None, running_mean: Value, running_var: Value,
      eps: float) -> Any:
    out = _batch_norm(c, input, weight, bias, running_mean, running_var, eps)
    if not (c.uses(1) or c.uses(2)):
        return (out,)
    return out, *(c.full(0, t.shape, t.dtype) for t in map(c.type, c.val[1:3]))  # type: ignore[index, arg-type]


@aten("aten._native_batch_norm_legit.no_stats")
def _(c: Context, input: Value, weight: Value | None, bias: Value | None, eps: float) -> Any:
    out = _batch_statistics(c, input, weight, bias, eps)
    return out, *_statistics(c, input, [a for a in range(input.rank) if a != 1], eps)


def _statistics(c: Context, x: Value, axes: Sequence[int], eps: float) -> tuple[Value | None, Value | None]:
    """The second and third result of a norm, where they are used: mean and 1 / sqrt(variance + eps) over the axes."""
    if not (c.uses(1) or c.uses(2)):
        return None, None
    mean_type, scale_type = c.type(c.val[1]), c.type(c.val[2])  # type: ignore[index]
    x = c.cast(x, F32) if x.dtype.bits < 32 else x
    mean = c.b.reduce_mean(x, axes=tuple(axes), keepdims=True)
    deviation = c.b.sub(x, mean)
    variance = c.b.reduce_mean(c.b.mul(deviation, deviation), axes=tuple(axes), keepdims=True)
    scale = c.b.rsqrt(c.b.add(variance, c.scalar(eps, variance.dtype)))
    return tuple(c.cast(c.reshape(v, t.shape), t.dtype)  # type: ignore[return-value, arg-type]
                 for v, t in ((mean, mean_type), (scale, scale_type)))


def _batch_norm(c: Context, x: Value, weight: Value | None, bias: Value | None, mean: Value, variance: Value,
                eps: float) -> Value:
    channels = mean.shape
    scale = c.full(1, channels, x.dtype) if weight is None else c.cast(weight, x.dtype)
    shift = c.full(0, channels, x.dtype) if bias is None else c.cast(bias, x.dtype)
    return c.b.batch_norm(x, scale, shift, c.cast(mean, x.dtype), c.cast(variance, x.dtype), eps=eps)


def _batch_statistics(c: Context, x: Value, weight: Value | None, bias: Value | None, eps: float) -> Value:
    """Normalisation by the batch's own mean and variance: a batch norm without running statistics."""
    axes = [a for a in range(x.rank) if a != 1]
    mean = c.b.reduce_mean(x, axes=axes)
    deviation = c.b.sub(x, c.b.reduce_mean(x, axes=axes, keepdims=True))
    return _batch_norm(c, x, weight, bias, mean, c.b.reduce_mean(c.b.mul(deviation, deviation), axes=axes), eps)


def _as(c: Context, parameter: Value | None, like: Value) -> Value | None:
    return None if parameter is None else c.cast(parameter, like.dtype)


def _first(c: Context, out: Value) -> Any:
    """The normalised tensor alone; torch's saved statistics are for training."""
    return (out,) if isinstance(c.val, (tuple, list)) else out
