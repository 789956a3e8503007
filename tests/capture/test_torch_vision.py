"""torchvision's operators. Its wheel has no CPU build here, so that a Python reference stands for the eager side."""

import math

import pytest
import torch
import torch.nn.functional as F

from bench.zoo import torchvision
from tests.capture.torch_check import check, each


def overlap(a, b):
    low, high = torch.maximum(a[:2], b[:2]), torch.minimum(a[2:], b[2:])
    inside = (high - low).clamp(min=0).prod()
    return inside / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - inside)


def suppress(boxes, scores, threshold):
    """Greedy non-maximum suppression, as torchvision documents it."""
    kept: list[int] = []
    for i in scores.argsort(descending=True).tolist():
        if all(overlap(boxes[i], boxes[j]) <= threshold for j in kept):
            kept.append(i)
    return torch.tensor(kept, dtype=torch.int64)


@pytest.fixture(scope="module")
def library():
    torchvision()
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.impl("nms", suppress, "CPU")
    yield library
    library._destroy()


def test_boxes_that_survive_suppression(library):
    torch.manual_seed(0)
    corner = torch.rand(20, 2) * 10
    boxes = torch.cat([corner, corner + torch.rand(20, 2) * 6 + 1], 1)

    def f(boxes, scores):
        kept = torch.ops.torchvision.nms(boxes, scores, 0.4)
        return kept, boxes[kept] * 2

    check(f, boxes, torch.rand(20))


# Resampling -------------------------------------------------------------------------------------
FACTORS = (0.4, 1.1, 1.4, 7 / 3)


def resampled(mode, **options):
    return {f"{mode} {s} {options}": lambda x, s=s: F.interpolate(x, scale_factor=s, mode=mode, **options) for s in FACTORS}


@pytest.mark.parametrize("recompute", [None, True])
def test_lines_are_resampled_by_fractions(recompute):
    again = {"recompute_scale_factor": recompute}
    functions = {**resampled("nearest", **again), **resampled("nearest-exact", **again), **resampled("area", **again),
                 **resampled("linear", **again), **resampled("linear", align_corners=True, **again)}
    check(each(functions), torch.arange(44.0).view(1, 2, 22), tolerance=3e-5)


def test_images_are_resampled_by_fractions():
    functions = {name: f for mode in ("bilinear", "bicubic") for options in ({}, {"align_corners": True}, {"antialias": True})
                 for name, f in resampled(mode, **options).items()}
    check(each(functions), torch.randn(1, 2, 7, 12), tolerance=3e-5)


def test_factors_near_one_and_two_where_the_size_stays_or_doubles():
    """PyTorch goes by the sizes then, of an image's axes, and by the factor in lines and volumes."""
    factors = (1.05, 1.2, 1.9, 2.1, 2.2, 2.3)
    functions = {f"{mode} {s}": lambda x, mode=mode, s=s: F.interpolate(x, scale_factor=s, mode=mode)
                 for mode in ("nearest", "nearest-exact") for s in factors}
    for shape in ((1, 2, 3), (1, 2, 3, 4), (1, 2, 3, 4, 2)):
        check(each(functions), torch.arange(float(math.prod(shape))).view(shape))


def test_volumes_are_resampled_by_fractions():
    functions = {**resampled("trilinear"), **resampled("trilinear", align_corners=True), **resampled("nearest")}
    check(each(functions), torch.randn(1, 1, 4, 7, 5), tolerance=3e-5)


def test_images_of_free_size_are_resampled_by_fractions():
    h, w = torch.export.Dim("h", min=6, max=60), torch.export.Dim("w", min=6, max=60)
    check(each({**resampled("bilinear", align_corners=True), **resampled("nearest"), **resampled("bicubic")}),
          torch.randn(1, 2, 9, 13), dynamic=(({2: h, 3: w},),), tolerance=3e-5)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_antialiasing_with_aligned_corners_is_torchs(mode):
    x = torch.randn(1, 2, 5, 7)
    resized = lambda size: lambda x: F.interpolate(x, size=size, mode=mode, align_corners=True, antialias=True)
    check(each({str(size): resized(size) for size in ((9, 11), (3, 2), (1, 7), (5, 1), (12, 3))}), x, tolerance=1e-4)
