"""The weights of one-dimensional resampling, shared by the reference of `resize` and its lowering."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True)
class Axis:
    """One resized axis, from `size` to `out` elements: parameters as of the op `resize`.

    Where a coordinate decides which element is meant (the nearest one, or whether it lies outside), it is computed in f32, one
    rounding an operation, as onnxruntime and PyTorch do: whether 3 / 0.6 is below 5 is otherwise another element. Everything
    else is continuous in the coordinate, and computed in f64.
    """

    size: int
    out: int
    scale: float | None
    step: float | None
    coordinates: str
    roi: tuple[float, float]
    narrow: bool
    rounded: bool  # whether a coordinate is rounded to f32 at the end

    @property
    def tie(self) -> float:
        """How far from the middle between two elements a coordinate still counts as there; onnxruntime has 1e-6."""
        return 1e-6 if self.scale is not None else 0.0

    @property
    def single(self) -> bool:
        """Whether there is one element, which lies where its coordinates say."""
        return self.out == 1

    @property
    def offset(self) -> float:
        """How far half_pixel_symmetric moves the elements, so that the middles of both images meet; onnxruntime rounds each step
        of this to f32, and computes the rest in f64."""
        number = np.float32 if self.rounded else np.float64
        size, out = number(self.size), number(self.out)
        length = out if self.scale is None else number(self.scale) * size
        return float(size / number(2) * (number(1) - out / length))

    def at(self, index: Any, number: Callable[[Any], Any]) -> Any:
        """The coordinate of an element among `size` (ONNX Resize's coordinate_transformation_mode), of an index in the
        dtype that `number` gives. ONNX's length_resized is the number of elements but for half_pixel_symmetric."""
        size, out = number(self.size), number(self.out)
        match self.coordinates:
            case "half_pixel":
                return self.back(index + number(0.5), number) - number(0.5)
            case "pytorch_half_pixel":
                return self.back(index + number(0.5), number) - number(0.5) if not self.single else index * number(0)
            case "half_pixel_symmetric":
                return number(self.offset) + self.back(index + number(0.5), number) - number(0.5)
            case "asymmetric":
                return self.back(index, number)
            case "align_corners":
                return index * (size - number(1)) / (out - number(1)) if not self.single else index * number(0)
        start, end = map(number, self.roi)
        if self.single:
            return index * number(0) + number(0.5) * (start + end) * (size - number(1))
        return start * (size - number(1)) + index * (end - start) * (size - number(1)) / (out - number(1))

    def back(self, v: Any, number: Callable[[Any], Any]) -> Any:
        """From a place among the results to one among the elements."""
        if self.step is not None:
            return v * number(self.step)
        if self.scale is not None:
            return v / number(self.scale)
        if self.narrow:
            return v * number(np.float32(self.size) / np.float32(self.out))
        return v * number(self.size) / number(self.out)  # a quotient, so that whole numbers come out whole

    @property
    def shrink(self) -> float:
        """How much narrower than the results the elements lie, at most 1: an antialiasing filter is as much wider."""
        ratio = 1 / self.step if self.step else self.scale if self.scale is not None else self.out / max(self.size, 1)
        return min(ratio, 1.0)

    def coordinate(self) -> np.ndarray:
        """The coordinates of all results, f64 [out]."""
        number = np.float32 if self.narrow else np.float64
        at = np.asarray(self.at(np.arange(self.out, dtype=number), number))
        return (at.astype(np.float32) if self.rounded else at).astype(np.float64)


def leaves_alone(shape: Sequence[int], o: Any) -> bool:
    """Does an op `resize` by scales give its operand, of this shape, as it is? Where no axis changes its size, as onnxruntime."""
    return bool(o.scales) and o.coordinates != "tf_crop_and_resize" and all(shape[a] == n for a, n in zip(o.axes, o.sizes))


def resized(k: int, size: int, out: int, o: Any) -> Axis:
    """The k-th axis of an op `resize`, whose attributes `o` has."""
    crop = o.coordinates == "tf_crop_and_resize"
    step = o.steps[k] if o.steps else None
    image = o.mode == "nearest" and o.coordinates == "asymmetric" and len(o.axes) == 2
    if step is not None and size == out and (o.mode == "linear" or o.antialias or image):
        step = 1.0  # PyTorch leaves such an axis alone, whatever the factor, but not in mode cubic, nor in lines and volumes
    elif step is not None and image and out == 2 * size:
        step = 0.5  # and doubles such a one of an image
    rounded = crop or o.mode == "nearest"
    narrow = rounded and o.coordinates != "half_pixel_symmetric"
    return Axis(size, out, o.scales[k] if o.scales else None, step, o.coordinates,
                (o.roi[k], o.roi[len(o.axes) + k]) if crop else (0.0, 1.0), narrow, rounded)


def interpolation(axis: Axis, mode: str, *, nearest: str, cubic_a: float, exclude_outside: bool, antialias: bool) -> Taps:
    """The taps of resizing one axis; parameters as of the op `resize`."""
    size, out = axis.size, axis.out
    at = axis.coordinate()
    outside = (at < 0) | (at > size - 1) if axis.coordinates == "tf_crop_and_resize" else np.zeros(out, bool)
    if mode == "nearest":
        if nearest.startswith("round"):
            half = np.floor(at) + 0.5
            at = np.where(np.abs(at - half) <= axis.tie, half, at)
        rounded = {"round_prefer_floor": np.ceil(at - 0.5), "round_prefer_ceil": np.floor(at + 0.5),
                   "floor": np.floor(at), "ceil": np.ceil(at)}[nearest]
        return Taps(np.clip(rounded, 0, size - 1).astype(np.int64)[:, None], None, outside)
    low = np.floor(at)
    shrink = axis.shrink if antialias else 1.0
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
