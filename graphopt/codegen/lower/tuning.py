"""Who decides between a template's candidates: its own model, or what somebody wants.

A template states its candidates with the cycles its model gives each, and asks `style.pick(kind, candidates)`. The answer
is the model's best, unless another of them is wanted: one that was measured and recorded (measure/records.py), or one that is
to be measured (measure/tuner.py). A candidate is named by its text; a name that is none of them decides nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

log = logging.getLogger("graphopt")
T = TypeVar("T")


class Pick(Protocol):
    """Chooses one of (cycles, candidate); `kind` says of what."""

    def __call__(self, kind: str, candidates: Iterable[tuple[float, T]]) -> T: ...


def best_of(candidates: Iterable[tuple[float, T]]) -> tuple[float, T]:
    """The first of the fewest cycles; differences of rounding are none."""
    best: tuple[float, T] | None = None
    for cycles, candidate in candidates:
        if best is None or cycles < best[0] * (1 - 1e-9):
            best = cycles, candidate
    assert best is not None
    return best


def analytic(kind: str, candidates: Iterable[tuple[float, T]]) -> T:
    """What the model says."""
    return best_of(candidates)[1]


class Picks:
    """The decisions in one kernel: `wanted` by kind where they are among the candidates, else the model's.

    `asked` keeps what there was to choose from, `answers` what was chosen, both in the order of asking.
    """

    def __init__(self, wanted: Mapping[str, str] | None = None) -> None:
        self.wanted = wanted or {}
        self.asked: dict[str, list[tuple[float, Any]]] = {}
        self.answers: dict[str, str] = {}
        self.changed: dict[str, str] = {}  # the answers that are not the model's

    def __call__(self, kind: str, candidates: Iterable[tuple[float, T]]) -> T:
        found = list(candidates)
        _, chosen = best_of(found)
        wanted = self.wanted.get(kind)
        if wanted is not None and wanted != str(chosen):
            other = [c for _, c in found if str(c) == wanted]
            if other:
                chosen = other[0]
                self.changed[kind] = wanted
            else:
                log.debug("%s is no candidate for %s here", wanted, kind)
        self.asked[kind], self.answers[kind] = found, str(chosen)
        return chosen

    @property
    def open(self) -> bool:
        """Was there anything to choose?"""
        return any(len(found) > 1 for found in self.asked.values())

    def tag(self) -> str:
        """What machine code depends on besides the kernel's key; empty where the model decided."""
        return "".join(f" {kind}={text}" for kind, text in sorted(self.changed.items()))


Wanted = Callable[[Any, str], Mapping[str, str]]  # (op, kernel key) to choices by kind


def nothing_wanted(op: Any, key: str) -> Mapping[str, str]:
    return {}


def ranked(candidates: Sequence[tuple[float, T]], within: float) -> list[tuple[float, T]]:
    """Candidates in the order in which they are worth a measurement, as (slowdown expected, candidate): the best of every
    family (`candidate.family`, where it has one) before the second of any; none that is expected to be slower than `within`.
    """
    least, _ = best_of(candidates)
    counts: dict[Any, int] = {}
    order = []
    for k, (cycles, candidate) in sorted(enumerate(candidates), key=lambda e: (e[1][0], e[0])):
        family = getattr(candidate, "family", str(candidate))
        counts[family] = counts.get(family, 0) + 1
        if cycles <= least * within:
            order.append((counts[family], cycles, k, candidate))
    return [(cycles / least if least else 1.0, candidate) for _, cycles, _, candidate in sorted(order, key=lambda o: o[:3])]


__all__ = ["Pick", "Picks", "Wanted", "analytic", "best_of", "nothing_wanted", "ranked"]
