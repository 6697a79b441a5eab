"""Mean and 95 % interval over seeds, and paired differences."""

__all__ = ["Estimate", "best_name", "estimate", "paired_difference"]

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Estimate:
    """A mean with its uncertainty.

    Args:
        mean: Mean, NaN of no values.
        half_width: Half of the interval's width, NaN of fewer than two values.
        count: Number of values.
    """

    mean: float
    half_width: float
    count: int

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.mean + self.half_width


def estimate(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Mean and Student-t interval of independent values: mean +- t(n - 1) s / sqrt(n).

    Args:
        values: One value per seed.
        confidence: Coverage of the interval, in (0, 1).

    Returns:
        The estimate. One value has no interval: its half width is NaN, not zero.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        return Estimate(math.nan, math.nan, 0)
    if array.size == 1:
        return Estimate(float(array[0]), math.nan, 1)
    quantile = float(stats.t.ppf(0.5 + confidence / 2, array.size - 1))
    half_width = quantile * float(array.std(ddof=1)) / math.sqrt(array.size)
    return Estimate(float(array.mean()), half_width, int(array.size))


def paired_difference(
    candidate: Mapping[int, float], baseline: Mapping[int, float], confidence: float = 0.95
) -> Estimate:
    """Mean and interval of candidate minus baseline over the seeds that both have.

    Args:
        candidate: Score by seed.
        baseline: Score by seed.
        confidence: Coverage of the interval, in (0, 1).

    Returns:
        The estimate; its count is the number of shared seeds.
    """
    shared = sorted(candidate.keys() & baseline.keys())
    return estimate([candidate[seed] - baseline[seed] for seed in shared], confidence)


def best_name(scores: Mapping[str, Mapping[int, float]]) -> str | None:
    """Name with the highest mean over its seeds, the first one at a tie, None where nothing is finite."""
    means = {name: estimate([v for v in by_seed.values() if math.isfinite(v)]).mean for name, by_seed in scores.items()}
    finite = {name: mean for name, mean in means.items() if math.isfinite(mean)}
    return max(finite, key=finite.__getitem__) if finite else None
