"""Statistics and the order of interleaved calls, on a clock of the test's own."""

import math

import numpy as np
import pytest

from bench.measure import FEWEST, REST, Times, Turn, geometric_mean, interleave, quantile


@pytest.mark.parametrize("values", [[3.0], [1.0, 2.0], [5.0, 1.0, 4.0], list(range(10))])
@pytest.mark.parametrize("q", [0, 0.25, 0.5, 0.75, 1])
def test_quantiles_are_numpys(values, q):
    assert quantile(values, q) == pytest.approx(np.quantile(values, q))


def test_the_spread_is_the_interquartile_range_of_the_median():
    times = Times.of([1, 2, 3, 4, 5])
    assert (times.median, times.spread, times.calls) == (3, pytest.approx(2 / 3), 5)


def test_a_geometric_mean_of_inverses_is_one():
    assert geometric_mean([0.5, 2, 4, 0.25]) == pytest.approx(1)
    assert math.isnan(geometric_mean([]))


class Clock:
    """Time that only calls and sleeps spend."""

    def __init__(self):
        self.now, self.log = 0.0, []

    def call(self, name, seconds):
        def run():
            self.log.append(name)
            self.now += seconds
        return run

    def turn(self, name, seconds):
        return Turn(self.call(name, seconds), self)

    def sleep(self, seconds):
        self.log.append("rest")
        self.now += seconds

    def __call__(self):
        return self.now


def test_each_side_has_a_turn_in_every_round_in_alternating_order():
    clock = Clock()
    a, b = interleave([clock.turn("a", 0.1), clock.turn("b", 0.3)], 6, 1e9, clock, clock.sleep)
    assert (a.median, b.median, a.calls, b.calls) == (pytest.approx(0.1), pytest.approx(0.3), 6, 6)
    assert clock.log[2:] == ["rest", "a", "rest", "b", "rest", "b", "rest", "a"] * 3


def test_short_calls_settle_unmeasured_and_are_measured_many_times():
    clock = Clock()
    (a,) = interleave([clock.turn("a", 0.001)], 5, 1e9, clock, clock.sleep)
    assert a.median == pytest.approx(0.001) and a.calls >= 5 * 20
    assert clock.log.count("a") >= a.calls + 5 * 5 and clock.log.count("rest") == 5


def test_measuring_ends_after_its_seconds_but_not_before_there_is_a_median():
    clock = Clock()
    (a,) = interleave([clock.turn("a", 10.0)], 100, 1.0, clock, clock.sleep)
    assert a.calls == FEWEST and clock.now == pytest.approx((FEWEST + 1) * 10 + FEWEST * REST)
