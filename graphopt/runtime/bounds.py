"""What is said of indices that are looked at after a call: the passes make it, the runtime acts on it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from graphopt.errors import IndexRangeError


class IndexCheck(NamedTuple):
    """Indices of an op: where it stands, and the size of the axis that they go along, or of each where they are tuples."""

    where: str
    bounds: tuple[int, ...]


def refuse(check: IndexCheck, low: Any, high: Any) -> None:
    """IndexRangeError where the least or the greatest index is outside of what it goes along."""
    for k, (least, most, n) in enumerate(zip(np.reshape(low, -1), np.reshape(high, -1), check.bounds)):
        if least < -n or most >= n:
            part = f" (component {k} of a tuple)" if len(check.bounds) > 1 else ""
            raise IndexRangeError(f"index {int(most if most >= n else least)}{part} is out of range for an axis of {n}",
                                  where=check.where, hint=f"Give indices from {-n} to {n - 1}" if n else "The axis is empty")


__all__ = ["IndexCheck", "refuse"]
