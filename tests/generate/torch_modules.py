"""Random PyTorch modules with what is right for them: `draw(random.Random(seed))`."""

from __future__ import annotations

import random

import torch

from tests.generate import torch_layers, torch_lines  # noqa: F401  (fill the table of proposals)
from tests.generate.torch_draft import PROPOSALS, Skip, TorchCase, TorchDraft

WEIGHTS = [w for w, _ in PROPOSALS]
WAYS = [f for _, f in PROPOSALS]


def draw(source: random.Random, low: int = 3, high: int = 16) -> TorchCase:
    """A module of `low` to `high` lines; Skip where nothing came of it."""
    d = TorchDraft(source)
    wanted = source.randint(low, high)
    for _ in range(3 * high):
        if len(d.lines) >= wanted:
            break
        try:
            source.choices(WAYS, WEIGHTS)[0](d)
        except Skip:
            pass
    case = d.case()
    if source.random() < 0.15:  # some dims are free, where torch finds that they can be
        case.dynamic = tuple({k: torch.export.Dim.AUTO for k, n in enumerate(t.shape) if n > 1 and source.random() < 0.5}
                             for t in case.inputs)
    return case
