"""The roofline's arithmetic: a machine's peaks, and the least time that a model's work takes on it.

(Williams, Waterman and Patterson: Roofline, CACM 52(4), 2009.)
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LEVELS = ("l1", "l2", "l3", "dram")


@dataclass(frozen=True)
class Work:
    """`count` equal contractions: operations, and the bytes of constants and of other operands and results, of one."""

    operations: int
    weights: int
    activations: int
    count: int = 1


@dataclass(frozen=True)
class Peaks:
    """What `threads` cores reach together: `rates` in operations a second, `bandwidths` in bytes a second by level.

    `sizes` are bytes of all their caches of a level together. A level that could not be measured is missing.
    """

    threads: int
    rates: Mapping[str, float]
    bandwidths: Mapping[str, float]
    sizes: Mapping[str, int]

    def reading(self, nbytes: int) -> float:
        """Least seconds to read so many bytes again: what fits each level comes from there, only the rest from further out."""
        levels = [level for level in LEVELS if level in self.bandwidths]
        seconds, inner = 0.0, 0
        for level in levels:
            held = nbytes if level == levels[-1] else min(nbytes, self.sizes[level])
            seconds += max(held - inner, 0) / self.bandwidths[level]
            inner = max(inner, held)
        return seconds

    def floor(self, work: Iterable[Work], rate: str = "fma", all_weights: int | None = None) -> float:
        """Least seconds: the sum over contractions of max(operations / peak, bytes / bandwidth).

        Weights are read as part of all weights of the model, since each is read once a call (`all_weights` bytes; by default
        those of this work); operands and results as those of the one contraction.
        """
        work = list(work)
        total = sum(w.weights * w.count for w in work) if all_weights is None else all_weights
        weight = self.reading(total) / total if total else 0.0  # seconds a byte
        return sum(w.count * max(w.operations / self.rates[rate],
                                 w.weights * weight + self.reading(w.activations)) for w in work)


def parse(data: Mapping[str, Any], threads: int) -> Peaks | None:
    """The peaks for so many threads from what `bench roofline` wrote, None where it did not measure them."""
    found = data["peaks"].get(str(threads))
    return Peaks(threads, found["rates"], found["bandwidths"], found["sizes"]) if found else None


def read(path: Path, cpu: str) -> tuple[dict[str, Any] | None, str]:
    """A roofline file's contents, or None and why it cannot be used here."""
    if not path.exists():
        return None, f"{path} is not there: run python -m bench roofline"
    data = json.loads(path.read_text())
    if data["machine"]["cpu"] != cpu:
        return None, f"{path} is of another machine ({data['machine']['cpu']}): run python -m bench roofline"
    return data, ""
