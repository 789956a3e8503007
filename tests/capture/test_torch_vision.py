"""torchvision's operators. Its wheel has no CPU build here, so that a Python reference stands for the eager side."""

import pytest
import torch
from torch_check import check

from bench.zoo import torchvision


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
