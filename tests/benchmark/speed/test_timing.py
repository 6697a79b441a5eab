"""Summaries of known times by the speed benchmark; no test measures real times."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from anomalib_scrd.benchmark.speed.timing import Factories, interleave, milliseconds, ratio, relative


class Clock:
    """A clock that advances only by work."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def __call__(self) -> float:
        return self.now

    def work(self, name: str, *seconds: float) -> Callable[[], None]:
        """Take these times, one per call, the last one from then on."""
        left = list(seconds)

        def run() -> None:
            self.calls.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


@pytest.fixture
def clock() -> Clock:
    return Clock()


def ready(**work: Callable[[], None]) -> Factories:
    """Contenders that are built already."""
    return {name: lambda function=function: function for name, function in work.items()}


def test_contenders_alternate_and_warm_up_apart(clock: Clock) -> None:
    work = ready(a=clock.work("a", 9, 1, 2, 3), b=clock.work("b", 9, 2, 8, 3))
    seconds, errors = interleave(work, rounds=3, warmup=1, clock=clock)
    assert [sorted(clock.calls[start : start + 2]) for start in range(0, 8, 2)] == [["a", "b"]] * 4
    assert seconds.to_dict("list") == {"a": [1, 2, 3], "b": [2, 8, 3]}
    assert errors == {}
    assert ratio(seconds["a"], seconds["b"])[0] == 0.5  # of 1/2, 2/8 and 3/3


def test_every_contender_comes_after_every_other(clock: Clock) -> None:
    names = "abcd"
    seconds, _ = interleave(ready(**{name: clock.work(name, 1) for name in names}), rounds=20, warmup=0, clock=clock)
    assert seconds.to_dict("list") == {name: [1] * 20 for name in names}
    assert len(set(pairwise(clock.calls)) - {(name, name) for name in names}) == 12
    first = clock.calls
    clock.calls = []
    interleave(ready(**{name: clock.work(name, 1) for name in names}), rounds=20, warmup=0, clock=clock)
    assert clock.calls == first


def test_contenders_settle_before_they_are_timed(clock: Clock) -> None:
    work = ready(a=clock.work("a", 9, 5, 1, 5, 2), b=clock.work("b", 9, 7, 3, 7, 4))
    seconds, _ = interleave(work, rounds=2, warmup=1, clock=clock, settle=1)
    assert seconds.to_dict("list") == {"a": [1, 2], "b": [3, 4]}


@pytest.mark.parametrize("when", ["build", "warm-up", "round"])
def test_a_contender_that_fails_is_recorded_and_the_others_go_on(when: str, clock: Clock) -> None:
    calls = {"build": 0, "warm-up": 1, "round": 2}[when]

    def broken() -> None:
        nonlocal calls
        calls -= 1
        if calls == 0:
            msg = "no\nmore"
            raise RuntimeError(msg)
        clock.now += 1

    def build() -> Callable[[], None]:
        if when == "build":
            broken_at_once = ValueError("not here")
            raise broken_at_once
        return broken

    contenders = {**ready(a=clock.work("a", 1)), "broken": build, **ready(b=clock.work("b", 2))}
    seconds, errors = interleave(contenders, rounds=2, warmup=1, clock=clock)
    assert seconds.to_dict("list") == {"a": [1, 1], "b": [2, 2]}
    assert errors == {"broken": "ValueError: not here" if when == "build" else "RuntimeError: no more"}


def test_medians_quartiles_and_the_interval_of_a_ratio() -> None:
    assert milliseconds(pd.Series([0.005, 0.001, 0.003, 0.002, 0.004])) == "3 (2 to 4)"
    # of 15 rounds, the 4th and the 12th bound the median with a probability of at least 95 %
    assert stats.binom.cdf(3, 15, 0.5) <= 0.025 < stats.binom.cdf(4, 15, 0.5)
    one = pd.Series(np.ones(15))
    assert ratio(pd.Series(np.arange(1.0, 16.0)), one) == (8, 4, 12)
    median, low, _ = ratio(pd.Series([1.0, 2.0, 3.0]), pd.Series([1.0, 1.0, 1.0]))
    assert median == 2
    assert math.isnan(low)


def test_ratios_in_words() -> None:
    seconds = pd.DataFrame({"a": np.arange(1.0, 16.0), "b": np.ones(15)})
    assert relative(seconds, "a", "b") == "8.000 [4.000, 12.000]"
    assert relative(seconds, "a", "b", 0.25) == "2.000 [1.000, 3.000]"
    assert relative(seconds.head(3), "a", "b") == "2.000"
    assert relative(seconds, "a", "missing") == "-"
