"""Resampling against torch in float64 and onnx's reference; the determinant against numpy."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from graphopt.errors import IRError
from tests.ir.one_op import run_op, same
from tests.ir.onnx_node import reference, runtime

RNG = np.random.default_rng(0)


def normal(*shape, dtype=np.float32):
    return RNG.normal(size=shape).astype(dtype)


# resize -------------------------------------------------------------------------------------
COORDINATES = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric", "tf_crop_and_resize"]


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("by", [{"sizes": (5, 9)}, {"sizes": (1, 13)}, {"sizes": (11, 1)}, {"scales": (0.6, 1.7)},
                                {"scales": (2.3, 0.4)}])
def test_resize_is_onnxs(coordinates, mode, by):
    """As onnxruntime reads the specification; onnx's own evaluator takes a fractional length for the result's
    (and is right of half_pixel_symmetric, whose length is fractional)."""
    x = normal(1, 2, 7, 6)
    roi = np.array([0.1, -0.2, 0.8, 1.3], np.float32) if coordinates == "tf_crop_and_resize" else None
    scales = None if "sizes" in by else np.array(by["scales"], np.float32)
    sizes = np.array(by["sizes"], np.int64) if "sizes" in by else None
    options = {"mode": mode, "coordinate_transformation_mode": coordinates, "extrapolation_value": 9.0, "cubic_coeff_a": -0.6}
    say = reference if coordinates == "half_pixel_symmetric" and mode != "nearest" else runtime
    expected = say("Resize", x, roi, scales, sizes, axes=[2, 3], opset=19, **options)
    if scales is None:
        scales = (sizes / np.array(x.shape[2:])).astype(np.float32)
    got = run_op("resize", x, sizes=expected.shape[2:], scales=scales.tolist(), axes=(2, 3), mode=mode,
                 coordinates=coordinates, cubic_a=-0.6, extrapolation=9.0, roi=() if roi is None else roi.tolist())
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("exclude_outside, antialias", [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("sizes", [(5, 9), (2, 3), (1, 1), (14, 4)])
def test_resize_with_antialias_and_exclude_outside(mode, exclude_outside, antialias, sizes):
    x = normal(1, 2, 7, 6)
    expected = reference("Resize", x, None, None, np.array(sizes), axes=[2, 3], mode=mode, antialias=int(antialias),
                         exclude_outside=int(exclude_outside), cubic_coeff_a=-0.5)
    got = run_op("resize", x, sizes=sizes, axes=(2, 3), mode=mode, cubic_a=-0.5, exclude_outside=exclude_outside,
                 antialias=antialias)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("nearest", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
@pytest.mark.parametrize("coordinates", ["half_pixel", "asymmetric", "align_corners"])
def test_resize_rounds_to_the_nearest_as_asked(nearest, coordinates):
    x = normal(3, 8)
    for sizes in [(6, 16), (2, 4), (3, 8), (7, 3)]:
        expected = reference("Resize", x, None, None, np.array(sizes), mode="nearest", nearest_mode=nearest,
                             coordinate_transformation_mode=coordinates)
        same(run_op("resize", x, sizes=sizes, axes=(0, 1), mode="nearest", coordinates=coordinates, nearest=nearest), expected)


@pytest.mark.parametrize("sizes", [(13, 5), (1, 1), (3, 20), (7, 9)])
@pytest.mark.parametrize("align", [True, False])
def test_resize_is_torchs_interpolate(sizes, align):
    x = normal(2, 3, 7, 9)
    wide = torch.tensor(x).double()
    coordinates = "align_corners" if align else "half_pixel"
    for mode, theirs in (("linear", "bilinear"), ("cubic", "bicubic")):
        got = run_op("resize", x, sizes=sizes, axes=(2, 3), mode=mode, coordinates=coordinates)
        expected = F.interpolate(wide, sizes, mode=theirs, align_corners=align).numpy()
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
        got = run_op("resize", x, sizes=sizes, axes=(2, 3), mode=mode, cubic_a=-0.5, antialias=True, exclude_outside=True)
        expected = F.interpolate(wide, sizes, mode=theirs, antialias=True).numpy()
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
    got = run_op("resize", x, sizes=sizes, axes=(2, 3), mode="nearest", coordinates="asymmetric", nearest="floor")
    same(got, F.interpolate(torch.tensor(x), sizes, mode="nearest").numpy())


@pytest.mark.parametrize("coordinates", ["asymmetric", "half_pixel", "align_corners"])
@pytest.mark.parametrize("nearest", ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"])
def test_nearest_resize_by_scales_rounds_its_coordinates_as_onnxruntime(coordinates, nearest):
    for size, scale in [(20, 0.6), (15, 1.4), (27, 7 / 3), (18, 0.7), (40, 1.1), (11, 13 / 11), (33, 0.9),
                        (14, 19 / 14), (26, 37 / 26), (26, 7 / 26), (21, 22 / 21), (12, 20 / 12)]:
        x, scales = np.arange(size, dtype=np.float32), np.array([scale], np.float32)
        expected = runtime("Resize", x, None, scales, opset=18, mode="nearest", coordinate_transformation_mode=coordinates,
                           nearest_mode=nearest)
        got = run_op("resize", x, sizes=expected.shape, scales=scales.tolist(), axes=(0,), mode="nearest", nearest=nearest,
                     coordinates=coordinates, symbolic=False)
        same(got, expected)


def test_nearest_resize_by_sizes_hits_whole_coordinates_exactly():
    """Whether a coordinate falls just below a whole number, where floor picks another element, is a matter of rounding."""
    for size in range(1, 60, 7):
        x = np.arange(size, dtype=np.float32)
        for out in range(1, 120, 3):
            got = run_op("resize", x, sizes=(out,), axes=(0,), mode="nearest", coordinates="asymmetric", nearest="floor",
                         symbolic=False)
            same(got, F.interpolate(torch.tensor(x)[None, None], out).numpy()[0, 0])


def test_resize_of_integers_rounds_and_saturates():
    x = np.array([[0, 255, 0, 255]], np.uint8)
    same(run_op("resize", x, sizes=(7,), axes=(1,), mode="linear", coordinates="align_corners"),
         np.array([[0, 128, 255, 128, 0, 128, 255]], np.uint8))
    cubic = run_op("resize", x, sizes=(9,), axes=(1,), mode="cubic")
    assert cubic.dtype == np.uint8 and cubic.max() == 255 and cubic.min() == 0
    same(cubic, reference("Resize", x, None, None, np.array([1, 9]), mode="cubic"))


def test_resize_of_an_empty_batch_and_of_an_empty_axis():
    same(run_op("resize", np.zeros((0, 2, 3), np.float32), sizes=(7,), axes=(2,), mode="linear"), np.zeros((0, 2, 7), np.float32))
    with pytest.raises(IRError, match="is empty"):
        run_op("resize", np.zeros((2, 0), np.float32), sizes=(3,), axes=(1,), mode="linear")


# grid_sample --------------------------------------------------------------------------------
@pytest.mark.parametrize("sizes, out", [((7, 9), (4, 5)), ((3, 5, 6), (2, 4, 3)), ((1, 1), (3, 2)), ((1, 4), (5, 1))])
@pytest.mark.parametrize("mode, theirs", [("linear", "bilinear"), ("cubic", "bicubic"), ("nearest", "nearest")])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("align", [True, False])
def test_grid_sample_is_torchs(sizes, out, mode, theirs, padding, align):
    if mode == "cubic" and len(sizes) == 3:
        pytest.skip("torch has no tricubic sampling")
    x, grid = normal(2, 3, *sizes), RNG.uniform(-2.5, 2.5, (2, *out, len(sizes))).astype(np.float32)
    got = run_op("grid_sample", x, grid, mode=mode, padding=padding, align_corners=align)
    expected = F.grid_sample(torch.tensor(x), torch.tensor(grid), theirs, padding, align).numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("padding", ["zeros", "reflection"])
def test_tricubic_grid_sample_is_onnxs(padding):
    x, grid = normal(1, 1, 3, 4, 5), RNG.uniform(-1.2, 1.2, (1, 2, 2, 3, 3)).astype(np.float32)
    expected = reference("GridSample", x, grid, mode="cubic", padding_mode=padding, align_corners=0)
    got = run_op("grid_sample", x, grid, mode="cubic", padding=padding, align_corners=False)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_tricubic_border_is_torchs_bicubic_where_depth_is_constant():
    """onnx's reference clamps the coordinate and not the taps here; the op follows torch."""
    x, grid = normal(1, 2, 4, 5), RNG.uniform(-1.5, 1.5, (1, 3, 4, 2)).astype(np.float32)
    deep = np.broadcast_to(x[:, :, None], (1, 2, 3, 4, 5))
    points = np.concatenate([grid, RNG.uniform(-1.5, 1.5, (1, 3, 4, 1)).astype(np.float32)], axis=-1)[:, None]
    got = run_op("grid_sample", deep, points, mode="cubic", padding="border", align_corners=False)
    expected = F.grid_sample(torch.tensor(x), torch.tensor(grid), "bicubic", "border", False).numpy()
    np.testing.assert_allclose(got[:, :, 0], expected, rtol=1e-4, atol=1e-5)


