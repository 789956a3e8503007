"""Resampling: resize in all its modes, grids, regions, determinants."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.codegen.lower.lowering import check, random

RNG = np.random.default_rng(81)
COORDINATES = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric"]


def resize(x: np.ndarray, sizes: list[int], scales: list[float] | None = None, axes: tuple[int, ...] = (2, 3),
           **attrs: Any) -> None:
    check("resize", [x], sizes=sizes, scales=scales or [], axes=axes, **attrs)


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize(coordinates: str, mode: str) -> None:
    x = random(RNG, "f32", 1, 2, 4, 5)
    for sizes, scales in (([8, 10], None), ([7, 3], None), ([1, 1], None), ([6, 7], [1.5, 1.4]), ([2, 2], [0.6, 0.4]),
                          ([12, 20], [3.0, 4.0])):
        resize(x, sizes, scales, mode=mode, coordinates=coordinates)


@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
@pytest.mark.parametrize("coordinates", ["half_pixel", "asymmetric"])
def test_nearest_rounds_as_told(rounding: str, coordinates: str) -> None:
    x = random(RNG, "f32", 9)
    for size, scale in ((18, 2.0), (3, None), (27, 3.0), (5, None), (13, 1.5), (4, 0.5), (7, 0.8)):
        resize(x, [size], None if scale is None else [scale], (0,), mode="nearest", coordinates=coordinates, nearest=rounding)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_resize_filters(mode: str) -> None:
    x = random(RNG, "f32", 1, 1, 9, 12)
    resize(x, [4, 5], mode=mode, antialias=True)
    resize(x, [3, 24], [0.35, 2.0], mode=mode, antialias=True, exclude_outside=True)
    resize(x, [5, 30], mode=mode, exclude_outside=True, cubic_a=-0.5)
    resize(x, [5, 7], mode=mode, coordinates="tf_crop_and_resize", roi=[0.1, -0.3, 0.9, 1.2], extrapolation=7.0)
    resize(x, [1, 7], mode="nearest", coordinates="tf_crop_and_resize", roi=[0.1, 0.3, 0.9, 0.8], extrapolation=7.0)


@pytest.mark.parametrize("of", ["u8", "i8", "f16", "f64", "i64"])
def test_resize_dtypes(of: str) -> None:
    x = random(RNG, of, 1, 2, 5, 4, low=0, high=25)
    for mode in ("nearest", "linear", "cubic"):
        resize(x, [10, 7], mode=mode)
        check("resize", [x], sizes=[1, 2, 15, 4], scales=[1.0, 1.0, 3.0, 1.0], axes=[0, 1, 2, 3], mode=mode)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("align_corners", [False, True])
def test_grid_sample(mode: str, padding: str, align_corners: bool) -> None:
    grid = random(RNG, "f32", 2, 3, 4, 2, low=-1.6, high=1.6)
    grid[0, 0, 0], grid[0, 0, 1], grid[1, 2] = np.nan, np.inf, -50
    attrs = {"mode": mode, "padding": padding, "align_corners": align_corners}
    check("grid_sample", [random(RNG, "f32", 2, 3, 5, 4), grid], 1e-4, **attrs)
    check("grid_sample", [random(RNG, "f16", 2, 1, 1, 6), grid], 1e-2, **attrs)
    volume = random(RNG, "f64", 1, 2, 3, 4, 2)
    check("grid_sample", [volume, random(RNG, "f64", 1, 2, 1, 3, 3, low=-1.2, high=1.2)], 1e-9, **attrs)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("half_pixel", [False, True])
@pytest.mark.parametrize("ratio", [0, 2])
def test_roi_align(mode: str, half_pixel: bool, ratio: int) -> None:
    rois = np.array([[0, 0, 6, 5], [1.3, 2.2, 3.4, 4.9], [-3, -2, 20, 3], [4, 4, 4, 4]], np.float32)
    check("roi_align", [random(RNG, "f32", 2, 2, 6, 7), rois, np.array([0, 1, 1, 0])], mode=mode, output=[3, 2],
          sampling_ratio=ratio, scale=0.7, half_pixel=half_pixel)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 5])
def test_det(n: int) -> None:
    check("det", [random(RNG, "f32", 2, n, n)])


def test_det_pivots() -> None:
    check("det", [np.array([[0, 1, 2], [0, 0, 3], [4, 5, 6]], np.float64)])
    check("det", [np.array([[1, 2], [2, 4]], np.float64)])
    check("det", [np.zeros((3, 3), np.float32)])
