"""What drawing graphs and drawing modules have in common: choices from a `random.Random`, and sizes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

LARGEST = 4096  # elements of a value


class Skip(Exception):
    """What was drawn does not fit here, or is no case for a comparison."""


class Drawing:
    """Draws from `random`, which hypothesis may stand behind, so that what fails is made small."""

    random: random.Random
    EMPTY, ONE, MOST, AXES = 0.02, 0.17, 19, 5  # shares of sizes 0 and of 0 or 1, the largest size, the most axes

    def chance(self, p: float) -> bool:
        return self.random.random() < p

    def choice(self, options: Sequence[Any]) -> Any:
        if not len(options):
            raise Skip
        return options[self.random.randrange(len(options))]

    def integer(self, low: int, high: int) -> int:
        """From `low` to `high`, both included."""
        return self.random.randint(low, high)

    def size(self) -> int:
        """A dim: rarely 0, often 1."""
        p = self.random.random()
        return 0 if p < self.EMPTY else 1 if p < self.ONE else self.integer(2, 7) if p < 0.9 else self.integer(8, self.MOST)

    def shape(self, low: int = 0, high: int | None = None) -> tuple[int, ...]:
        shape: list[int] = []
        for _ in range(self.integer(low, self.AXES if high is None else high)):
            n = self.size()
            shape.append(n if int(np.prod(shape)) * n <= LARGEST // 4 else 1)
        return tuple(shape)
