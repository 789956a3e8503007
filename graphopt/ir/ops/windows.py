"""What convolution and pooling share: window arithmetic on dims, window views and wide accumulation on arrays."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from graphopt.ir.dims import DimLike, ceil_div, dim_min, positive
from graphopt.ir.ops.numeric import accumulator, widen
from graphopt.ir.table import Operands
from graphopt.ir.types import dtype


def widest(x: np.ndarray) -> np.ndarray:
    """The array in the dtype that its sums are carried in: f64 for floats."""
    return x.astype(accumulator(x.dtype))


def check_window(o: Operands, spatial: int, **attributes: Sequence[int]) -> None:
    """Raise IRError unless every window attribute has one entry (pad: two) a spatial dim, all in range."""
    for name, values in attributes.items():
        expected = 2 * spatial if name == "pad" else spatial
        if len(values) != expected:
            raise o.fail(f"{name} has {len(values)} entries for {spatial} spatial dims, it needs {expected}")
        if name in ("kernel", "stride", "dilation") and any(v < 1 for v in values):
            raise o.fail(f"{name}={list(values)} must be positive")


def window_dims(o: Operands, sizes: Sequence[DimLike], kernel: Sequence[DimLike], stride: Sequence[int], pad: Sequence[int],
                dilation: Sequence[int], ceil_mode: bool = False) -> list[DimLike]:
    """How many windows fit each spatial dim.

    With `ceil_mode` a last, partly filled window (the only one, where none fits) counts as long as it starts inside the input or
    its left padding (PyTorch, and ONNX since opset 19).
    """
    out: list[DimLike] = []
    n = len(sizes)
    for i, size in enumerate(sizes):
        span = (kernel[i] - 1) * dilation[i] + 1
        room = size + pad[i] + pad[n + i] - span
        if isinstance(room, int) and room < 0 and not (ceil_mode and room > -stride[i]):
            if size != 0:
                raise o.fail(f"the window of {span} exceeds the padded input of {room + span} in spatial dim {i}")
            out.append(0)
        elif ceil_mode:
            out.append(positive(dim_min(ceil_div(room, stride[i]) + 1, ceil_div(size + pad[i], stride[i]))))
        else:
            out.append(positive(room + stride[i]) // stride[i])
    return out


def window_counts(sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int], pad: Sequence[int],
                  dilation: Sequence[int], ceil_mode: bool = False) -> list[int]:
    """`window_dims` on known sizes that the shape rule has accepted."""
    out, n = [], len(sizes)
    for i, size in enumerate(sizes):
        room = size + pad[i] + pad[n + i] - ((kernel[i] - 1) * dilation[i] + 1)
        if room < 0 and not (ceil_mode and room > -stride[i]):
            out.append(0)
        elif ceil_mode:
            out.append(min(-(-room // stride[i]) + 1, -(-(size + pad[i]) // stride[i])))
        else:
            out.append(room // stride[i] + 1)
    return out


def pad_spatial(x: np.ndarray, pad: Sequence[int], value: float | int | bool) -> np.ndarray:
    """Pad the last len(pad)/2 axes; negative amounts crop."""
    n = len(pad) // 2
    amounts = [(0, 0)] * (x.ndim - n) + [(max(pad[i], 0), max(pad[n + i], 0)) for i in range(n)]
    padded = np.pad(x, amounts, constant_values=value) if any(a != (0, 0) for a in amounts) else x
    crop: list[Any] = [slice(max(-pad[i], 0), padded.shape[x.ndim - n + i] - max(-pad[n + i], 0)) for i in range(n)]
    return padded[(..., *crop)]


def windows(x: np.ndarray, out: Sequence[int], kernel: Sequence[int], stride: Sequence[int],
            dilation: Sequence[int]) -> np.ndarray:
    """A read-only view [..., *out, *kernel] of the windows over the last len(kernel) axes of a padded array."""
    n = len(kernel)
    lead = x.ndim - n
    if 0 in out:
        return np.zeros((*x.shape[:lead], *out, *kernel), x.dtype)
    steps = x.strides[lead:]
    return np.lib.stride_tricks.as_strided(
        x, (*x.shape[:lead], *out, *kernel),
        (*x.strides[:lead], *(s * st for s, st in zip(steps, stride)), *(s * d for s, d in zip(steps, dilation))),
        writeable=False)


def scatter_windows(columns: np.ndarray, sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int],
                    pad: Sequence[int], dilation: Sequence[int]) -> np.ndarray:
    """Sum windows [..., *kernel, *out] into [..., *sizes]: the transpose of `windows` on an array padded by `pad`."""
    n = len(kernel)
    counts = columns.shape[-n:]
    lead = columns.shape[:-2 * n]
    spans = [(counts[i] - 1) * stride[i] + (kernel[i] - 1) * dilation[i] + 1 if counts[i] else 0 for i in range(n)]
    # Room for the padding that is cropped again, and for sizes that windows do not reach.
    full = np.zeros((*lead, *(max(spans[i], pad[i] + sizes[i], 0) for i in range(n))), columns.dtype)
    if all(counts):
        for offset in positions(kernel):
            to: list[Any] = [slice(k * d, k * d + (c - 1) * s + 1, s) for k, d, c, s in zip(offset, dilation, counts, stride)]
            taken: list[Any] = [*offset, *[slice(None)] * n]
            full[(..., *to)] += columns[(..., *taken)]
    begin = [max(-p, 0) for p in pad[:n]]
    shifted = np.pad(full, [(0, 0)] * len(lead) + [(b, 0) for b in begin]) if any(begin) else full
    crop: list[Any] = [slice(pad[i] + begin[i], pad[i] + begin[i] + sizes[i]) for i in range(n)]
    return shifted[(..., *crop)]


def positions(sizes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Every index into a box of these sizes, row-major."""
    return itertools.product(*(range(s) for s in sizes))


def exact_matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a @ b for one dtype: floats accumulate in f32 or wider and round once, integers are exact and wrap."""
    d = dtype(a.dtype)
    if d.is_float:
        return np.matmul(widen(a), widen(b)).astype(a.dtype)
    if a.size == 0 or b.size == 0 or _fits_f64(a, b):
        # Exact in f64, where BLAS is; the conversion back wraps.
        return np.matmul(a.astype(np.float64), b.astype(np.float64)).astype(np.int64).astype(a.dtype)
    return np.matmul(widen(a), widen(b)).astype(a.dtype)


def _fits_f64(a: np.ndarray, b: np.ndarray) -> bool:
    largest = [max(abs(int(widen(x).max())), abs(int(widen(x).min()))) for x in (a, b)]
    return largest[0] * largest[1] * a.shape[-1] < 2**53
