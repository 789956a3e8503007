"""Pooling."""

from __future__ import annotations

from typing import Any

import torch

from graphopt.capture.torch.context import Context, Refusal
from graphopt.capture.torch.ops.convolution import spread
from graphopt.capture.torch.table import aten
from graphopt.ir.dims import is_static, product
from graphopt.ir.graph import Value
from graphopt.ir.types import I64


def _batched(c: Context, x: Value, n: int) -> Value:
    return c.unsqueeze(x, 0) if x.rank == n + 1 else x


def _window(n: int, kernel: Any, stride: Any, padding: Any, dilation: Any) -> dict[str, Any]:
    kernel = spread(kernel, n)
    return {"kernel": kernel, "stride": spread(stride, n) if stride not in ((), [], None) else kernel,
            "pad": spread(padding, n) * 2, "dilation": spread(dilation, n)}


def _max_pool(n: int) -> Any:
    def entry(c: Context, x: Value, kernel_size: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1,
              ceil_mode: bool = False) -> Value:
        window = _window(n, kernel_size, stride, padding, dilation)
        return c.reshape(c.b.max_pool(_batched(c, x, n), **window, ceil_mode=ceil_mode), c.shape)
    return entry


def _max_pool_with_indices(n: int) -> Any:
    def entry(c: Context, x: Value, kernel_size: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1,
              ceil_mode: bool = False) -> Any:
        window = _window(n, kernel_size, stride, padding, dilation)
        batched = _batched(c, x, n)
        if not c.uses(1):
            return (c.reshape(c.b.max_pool(batched, **window, ceil_mode=ceil_mode), c.shape),)
        values, flat = c.b.max_pool_indices(batched, **window, ceil_mode=ceil_mode)
        plane = c.scalar(product(batched.shape[2:]), c.dtype_of(torch.int64))
        return c.reshape(values, c.shape), c.reshape(c.b.mod(flat, plane), c.shape)  # torch counts within the plane
    return entry


def _avg_pool(n: int) -> Any:
    def entry(c: Context, x: Value, kernel_size: Any, stride: Any = (), padding: Any = 0, ceil_mode: bool = False,
              count_include_pad: bool = True, divisor_override: int | None = None) -> Value:
        window = _window(n, kernel_size, stride, padding, 1)
        return c.reshape(c.b.avg_pool(_batched(c, x, n), **window, ceil_mode=ceil_mode, count_include_pad=count_include_pad,
                                      divisor=divisor_override), c.shape)
    return entry


def _adaptive_avg(n: int) -> Any:
    def entry(c: Context, x: Value, output_size: Any) -> Value:
        return c.reshape(c.b.adaptive_avg_pool(_batched(c, x, n), output=_sizes(c, output_size, n)), c.shape)
    return entry


def _adaptive_max(n: int) -> Any:
    def entry(c: Context, x: Value, output_size: Any) -> Any:
        values, indices = c.b.adaptive_max_pool(_batched(c, x, n), output=_sizes(c, output_size, n))
        return c.reshape(values, c.shape), c.reshape(indices, c.shape)
    return entry


def _sizes(c: Context, output_size: Any, n: int) -> list[int]:
    sizes = list(c.shape[-n:])
    if not all(isinstance(s, int) for s in sizes):
        raise Refusal("a symbolic output size")
    return sizes  # type: ignore[return-value]


for _n in (1, 2, 3):
    aten(f"aten.max_pool{_n}d.default")(_max_pool(_n))
    aten(f"aten.max_pool{_n}d_with_indices.default")(_max_pool_with_indices(_n))
    aten(f"aten.avg_pool{_n}d.default")(_avg_pool(_n))
    aten(f"aten.adaptive_avg_pool{_n}d.default")(_adaptive_avg(_n))
    aten(f"aten.adaptive_max_pool{_n}d.default")(_adaptive_max(_n))
for _n in (2, 3):
    aten(f"aten._adaptive_avg_pool{_n}d.default")(_adaptive_avg(_n))


def _fractional(n: int) -> Any:
    def entry(c: Context, x: Value, kernel_size: Any, output_size: Any, random_samples: Value) -> Any:
        """Windows that begin at int((i + u) a) - int(u a), a = (size - kernel) / (outputs - 1), u a random sample an axis; the
        last begins where it just fits (Graham, 2014)."""
        kernel, output = spread(kernel_size, n), spread(output_size, n)
        batched = _batched(c, x, n)
        if not is_static(batched.shape):
            raise Refusal("symbolic sizes")
        batch, channels, *sizes = batched.static_shape
        samples = c.cast(random_samples, c.dtype)
        wide = (batch, channels, *(d for pair in zip(output, kernel) for d in pair))
        places, flat = [], None
        for axis in range(n):
            own = n - 1 - axis if n == 2 else axis  # of two, that of the width comes first
            u = c.slice(samples, 2, own, own + 1)
            step = c.scalar((sizes[axis] - kernel[axis]) / max(output[axis] - 1, 1), c.dtype)
            i = c.b.iota(shape=(1, 1, output[axis]), axis=2, dtype=I64)
            begin = c.b.sub(c.cast(c.b.mul(c.b.add(c.cast(i, c.dtype), u), step), I64), c.cast(c.b.mul(u, step), I64))
            begin = c.b.where(c.b.equal(i, c.scalar(output[axis] - 1, I64)), c.scalar(sizes[axis] - kernel[axis], I64), begin)
            at = c.b.add(c.unsqueeze(begin, 3), c.b.iota(shape=(1, 1, 1, kernel[axis]), axis=3, dtype=I64))
            at = c.reshape(at, (batch, channels, *[1] * (2 * axis), output[axis], kernel[axis], *[1] * (2 * (n - 1 - axis))))
            places.append(c.unsqueeze(c.expand(at, wide), len(wide)))
            flat = at if flat is None else c.b.add(c.b.mul(flat, c.scalar(sizes[axis], I64)), at)
        windows = c.b.gather_nd(batched, c.concat(places, len(wide)), batch_dims=2)
        order = [0, 1, *(2 + 2 * a for a in range(n)), *(3 + 2 * a for a in range(n))]
        rows = (batch, channels, *output, product(kernel))
        windows, indices = (c.reshape(c.permute(v, order), rows) for v in (windows, c.expand(flat, wide)))  # type: ignore[arg-type]
        best = c.b.argmax(windows, axis=n + 2, keepdims=True)
        return tuple(c.reshape(c.b.gather_elements(v, best, axis=n + 2), c.shape) for v in (windows, indices))
    return entry


for _n in (2, 3):
    aten(f"aten.fractional_max_pool{_n}d.default")(_fractional(_n))
