"""Resizing and sampling."""

from __future__ import annotations

import math

import numpy as np

from graphopt.capture.onnx.context import Context, Node, rank_of, static_shape
from graphopt.capture.onnx.table import Defer, Results, entry
from graphopt.ir.dims import Dim, DimLike, scaled
from graphopt.ir.graph import Value
from graphopt.ir.table import normalise_axis
from graphopt.ir.types import I64


@entry("Upsample", since=7)
def upsample_attributes(b: Context, n: Node) -> Results:
    return _asymmetric(b, n, n[0], n.attr("scales"), "floor")


@entry("Upsample", since=9)
def upsample(b: Context, n: Node) -> Results:
    return _asymmetric(b, n, n[0], _floats(n, 1), "floor")


@entry("Resize", since=10)
def resize_10(b: Context, n: Node) -> Results:
    """The nearest element is the one before where an axis grows, the one after where it shrinks: so the operator's own test
    cases say, and onnxruntime (the specification of opset 10 is silent)."""
    scales = _floats(n, 1)
    if n.attr("mode", "nearest") != "nearest":  # no element is chosen: all axes in one, rounded once
        return _asymmetric(b, n, n[0], scales, "floor")
    grown = _asymmetric(b, n, n[0], [max(s, 1.0) for s in scales], "floor")
    return _asymmetric(b, n, grown, [min(s, 1.0) for s in scales], "ceil")


def _asymmetric(b: Context, n: Node, x: Value, scales: list[float], nearest: str) -> Value:
    sizes = [scaled(d, s) for d, s in zip(rank_of(x), scales)]
    mode = n.attr("mode", "nearest")
    return _resize(b, x, list(range(len(scales))), sizes, scales, mode="linear" if mode == "bilinear" else mode,
                   coordinates="asymmetric", nearest=nearest, cubic_a=-0.75, exclude_outside=False, antialias=False,
                   extrapolation=0.0, roi=[])


@entry("Resize", since=11)
def resize(b: Context, n: Node) -> Results:
    x = n[0]
    coordinates = n.attr("coordinate_transformation_mode", "half_pixel")
    crop = coordinates == "tf_crop_and_resize"
    n.need(*([1] if crop else []), 2, 3)
    shape = rank_of(x)
    axes = [normalise_axis(a, len(shape)) for a in n.attr("axes", None) or range(len(shape))]
    given = _floats(n, 2) if n.get(2) is not None else []
    if given:
        scales, sizes = given, [scaled(shape[a], s) for a, s in zip(axes, given)]
    else:
        sizes, scales = _from_sizes(n, axes, list(n.dims(3) or ()))
    roi = _floats(n, 1) if crop else []
    return _resize(b, x, axes, sizes, scales, mode=n.attr("mode", "nearest"), coordinates=coordinates,
                   nearest=n.attr("nearest_mode", "round_prefer_floor"), cubic_a=n.attr("cubic_coeff_a", -0.75),
                   exclude_outside=bool(n.attr("exclude_outside", 0)), antialias=bool(n.attr("antialias", 0)),
                   extrapolation=n.attr("extrapolation_value", 0.0), roi=roi)


def _from_sizes(n: Node, axes: list[int], sizes: list[DimLike]) -> tuple[list[DimLike], list[float]]:
    """Sizes and scales where sizes are given; the policy may keep the aspect ratio within or around them."""
    shape = rank_of(n[0])
    policy = n.attr("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch" and all(shape[a] == s for a, s in zip(axes, sizes) if isinstance(s, Dim) or isinstance(shape[a], Dim)):
        return sizes, [1.0 if isinstance(s, Dim) else _ratio(s, shape[a]) for a, s in zip(axes, sizes)]
    old = [static_shape(n[0])[a] for a in axes]
    new = n.ints(3)
    assert new is not None
    ratios = [_ratio(s, d) for s, d in zip(new, old)]
    if policy == "stretch":
        return list(new), ratios
    ratio = min(ratios) if policy == "not_larger" else max(ratios)
    return [math.floor(ratio * d + 0.5) for d in old], [ratio] * len(old)


def _ratio(new: DimLike, old: DimLike) -> float:
    """The scale that onnxruntime makes of two sizes: a quotient in f32. What is empty stays so at any scale."""
    assert isinstance(new, int) and isinstance(old, int)
    return float(np.float32(new) / np.float32(old)) if old else 1.0


def _floats(n: Node, index: int) -> list[float]:
    content = n.known(index)
    values = [] if content is None else content.reshape(-1).tolist()
    if any(isinstance(v, Dim) for v in values):
        raise Defer(f"operand {index} depends on symbolic dims")
    return [float(v) for v in values]


def _resize(b: Context, x: Value, axes: list[int], sizes: list[DimLike], scales: list[float], *, coordinates: str,
            roi: list[float], **attrs: object) -> Value:
    """The IR's resize over the axes that change."""
    shape = rank_of(x)
    changed = [i for i, a in enumerate(axes) if coordinates == "tf_crop_and_resize" or scales[i] != 1.0 or shape[a] != sizes[i]]
    if not changed:
        return x
    order = sorted(changed, key=lambda i: axes[i])
    k = len(axes)
    window = [roi[i] for i in order] + [roi[k + i] for i in order] if roi else []
    return b.resize(x, axes=[axes[i] for i in order], sizes=[sizes[i] for i in order], scales=[scales[i] for i in order],
                    coordinates=coordinates, roi=window, **attrs)


@entry("GridSample")
def grid_sample(b: Context, n: Node) -> Results:
    mode = n.attr("mode", "linear")
    return b.grid_sample(n[0], n[1], mode={"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode),
                         padding=n.attr("padding_mode", "zeros"), align_corners=bool(n.attr("align_corners", 0)))


@entry("RoiAlign")
def roi_align(b: Context, n: Node) -> Results:
    """Before opset 16 there was no shift by half a pixel."""
    half = n.attr("coordinate_transformation_mode", "half_pixel" if n.version >= 16 else "output_half_pixel") == "half_pixel"
    return b.roi_align(n[0], n[1], b.to(n[2], I64), mode=n.attr("mode", "avg"),
                       output=(n.attr("output_height", 1), n.attr("output_width", 1)),
                       sampling_ratio=n.attr("sampling_ratio", 0), scale=n.attr("spatial_scale", 1.0), half_pixel=half)


@entry("Det")
def det(b: Context, n: Node) -> Results:
    return b.det(n[0])
