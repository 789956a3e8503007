"""Where in one block of memory things lie that are needed for some of a program's steps."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from random import Random

ROUNDS = 40  # of placing again while the arena is larger than it need be


def largest_sum(lives: Sequence[tuple[int, int, int]]) -> int:
    """The most bytes that are live in one step; lives are (bytes, first step, last step)."""
    change: dict[int, int] = {}
    for size, first, last in lives:
        change[first] = change.get(first, 0) + size
        change[last + 1] = change.get(last + 1, 0) - size
    return max(itertools.accumulate(change[step] for step in sorted(change)), default=0)


def arrange(lives: Sequence[tuple[int, int, int]], bound: int) -> tuple[list[int], int]:
    """An offset for each life, so that no two overlap in time and place, and the bytes that takes.

    Largest first, each in the lowest gap that is free over its whole life (Pisarchyk and Lee, arXiv:2001.03288); while that
    takes more than `bound`, what reaches highest is placed earlier, at a (repeatable) random turn, and the rest again.
    """
    random = Random(0)
    order = sorted(range(len(lives)), key=lambda k: (-lives[k][0], lives[k][1], k))
    best, size = _fit(lives, order)
    for _ in range(ROUNDS):
        if size <= bound:
            break
        turn = max(range(len(order)), key=lambda t: best[order[t]] + lives[order[t]][0])
        other = list(order)
        other.insert(random.randint(0, turn), other.pop(turn))
        if random.random() < 0.5:
            other.insert(random.randint(0, len(other) - 1), other.pop(random.randrange(len(other))))
        places, needed = _fit(lives, other)
        if needed <= size:
            best, size, order = places, needed, other
    return best, size


def _fit(lives: Sequence[tuple[int, int, int]], order: Sequence[int]) -> tuple[list[int], int]:
    placed: list[tuple[int, int, int, int]] = []  # offset, end, first, last; sorted
    places = [0] * len(lives)
    for k in order:
        size, first, last = lives[k]
        at = 0
        for start, end, f, l in placed:
            if l < first or f > last:
                continue
            if start - at >= size:
                break
            at = max(at, end)
        bisect.insort(placed, (at, at + size, first, last))
        places[k] = at
    return places, max((end for _, end, _, _ in placed), default=0)


__all__ = ["arrange", "largest_sum"]
