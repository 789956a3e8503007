"""Tensors from nothing: ranges, constants, random numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from graphopt.capture.torch.context import Context, Refusal
from graphopt.capture.torch.table import aten
from graphopt.capture.torch.weights import array_of
from graphopt.ir.dims import Dim
from graphopt.ir.graph import Value
from graphopt.ir.types import I64, TensorType


@aten("aten.full.default", "aten.full_like.default", "aten.new_full.default")
def _(c: Context, fill_value: Any) -> Value:
    return c.full(fill_value, c.shape, c.dtype)


@aten("aten.fill.Scalar", "aten.fill.Tensor")
def _(c: Context, value: Any) -> Value:
    return c.full(value, c.shape, c.dtype)


@aten("aten.zeros.default", "aten.zeros_like.default", "aten.new_zeros.default", "aten.empty.memory_format",
      "aten.empty_like.default", "aten.new_empty.default", "aten.empty_strided.default", "aten.new_empty_strided.default",
      "aten.empty_permuted.default",
      "aten.zero.default", "prims.empty_strided.default")
def _(c: Context) -> Value:
    return c.full(0, c.shape, c.dtype)


@aten("aten.ones.default", "aten.ones_like.default", "aten.new_ones.default")
def _(c: Context) -> Value:
    return c.full(1, c.shape, c.dtype)


@aten("aten.scalar_tensor.default")
def _(c: Context, s: Any) -> Value:
    return c.scalar(s, c.dtype)


@aten("aten.arange.default")
def _(c: Context, end: Any) -> Value:
    return _arange(c, 0, end, 1)


@aten("aten.arange.start", "aten.arange.start_step")
def _(c: Context, start: Any, end: Any, step: Any = 1) -> Value:
    return _arange(c, start, end, step)


def _arange(c: Context, start: Any, end: Any, step: Any) -> Value:
    if not any(isinstance(v, Dim) for v in (start, end, step)):
        value = c.val
        return c.b.const(array_of(torch.arange(start, end, step, dtype=value.dtype)))
    if any(isinstance(v, float) for v in (start, end, step)):
        raise Refusal("a fractional range over a symbolic dim")
    steps = c.b.iota(shape=c.shape, axis=0, dtype=I64)
    if step != 1:
        steps = c.b.mul(steps, c.scalar(step, I64))
    if start != 0:
        steps = c.b.add(steps, c.scalar(start, I64))
    return c.cast(steps, c.dtype)


@aten("prims.iota.default")
def _(c: Context, length: Any, start: Any, step: Any) -> Value:
    return _arange(c, start, start + length * step, step)


@aten("aten.linspace.default")
def _(c: Context, start: Any, end: Any, steps: Any) -> Value:
    if any(isinstance(v, (Dim, Value)) for v in (start, end, steps)):
        raise Refusal("with symbolic arguments")
    return c.b.const(array_of(torch.linspace(start, end, steps, dtype=c.val.dtype)))


def _window(make: Any) -> Any:
    def entry(c: Context, window_length: Any, periodic: bool = True, alpha: Any = None, beta: Any = None) -> Value:
        shape = [v for v in (alpha, beta) if v is not None]
        if any(isinstance(v, (Dim, Value)) for v in (window_length, *shape)):
            raise Refusal("with symbolic arguments")
        return c.b.const(array_of(make(window_length, periodic, *shape, dtype=c.val.dtype)))
    return entry


aten("aten.hamming_window.default", "aten.hamming_window.periodic", "aten.hamming_window.periodic_alpha",
     "aten.hamming_window.periodic_alpha_beta")(_window(torch.hamming_window))
aten("aten.blackman_window.default", "aten.blackman_window.periodic")(_window(torch.blackman_window))
aten("aten.bartlett_window.default", "aten.bartlett_window.periodic")(_window(torch.bartlett_window))
aten("aten.kaiser_window.default", "aten.kaiser_window.periodic", "aten.kaiser_window.beta")(_window(torch.kaiser_window))


@aten("aten.eye.default", "aten.eye.m")
def _(c: Context, n: Any, m: Any = None) -> Value:
    rows = c.b.iota(shape=(n, 1), axis=0, dtype=I64)
    columns = c.b.iota(shape=(1, n if m is None else m), axis=1, dtype=I64)
    return c.cast(c.b.equal(rows, columns), c.dtype)


@aten("aten.tril_indices.default")
def _(c: Context, row: int, col: int, offset: int = 0) -> Value:
    return c.b.const(np.stack(np.tril_indices(row, offset, col)).astype(c.dtype.numpy))


@aten("aten.triu_indices.default")
def _(c: Context, row: int, col: int, offset: int = 0) -> Value:
    return c.b.const(np.stack(np.triu_indices(row, offset, col)).astype(c.dtype.numpy))


# Random numbers: a fresh draw on every run, as in eager mode -------------------------------------
def _uniform(c: Context, t: TensorType) -> Value:
    return c.b.random_uniform(shape=t.shape, low=0.0, high=1.0, dtype=t.dtype)


@aten("aten.rand.default", "aten.rand_like.default")
def _(c: Context) -> Value:
    return _uniform(c, c.type())


@aten("aten.randn.default", "aten.randn_like.default")
def _(c: Context) -> Value:
    return c.b.random_normal(shape=c.shape, mean=0.0, scale=1.0, dtype=c.dtype)


@aten("aten.bernoulli.default")
def _(c: Context, x: Value) -> Value:
    return c.b.bernoulli(x, dtype=c.dtype)


@aten("aten.bernoulli.p")
def _(c: Context, x: Value, p: float = 0.5) -> Value:
    return c.cast(c.b.bernoulli(c.full(p, x.shape, c.dtype_of(torch.float32)), dtype=c.dtype), c.dtype)