def test_grid_sample_outside_any_number():
    x = np.arange(1, 7, dtype=np.float32).reshape(1, 1, 2, 3)
    grid = np.array([[[[np.nan, 0], [np.inf, 0], [-np.inf, 0], [1e30, 0]]]], np.float32)
    for mode in ("linear", "nearest", "cubic"):
        same(run_op("grid_sample", x, grid, mode=mode, padding="zeros", align_corners=True), np.zeros((1, 1, 1, 4), np.float32))
    border = run_op("grid_sample", x, grid, mode="nearest", padding="border", align_corners=True)
    same(border, np.array([[[[1, 3, 1, 3]]]], np.float32))


def test_grid_sample_of_nothing():
    x, grid = np.zeros((0, 2, 3, 3), np.float32), np.zeros((0, 4, 5, 2), np.float32)
    assert run_op("grid_sample", x, grid, mode="linear", padding="zeros", align_corners=False).shape == (0, 2, 4, 5)


# roi_align ----------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("half_pixel", [True, False])
@pytest.mark.parametrize("ratio", [0, 1, 3])
@pytest.mark.parametrize("output", [(1, 1), (3, 2)])
def test_roi_align_is_onnxs(mode, half_pixel, ratio, output):
    x = normal(2, 3, 9, 11)
    rois = np.array([[0, 0, 20, 16], [3.3, 2.1, 9.7, 13.9], [5, 5, 5.2, 5.1], [-4, -3, 40, 30]], np.float32)
    batch = np.array([0, 1, 1, 0], np.int64)
    expected = reference("RoiAlign", x, rois, batch, mode=mode, output_height=output[0], output_width=output[1],
                         sampling_ratio=ratio, spatial_scale=0.5,
                         coordinate_transformation_mode="half_pixel" if half_pixel else "output_half_pixel")
    got = run_op("roi_align", x, rois, batch, mode=mode, output=output, sampling_ratio=ratio, scale=0.5, half_pixel=half_pixel,
                 symbolic=False)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_roi_align_without_regions():
    got = run_op("roi_align", normal(1, 2, 4, 4), np.zeros((0, 4), np.float32), np.zeros(0, np.int64), output=(2, 2),
                 sampling_ratio=2, scale=1.0, half_pixel=True)
    assert got.shape == (0, 2, 2, 2)


# det ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(3, 3), (2, 5, 5), (4, 1, 1, 1), (2, 0, 0), (0, 3, 3)])
def test_det(shape):
    x = normal(*shape)
    np.testing.assert_allclose(run_op("det", x), np.linalg.det(x.astype(np.float64)), rtol=1e-6)
    with pytest.raises(IRError, match="square"):
        run_op("det", normal(2, 3))
