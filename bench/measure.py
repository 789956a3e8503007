"""Timing: sides that take turns, medians and quartiles."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

REST = 0.02  # seconds of sleep before a side's turn
SETTLE = 0.005  # seconds of unmeasured calls at the beginning of a turn
TURN = 0.02  # seconds of measured calls of a turn; one call where that takes longer
LONG = 0.05  # seconds: a call that takes longer than this needs no unmeasured one before it
FEWEST = 3  # rounds, however long they take


@dataclass(frozen=True)
class Times:
    """Seconds of a call: median and quartiles of `calls` calls."""

    median: float
    q1: float
    q3: float
    calls: int

    @property
    def spread(self) -> float:
        """Interquartile range as a fraction of the median."""
        return (self.q3 - self.q1) / self.median

    @staticmethod
    def of(seconds: Sequence[float]) -> Times:
        return Times(quantile(seconds, 0.5), quantile(seconds, 0.25), quantile(seconds, 0.75), len(seconds))


def quantile(values: Sequence[float], q: float) -> float:
    """By linear interpolation between the sorted values."""
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def geometric_mean(values: Iterable[float]) -> float:
    """NaN of no values."""
    logs = [math.log(v) for v in values]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


class Turn:
    """A side's turns: unmeasured calls until it has settled, then measured ones, whose seconds come back. A call that has never
    been made is best made before."""

    def __init__(self, call: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> None:
        self.call, self.clock = call, clock
        self.latest = self.timed()
        if self.latest < LONG:
            self.latest = self.timed()

    def timed(self) -> float:
        start = self.clock()
        self.call()
        return self.clock() - start

    def __call__(self) -> list[float]:
        spent = self.latest if self.latest > LONG else 0.0
        while spent < SETTLE:
            spent += self.timed()
        samples: list[float] = []
        while sum(samples) < TURN:
            self.latest = self.timed()
            samples.append(self.latest)
        return samples


def interleave(turns: Sequence[Callable[[], Sequence[float]]], rounds: int, seconds: float,
               clock: Callable[[], float] = time.perf_counter, sleep: Callable[[float], None] = time.sleep) -> list[Times]:
    """Times of each side. In every round each has a turn, in an order that alternates, after a rest. Ends after `rounds`, or
    after `seconds` and the fewest rounds that make a median."""
    samples: list[list[float]] = [[] for _ in turns]
    start = clock()
    for done in range(rounds):
        if done >= FEWEST and clock() - start > seconds:
            break
        order = range(len(turns)) if done % 2 == 0 else reversed(range(len(turns)))
        for k in order:
            sleep(REST)
            samples[k] += turns[k]()
    return [Times.of(s) for s in samples]
