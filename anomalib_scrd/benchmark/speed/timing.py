"""Runs contenders in turn under one clock, and summarises what it took."""

__all__ = [
    "Clock",
    "Contenders",
    "Samples",
    "Stopwatch",
    "Summary",
    "alternate",
    "device_clock",
    "ratio",
    "ready",
    "reason",
    "summary",
]

import gc
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy import stats

Clock = Callable[[], float]
"""Gives the time in seconds, once all work before it is done."""
Contenders = Mapping[str, Callable[[], Callable[[], Any]]]
"""What builds each contender, by name: a function without arguments that is timed."""


def device_clock(device: torch.device) -> Clock:
    """A clock for work on a device: a GPU runs behind its host, so the clock first waits for it."""
    if device.type != "cuda":
        return time.perf_counter

    def read() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return read


def ready(work: Mapping[str, Callable[[], Any]]) -> Contenders:
    """Contenders that are built already."""
    return {name: partial(_same, function) for name, function in work.items()}


def _same(function: Callable[[], Any]) -> Callable[[], Any]:
    return function


@dataclass
class Samples:
    """Times of contenders.

    Args:
        seconds: Times of each contender, one per round.
        errors: Why a contender is not among them.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)


def alternate(contenders: Contenders, *, rounds: int, warmup: int, clock: Clock, settle: int = 0) -> Samples:
    """Time contenders in turn, each round in another order: A B C, C A B, ...

    What disturbs the machine for longer than a round disturbs all of them, so that ratios within a round are steadier
    than the times themselves. Who comes after whom differs, since a contender leaves caches and waiting threads to the
    next. A contender that fails is recorded and the others go on.

    Args:
        contenders: What builds them.
        rounds: Timed runs of each.
        warmup: Untimed runs of each before, also in turn.
        clock: Time in seconds.
        settle: Untimed runs of a contender directly before each timed one: the time of work that repeats.

    Returns:
        The times in the order of the contenders, and the errors.
    """
    samples = Samples()
    running: dict[str, Callable[[], Any]] = {}

    def attempt(name: str, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except Exception as error:  # noqa: BLE001  (whatever a contender raises, the others go on)
            samples.errors[name] = reason(error)
            running.pop(name, None)
            samples.seconds.pop(name, None)
            return None

    def timed(work: Callable[[], Any]) -> float:
        for _ in range(settle):
            work()
        start = clock()
        work()
        return clock() - start

    for name, build in contenders.items():
        work = attempt(name, build)
        if work is not None:
            running[name] = work
    gc.collect()
    gc.freeze()  # what lives already need not be looked through again
    try:
        for _ in range(warmup):
            for name, work in list(running.items()):
                attempt(name, work)
        samples.seconds = {name: [] for name in running}
        generator = torch.Generator().manual_seed(0)  # every measurement of the same contenders in the same orders
        for _ in range(rounds):
            gc.collect()  # between the rounds, so that it strikes no contender by chance
            gc.disable()
            turn = list(running.items())
            for name, work in (turn[index] for index in torch.randperm(len(turn), generator=generator).tolist()):
                seconds = attempt(name, partial(timed, work))
                if seconds is not None:
                    samples.seconds[name].append(seconds)
            gc.enable()
    finally:
        gc.enable()
        gc.unfreeze()
    return samples


def reason(error: Exception) -> str:
    """An error on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


@dataclass(frozen=True)
class Summary:
    """A median between two bounds.

    Args:
        median: The median.
        low: Lower bound.
        high: Upper bound.
    """

    median: float
    low: float
    high: float

    def scaled(self, factor: float) -> "Summary":
        """In another unit."""
        return Summary(factor * self.median, factor * self.low, factor * self.high)

    def inverse(self, numerator: float) -> "Summary":
        """A rate from a time."""
        return Summary(numerator / self.median, numerator / self.high, numerator / self.low)


def summary(seconds: Sequence[float]) -> Summary:
    """Median and quartiles."""
    low, median, high = np.quantile(np.asarray(seconds, dtype=np.float64), [0.25, 0.5, 0.75])
    return Summary(float(median), float(low), float(high))


def ratio(numerator: Sequence[float], denominator: Sequence[float], confidence: float = 0.95) -> Summary:
    """Median of the ratios round by round, with an interval for that median.

    The interval is that of the order statistics: it supposes nothing about the distribution, and is NaN for fewer
    rounds than it takes (6 at 95 %).

    Args:
        numerator: Times of one contender.
        denominator: Times of the other in the same rounds.
        confidence: Coverage of the interval.

    Returns:
        The ratio.
    """
    ratios = np.asarray(numerator, dtype=np.float64) / np.asarray(denominator, dtype=np.float64)
    median = float(np.median(ratios))
    interval = stats.quantile_test(ratios, q=median, p=0.5).confidence_interval(confidence)
    return Summary(median, float(interval.low), float(interval.high))


class Stopwatch:
    """Adds up the time of named parts of a piece of work; what a part spends in another one counts for that other.

    Args:
        clock: Time in seconds.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._stack: list[str] = []
        self._last = 0.0

    def lap(self, name: str) -> None:
        """Count the time since the last reading for a part."""
        now = self.clock()
        self.seconds[name] += now - self._last
        self._last = now

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what happens inside for a part."""
        if self._stack:
            self.lap(self._stack[-1])
        else:
            self._last = self.clock()
        self._stack.append(name)
        try:
            yield
        finally:
            self.lap(self._stack.pop())

    def watch(self, owner: object, attribute: str, name: str) -> None:
        """Count the calls of a function of an object for a part; an object without it has nothing to count."""
        function = getattr(owner, attribute, None)
        if function is None:
            return

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        setattr(owner, attribute, timed)
