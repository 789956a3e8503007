"""Resampling of images and torchvision's operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from graphopt.capture.torch.context import Context, Refusal
from graphopt.capture.torch.table import aten
from graphopt.ir.dims import Dim, DimLike, is_static
from graphopt.ir.graph import Value
from graphopt.ir.types import I64


def _resize(c: Context, x: Value, factors: Sequence[float | None], mode: str, coordinates: str, *, nearest: str = "floor",
            cubic_a: float = -0.75, antialias: bool = False) -> Value:
    """The IR's resize over the spatial axes; `factors` are the user's scales, None where torch derives them from the sizes."""
    axes = range(2, x.rank)
    sizes = [c.shape[a] for a in axes]
    if any(f is None for f in factors) and any(f is not None for f in factors):
        raise Refusal("a scale factor for some axes only")
    steps = [float(np.float32(1.0 / f)) for f in factors if f is not None]  # as torch keeps a factor
    if antialias and coordinates == "align_corners":
        coordinates, steps = "half_pixel", [_corner_step(x.shape[a], n) for a, n in zip(axes, sizes)]
    return c.b.resize(x, sizes=sizes, steps=steps, axes=axes, mode=mode, coordinates=coordinates, nearest=nearest,
                      cubic_a=cubic_a, exclude_outside=antialias, antialias=antialias, extrapolation=0.0, roi=())


def _corner_step(size: DimLike, out: DimLike) -> float:
    """torch's antialiased filters take from align_corners the distance between places, but not where the first one lies."""
    if isinstance(size, Dim) or isinstance(out, Dim):
        raise Refusal("antialias=True with align_corners=True and sizes that are not known")
    return max((size - 1) / (out - 1) if out > 1 else 0.0, 1e-30)  # a step must be positive


def _factors(n: int, scale_factors: Any, given: Sequence[Any]) -> list[float | None]:
    if scale_factors is not None:
        return list(scale_factors)
    return list(given)[:n] + [None] * (n - len(given[:n]))


def _nearest(n: int, exact: bool) -> Any:
    coordinates, rounding = ("half_pixel", "round_prefer_ceil") if exact else ("asymmetric", "floor")

    def entry(c: Context, x: Any = None, input: Any = None, scale_factors: Any = None, scales: Any = None, scales_d: Any = None,
              scales_h: Any = None, scales_w: Any = None) -> Value:
        given = [scales] if n == 1 else [scales_h, scales_w] if n == 2 else [scales_d, scales_h, scales_w]
        image = x if x is not None else input
        return _resize(c, image, _factors(n, scale_factors, given), "nearest", coordinates, nearest=rounding)
    return entry


def _smooth(n: int, mode: str, antialias: bool = False) -> Any:
    def entry(c: Context, align_corners: bool, x: Any = None, input: Any = None, scale_factors: Any = None, scales: Any = None,
              scales_d: Any = None, scales_h: Any = None, scales_w: Any = None) -> Value:
        given = [scales] if n == 1 else [scales_h, scales_w] if n == 2 else [scales_d, scales_h, scales_w]
        image = x if x is not None else input
        return _resize(c, image, _factors(n, scale_factors, given), mode,
                       "align_corners" if align_corners else "half_pixel", antialias=antialias,
                       cubic_a=-0.5 if antialias else -0.75)
    return entry


for _n in (1, 2, 3):
    aten(f"aten.upsample_nearest{_n}d.default", f"aten.upsample_nearest{_n}d.vec")(_nearest(_n, False))
    aten(f"aten._upsample_nearest_exact{_n}d.default", f"aten._upsample_nearest_exact{_n}d.vec")(_nearest(_n, True))
aten("aten.upsample_linear1d.default", "aten.upsample_linear1d.vec")(_smooth(1, "linear"))
aten("aten.upsample_bilinear2d.default", "aten.upsample_bilinear2d.vec")(_smooth(2, "linear"))
aten("aten.upsample_trilinear3d.default", "aten.upsample_trilinear3d.vec")(_smooth(3, "linear"))
aten("aten.upsample_bicubic2d.default", "aten.upsample_bicubic2d.vec")(_smooth(2, "cubic"))
aten("aten._upsample_bilinear2d_aa.default", "aten._upsample_bilinear2d_aa.vec")(_smooth(2, "linear", True))
aten("aten._upsample_bicubic2d_aa.default", "aten._upsample_bicubic2d_aa.vec")(_smooth(2, "cubic", True))


@aten("aten.grid_sampler.default", "aten.grid_sampler_2d.default", "aten.grid_sampler_3d.default")
def _(c: Context, input: Value, grid: Value, interpolation_mode: int, padding_mode: int, align_corners: bool) -> Value:
    return c.b.grid_sample(input, grid, mode=("linear", "nearest", "cubic")[interpolation_mode],
                           padding=("zeros", "border", "reflection")[padding_mode], align_corners=bool(align_corners))


# torchvision ------------------------------------------------------------------------------------
@aten("torchvision.nms.default")
def _(c: Context, dets: Value, scores: Value, iou_threshold: float) -> Value:
    boxes = c.unsqueeze(dets, 0)
    table = c.reshape(scores, (1, 1, *scores.shape))
    count = dets.shape[0] if isinstance(dets.shape[0], int) else 2**31 - 1
    found = c.b.nms(boxes, table, max_output=count, iou_threshold=iou_threshold, score_threshold=float("-inf"),
                    center_point_box=False)
    return c.reshape(c.slice(found, 1, 2, 3), (found.shape[0],))


@aten("torchvision.roi_align.default")
def _(c: Context, input: Value, rois: Value, spatial_scale: float, pooled_height: int, pooled_width: int, sampling_ratio: int,
      aligned: bool) -> Value:
    which = c.reshape(c.cast(c.slice(rois, 1, 0, 1), I64), (rois.shape[0],))
    return c.b.roi_align(input, c.slice(rois, 1, 1, 5), which, mode="avg", output=[pooled_height, pooled_width],
                         sampling_ratio=max(sampling_ratio, 0), scale=spatial_scale, half_pixel=aligned)


@aten("aten.affine_grid_generator.default")
def _(c: Context, theta: Value, size: Sequence[int], align_corners: bool) -> Value:
    """theta [N, d, d+1] and the grid of an [N, C, ...] image: base points [..., d+1] times theta transposed."""
    spatial = list(size[2:])
    if not is_static(spatial):
        raise Refusal("a symbolic size")
    lines = []
    for n in spatial:
        line = torch.linspace(-1, 1, n) if n > 1 else torch.zeros(1)
        lines.append(line if align_corners else line * ((n - 1) / n))
    grids = torch.meshgrid(*lines, indexing="ij")
    base = torch.stack([*reversed(grids), torch.ones(spatial)], -1).reshape(1, -1, len(spatial) + 1)
    out = c.b.matmul(c.b.const(base.numpy(), theta.dtype), c.swap(theta, 1, 2))
    return c.reshape(out, c.shape)


