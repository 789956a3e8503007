"""Random ONNX graphs with what is right for them: `draw(random.Random(seed))`."""

from __future__ import annotations

import random

from tests.generate import onnx_arithmetic, onnx_layers, onnx_movement  # noqa: F401  (fill the table of proposals)
from tests.generate.onnx_draft import PROPOSALS, Case, Draft, Skip

WEIGHTS = [w for w, _ in PROPOSALS]
WAYS = [f for _, f in PROPOSALS]


def draw(source: random.Random, low: int = 5, high: int = 30, free: float = 0.35) -> Case:
    """A graph of `low` to `high` nodes, with that probability with free dims; Skip where nothing came of it."""
    d = Draft(source)
    wanted = source.randint(low, high)
    for _ in range(3 * high):
        if len(d.nodes) >= wanted:
            break
        try:
            source.choices(WAYS, WEIGHTS)[0](d)
        except Skip:
            pass
    return d.case(free)
