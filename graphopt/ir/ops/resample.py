"""The weights of one-dimensional resampling, shared by the reference of `resize` and its lowering."""

from __future__ import annotations

import math
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from graphopt.ir.types import dtype


@dataclass(frozen=True)
class Taps:
    """How each output element along an axis is made: sum over k of x[indices[i, k]] * weights[i, k].

    weights is None where there is one tap of weight 1. `outside` marks what tf_crop_and_resize extrapolates.
    """

    indices: np.ndarray  # i64 [out, taps]
    weights: np.ndarray | None  # f64 [out, taps]
    outside: np.ndarray  # bool [out]


def source_coordinates(size: int, out: int, scale: float | None, coordinates: str, roi: tuple[float, float]) -> np.ndarray:
    """Where each of `out` elements lies among `size`, f64 (ONNX Resize's coordinate_transformation_mode).

    Without a scale the ratio of the sizes is kept as a quotient, so that whole numbers come out whole.
    """
    index = np.arange(out, dtype=np.float64)
    length = out if scale is None else scale * size  # the resized length may be fractional under a scale
    back = (lambda v: v * size / out) if scale is None else (lambda v: v / scale)
    match coordinates:
        case "half_pixel":
            return back(index + 0.5) - 0.5
        case "pytorch_half_pixel":
            return back(index + 0.5) - 0.5 if length != 1 else np.full(out, -0.5)
        case "half_pixel_symmetric":
            return size / 2 * (1 - out / length) + back(index + 0.5) - 0.5
        case "asymmetric":
            return back(index)
        case "align_corners":
            return index * (size - 1) / (length - 1) if length != 1 else np.zeros(out)
    start, end = roi
    if length == 1:
        return np.full(out, (start + end) * (size - 1) / 2)
    return start * (size - 1) + index * (end - start) * (size - 1) / (length - 1)


def interpolation(size: int, out: int, scale: float | None, mode: str, coordinates: str, *, nearest: str, cubic_a: float,
                  exclude_outside: bool, antialias: bool, roi: tuple[float, float]) -> Taps:
    """The taps of resizing one axis from `size` to `out` elements; parameters as of the op `resize`."""
    at = source_coordinates(size, out, scale, coordinates, roi)
    outside = (at < 0) | (at > size - 1) if coordinates == "tf_crop_and_resize" else np.zeros(out, bool)
    if mode == "nearest":
        rounded = {"round_prefer_floor": np.ceil(at - 0.5), "round_prefer_ceil": np.floor(at + 0.5),
                   "floor": np.floor(at), "ceil": np.ceil(at)}[nearest]
        return Taps(np.clip(rounded, 0, size - 1).astype(np.int64)[:, None], None, outside)
    low = np.floor(at)
    shrink = min(scale if scale is not None else out / max(size, 1), 1.0) if antialias else 1.0
    reach = 1 if mode == "linear" else 2
    first = math.floor(-reach / shrink) + 1 if shrink else 1 - reach
    offsets = np.arange(first, 2 - first)
    distance = np.abs((offsets[None, :] - (at - low)[:, None]) * shrink)
    weights = np.maximum(1 - distance, 0) if mode == "linear" else keys_cubic(distance, cubic_a)
    indices = low[:, None] + offsets[None, :]
    if exclude_outside:
        weights = np.where((indices >= 0) & (indices <= size - 1), weights, 0)
    if exclude_outside or antialias:
        total = weights.sum(axis=1, keepdims=True)
        weights = weights / np.where(total == 0, 1, total)
    return Taps(np.clip(indices, 0, max(size - 1, 0)).astype(np.int64), weights, outside)


def keys_cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel (1981) at non-negative distances."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0))


def round_to(y: np.ndarray, to: np.dtype) -> np.ndarray:
    """y in dtype `to`; to an integer half to even, saturated."""
    d = dtype(to)
    if not d.is_integer or y.dtype.kind != "f":
        return y.astype(to)
    info = ml_dtypes.iinfo(to)
    low, high = int(info.min), int(info.max)
    rounded = np.rint(y)
    # The largest 64-bit integers have no float of their own: those at the limit are set after the cast.
    cast = np.where((rounded > low) & (rounded < high), rounded, 0).astype(np.int64 if d.kind == "int" else np.uint64)
    return np.where(rounded >= high, high, np.where(rounded <= low, low, cast)).astype(to)
