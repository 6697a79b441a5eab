"""Times contenders in turn, and summarises the times."""

__all__ = ["Factories", "interleave", "milliseconds", "ratio", "reason", "relative"]

import gc
import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from torch.utils.benchmark import timer

Factories = Mapping[str, Callable[[], Callable[[], Any]]]  # builds each contender: a function that is timed


def interleave(
    factories: Factories, *, rounds: int, warmup: int, settle: int = 0, clock: Callable[[], float] = timer
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Time contenders in turn, each round in another order.

    A disturbance that lasts longer than a round affects all contenders, so ratios within a round vary less than times.
    The order varies because caches and threads of a contender affect the next. A contender that fails is left out.

    Args:
        factories: Builders of the contenders.
        rounds: Timed runs of each.
        warmup: Untimed runs of each before the timed ones, also in turn.
        settle: Untimed runs of a contender directly before each timed one.
        clock: Returns the time in seconds after all earlier work is done; torch's timer waits for the accelerator.

    Returns:
        The times in seconds, a row per round and a column per contender, and the errors by contender.
    """
    errors: dict[str, str] = {}
    running: dict[str, Callable[[], Any]] = {}
    times: dict[str, list[float]] = {}

    def attempt(name: str, work: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return work(*arguments)
        except Exception as error:  # noqa: BLE001  (the other contenders must go on)
            errors[name] = reason(error)
            running.pop(name, None)
            times.pop(name, None)
            return None

    def timed(work: Callable[[], Any]) -> float:
        for _ in range(settle):
            work()
        start = clock()
        work()
        return clock() - start

    for name, build in factories.items():
        work = attempt(name, build)
        if work is not None:
            running[name] = work
    for _ in range(warmup):
        for name, work in list(running.items()):
            attempt(name, work)
    times |= {name: [] for name in running}
    order = random.Random(0)  # noqa: S311  (the same orders in every measurement of the same contenders)
    gc.collect()
    gc.freeze()  # later collections skip the objects that exist already
    try:
        for _ in range(rounds):
            gc.collect()  # between the rounds, outside every timed run
            gc.disable()
            for name, work in order.sample(list(running.items()), len(running)):
                seconds = attempt(name, timed, work)
                if seconds is not None:
                    times[name].append(seconds)
            gc.enable()
    finally:
        gc.enable()
        gc.unfreeze()
    return pd.DataFrame(times), errors


def reason(error: Exception) -> str:
    """An error as one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def milliseconds(seconds: pd.Series) -> str:
    """Median and quartiles, in milliseconds."""
    low, median, high = 1e3 * seconds.quantile([0.25, 0.5, 0.75])
    return f"{median:.3g} ({low:.3g} to {high:.3g})"


def ratio(numerator: pd.Series, denominator: pd.Series) -> tuple[float, float, float]:
    """Median of the ratios round by round, and the ends of a 95 % interval for that median.

    The interval is that of the order statistics: it makes no assumption about the distribution, and is NaN for fewer
    than 6 rounds.
    """
    ratios = (numerator / denominator).to_numpy(dtype=np.float64)
    median = float(np.median(ratios))
    interval = stats.quantile_test(ratios, q=median, p=0.5).confidence_interval(0.95)
    return median, float(interval.low), float(interval.high)


def relative(seconds: pd.DataFrame, name: str, reference: str, scale: float = 1.0) -> str:
    """Ratio of two contenders as text, times a factor, ``-`` if one of them is missing."""
    if name not in seconds or reference not in seconds:
        return "-"
    median, low, high = (scale * value for value in ratio(seconds[name], seconds[reference]))
    return f"{median:.3f}" if np.isnan(low) else f"{median:.3f} [{low:.3f}, {high:.3f}]"
