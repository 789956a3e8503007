"""Resampling: resize, grid sampling, regions of interest; and the determinant."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np

from graphopt.ir.dims import DimLike, Shape
from graphopt.ir.ops.numeric import widen
from graphopt.ir.ops.resample import Taps, interpolation, leaves_alone, resized, round_to
from graphopt.ir.ops.windows import positions, widest
from graphopt.ir.table import Operands, Trait, op

COORDINATES = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric", "tf_crop_and_resize")


def _one_of(o: Operands, name: str, known: tuple[str, ...]) -> None:
    if getattr(o, name) not in known:
        raise o.fail(f"{name}={getattr(o, name)!r}, known: {', '.join(known)}")


def _resize_shape(o: Operands) -> Shape:
    n = len(o.axes)
    _one_of(o, "mode", ("nearest", "linear", "cubic"))
    _one_of(o, "coordinates", COORDINATES)
    _one_of(o, "nearest", ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"))
    if any(not 0 <= a < o.x.rank for a in o.axes) or len(set(o.axes)) != n:
        raise o.fail(f"axes={list(o.axes)} do not name axes of {o.x}")
    if len(o.sizes) != n or len(o.scales) not in (0, n) or len(o.steps) not in (0, n):
        raise o.fail(f"{len(o.sizes)} sizes, {len(o.scales)} scales and {len(o.steps)} steps for {n} axes")
    if o.scales and o.steps:
        raise o.fail("scales and steps are given, which say the same")
    if o.coordinates == "tf_crop_and_resize" and len(o.roi) != 2 * n:
        raise o.fail(f"roi has {len(o.roi)} entries, it must give starts and ends of {n} axes")
    if o.antialias and o.mode == "nearest":
        raise o.fail("antialias needs mode linear or cubic")
    shape = list(o.x.shape)
    for axis, size in zip(o.axes, o.sizes):
        if shape[axis] == 0 and size != 0:
            raise o.fail(f"axis {axis} of {o.x} is empty, it cannot be resized to {size}")
        shape[axis] = size
    return tuple(shape)


def _resize_operations(o: Operands, results) -> DimLike:
    taps = {"nearest": 0, "linear": 2, "cubic": 4}[o.mode]
    return 2 * results[0].size * taps ** len(o.axes) if taps else 0


@op("resize(x: T; sizes: dims, scales: floats = [], axes: ints, mode: str, coordinates: str = half_pixel, "
    "nearest: str = round_prefer_floor, cubic_a: float = -0.75, exclude_outside: bool = false, antialias: bool = false, "
    "extrapolation: float = 0, roi: floats = [], steps: floats = []) -> T", T="number", shape=_resize_shape,
    operations=_resize_operations)
def resize(x, *, sizes, scales, axes, mode, coordinates, nearest, cubic_a, exclude_outside, antialias, extrapolation, roi,
           steps):
    """Resample `axes` to `sizes`, one axis after the other (ONNX Resize; torch interpolate).

    `coordinates` maps an output index to the input, by division by `scales` where given (ONNX), by multiplication by `steps`
    where given (PyTorch), else by the ratio of sizes; roi holds the starts, then the ends, of tf_crop_and_resize, normalised.
    Indices outside are clamped, or with `exclude_outside` their weight goes to the others; tf_crop_and_resize gives
    `extrapolation` there. By scales that leave all sizes as they are nothing changes. `antialias` widens the filter by the
    downscaling. Computed in f64, rounded once, but for the coordinates of mode nearest and of tf_crop_and_resize, which are f32
    as in onnxruntime and PyTorch; integers round half to even and saturate.
    """
    given = SimpleNamespace(sizes=sizes, scales=scales, steps=steps, coordinates=coordinates, roi=roi, axes=axes, mode=mode,
                            antialias=antialias)
    if leaves_alone(x.shape, given):
        return x.copy()
    y = x if mode == "nearest" else x.astype(np.float64)
    outside = np.zeros((1,) * x.ndim, bool)
    for i, (axis, size) in enumerate(zip(axes, sizes)):
        taps = interpolation(resized(i, x.shape[axis], size, given), mode, nearest=nearest, cubic_a=cubic_a,
                             exclude_outside=exclude_outside, antialias=antialias)
        y = _apply(y, axis, taps)
        along = [1] * x.ndim
        along[axis] = size
        outside = outside | taps.outside.reshape(along)
    if outside.any():
        y = np.where(outside, np.asarray(extrapolation, y.dtype), y)
    return round_to(y, x.dtype)


def _apply(x: np.ndarray, axis: int, taps: Taps) -> np.ndarray:
    if taps.weights is None:
        return np.take(x, taps.indices[:, 0], axis=axis)
    along = [1] * x.ndim
    along[axis] = -1
    shape = list(x.shape)
    shape[axis] = len(taps.indices)
    y = np.zeros(shape, x.dtype)
    for k in range(taps.indices.shape[1]):
        y += np.take(x, taps.indices[:, k], axis=axis) * taps.weights[:, k].reshape(along)
    return y


# grid_sample --------------------------------------------------------------------------------
def _grid_shape(o: Operands) -> Shape:
    n = o.x.rank - 2
    _one_of(o, "mode", ("nearest", "linear", "cubic"))
    _one_of(o, "padding", ("zeros", "border", "reflection"))
    if n not in (1, 2, 3) or o.grid.rank != o.x.rank:
        raise o.fail(f"x must be [N, C, 1 to 3 spatial dims] and the grid of its rank, got {o.x} and {o.grid}")
    if isinstance(o.grid.shape[-1], int) and o.grid.shape[-1] != n:
        raise o.fail(f"the last axis of the grid {o.grid} must hold {n} coordinates")
    return (*o.x.shape[:2], *o.grid.shape[1:-1])


def _reflect(at: np.ndarray, low: float, high: float) -> np.ndarray:
    """Mirror coordinates at both borders until they lie between them."""
    if high <= low:
        return np.zeros_like(at)
    span = np.asarray(high - low, at.dtype)
    distance = np.abs(at - at.dtype.type(low))
    extra, flips = np.fmod(distance, span), np.floor(distance / span)
    return np.where(flips % 2 == 0, extra + at.dtype.type(low), at.dtype.type(high) - extra)


def _inside(at: np.ndarray, size: int, padding: str, align_corners: bool) -> np.ndarray:
    """A coordinate under `padding`: clamped, reflected, or for zeros left where it is."""
    if padding == "zeros":
        return at
    if padding == "reflection":
        at = _reflect(at, 0, size - 1) if align_corners else _reflect(at, -0.5, size - 0.5)
    return np.clip(at, 0, size - 1)


def _cubic(t: np.ndarray, a: float) -> list[np.ndarray]:
    near = lambda s: ((a + 2) * s - (a + 3)) * s * s + 1
    far = lambda s: ((a * s - 5 * a) * s + 8 * a) * s - 4 * a
    return [far(t + 1), near(t), near(1 - t), far(2 - t)]


@op("grid_sample(x: T, grid: G; mode: str, padding: str, align_corners: bool) -> T", T="number", G="f16|bf16|f32|f64",
    shape=_grid_shape, operations=lambda o, results: 2 * results[0].size * 2 ** (o.x.rank - 2))
def grid_sample(x, grid, *, mode, padding, align_corners):
    """Sample x [N, C, spatial...] at grid [N, out..., n], whose last axis holds coordinates in -1..1, last axis of x first.

    -1 and 1 are the centres of the first and last element with `align_corners`, else their outer borders.
    Coordinates are computed in the grid's dtype (f32 at least), in this order: unnormalise, then `padding`
    (before rounding or interpolating; for cubic, a = -0.75, on each tap). nearest rounds half to even.
    NaN coordinates lie outside (ONNX GridSample, torch grid_sample; for cubic with border onnx's own reference
    clamps the coordinate instead of the taps).
    """
    n, c, *sizes = x.shape
    points = grid.shape[1:-1]
    at = widen(grid)
    axes = []
    for i, size in enumerate(sizes):
        g = at[..., len(sizes) - 1 - i].reshape(n, math.prod(points))
        where = (g + 1) / 2 * (size - 1) if align_corners else ((g + 1) * size - 1) / 2
        # Far outside is as good as infinitely far, and fits an integer.
        where = np.clip(np.where(np.isnan(where), -1e9, where), -1e9, 1e9).astype(at.dtype)
        if mode == "cubic":
            low = np.floor(where)
            taps = [_inside(low + k, size, padding, align_corners) for k in (-1, 0, 1, 2)]
            weights = _cubic((where - low).astype(np.float64), -0.75)
        else:
            where = _inside(where, size, padding, align_corners)
            if mode == "nearest":
                taps, weights = [np.rint(where)], [np.ones(where.shape)]
            else:
                low = np.floor(where)
                part = (where - low).astype(np.float64)
                taps, weights = [low, low + 1], [1 - part, part]
        axes.append([(t.astype(np.int64), w, (t >= 0) & (t <= size - 1)) for t, w in zip(taps, weights)])
    source = widest(x).reshape(n, c, math.prod(sizes))
    y = np.zeros((n, c, math.prod(points)), np.result_type(source.dtype, np.float64) if mode != "nearest" else source.dtype)
    if source.shape[-1] and y.size:
        for corner in positions([len(a) for a in axes]):
            flat, weight, inside = np.zeros(y[:, 0].shape, np.int64), np.ones(y[:, 0].shape), np.ones(y[:, 0].shape, bool)
            for (index, w, valid), size in zip((a[k] for a, k in zip(axes, corner)), sizes):
                flat = flat * size + np.clip(index, 0, size - 1)
                weight, inside = weight * w, inside & valid
            taken = np.take_along_axis(source, flat[:, None, :], axis=-1)
            if mode == "nearest":
                y += np.where(inside[:, None], taken, 0)
            else:
                y += np.where(inside[:, None], taken * weight[:, None], 0)
    return round_to(y, x.dtype).reshape(n, c, *points)


# roi_align ----------------------------------------------------------------------------------
def _roi_shape(o: Operands) -> Shape:
    _one_of(o, "mode", ("avg", "max"))
    if o.x.rank != 4 or o.rois.rank != 2 or o.batch_indices.rank != 1 or len(o.output) != 2:
        raise o.fail(f"x must be [N, C, H, W], rois [R, 4], batch_indices [R], output two sizes; got {o.x}, {o.rois}, "
                     f"{o.batch_indices}, {list(o.output)}")
    return (o.rois.shape[0], o.x.shape[1], *o.output)


@op("roi_align(x: T, rois: T, batch_indices: i64; mode: str = avg, output: ints, sampling_ratio: int, scale: float, "
    "half_pixel: bool) -> T", T="f16|bf16|f32|f64", shape=_roi_shape,
    operations=lambda o, results: 8 * max(o.sampling_ratio, 1) ** 2 * results[0].size)
def roi_align(x, rois, batch_indices, *, mode, output, sampling_ratio, scale, half_pixel):
    """Pool regions (x1, y1, x2, y2) * scale of x into `output` bins each (He et al. 2017; ONNX RoiAlign, torchvision).

    Every bin is sampled bilinearly at sampling_ratio^2 points (0: as many as it covers, rounded up); avg takes
    their mean, max the largest of the weighted neighbours of all points, as ONNX specifies by example. Samples
    more than one outside x are 0. `half_pixel` shifts by -0.5 and admits regions smaller than 1.
    """
    source = widest(x)
    height, width = x.shape[2:]
    rows, columns = output
    y = np.zeros((len(rois), x.shape[1], rows, columns), source.dtype)
    shift = 0.5 if half_pixel else 0.0
    for r, box in enumerate(widest(rois)):
        left, top, right, bottom = (v * source.dtype.type(scale) - shift for v in box)
        tall, broad = bottom - top, right - left
        if not half_pixel:
            tall, broad = max(tall, 1.0), max(broad, 1.0)
        fy = sampling_ratio if sampling_ratio > 0 else math.ceil(tall / rows)
        fx = sampling_ratio if sampling_ratio > 0 else math.ceil(broad / columns)
        if fy <= 0 or fx <= 0 or not height or not width:
            continue
        ys = top + (np.arange(rows * fy) // fy) * (tall / rows) + (np.arange(rows * fy) % fy + 0.5) * (tall / rows / fy)
        xs = left + (np.arange(columns * fx) // fx) * (broad / columns) + (np.arange(columns * fx) % fx + 0.5) * (
            broad / columns / fx)
        (y0, y1, wy0, wy1), (x0, x1, wx0, wx1) = _bilinear(ys, height), _bilinear(xs, width)
        plane = source[batch_indices[r]]
        terms = np.stack([plane[:, yy][:, :, xx] * (wy[:, None] * wx[None, :])
                          for yy, wy in ((y0, wy0), (y1, wy1)) for xx, wx in ((x0, wx0), (x1, wx1))])
        samples = terms.sum(axis=0) if mode == "avg" else terms.max(axis=0)
        bins = samples.reshape(-1, rows, fy, columns, fx)
        y[r] = bins.mean(axis=(2, 4)) if mode == "avg" else bins.max(axis=(2, 4))
    return y.astype(x.dtype)


def _bilinear(at: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Lower and upper neighbour and their weights along one axis; weights are zero more than one outside."""
    valid = (at >= -1) & (at <= size)
    inside = np.where(valid, np.clip(at, 0, size - 1), 0)
    low = np.floor(inside).astype(np.int64)
    part = inside - low
    return low, np.minimum(low + 1, size - 1), np.where(valid, 1 - part, 0), np.where(valid, part, 0)


# det ----------------------------------------------------------------------------------------
def _det_shape(o: Operands) -> Shape:
    if o.x.rank < 2 or (isinstance(o.x.shape[-1], int) and isinstance(o.x.shape[-2], int)
                        and o.x.shape[-1] != o.x.shape[-2]):
        raise o.fail(f"x must hold square matrices, got {o.x}")
    return o.x.shape[:-2]


@op("det(x: T) -> T", T="f16|bf16|f32|f64", shape=_det_shape, traits=Trait.REDUCTION,
    operations=lambda o, results: results[0].size * o.x.shape[-1] * o.x.shape[-1] * o.x.shape[-1],
    rows=lambda o: (0,) if o.x.rank > 2 else ())
def det(x):
    """The determinant of each matrix [..., M, M]; 1 for M = 0. Computed in f64."""
    return np.asarray(np.linalg.det(x.astype(np.float64))).astype(x.dtype)
