"""Thresholds that a given share of normal images exceeds."""

__all__ = ["DEFAULT_RATE", "check_rate", "fewest_images", "share_interval", "threshold_by_rate", "threshold_scale"]

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

DEFAULT_RATE = 0.05
"""Share of normal images above the threshold, by default."""

# A scale below this share of a threshold's magnitude is float32 rounding, not a distance between scores.
_LEAST_SCALE = 1e-4


def threshold_by_rate(values: ArrayLike, rate: float = DEFAULT_RATE) -> float:
    """The value that a new normal image exceeds with a given probability.

    With at least :func:`fewest_images` normal images it is the (1 - rate) quantile at position (n + 1)(1 - rate) of the
    sorted values ("weibull" in :func:`numpy.quantile`), whose expected rate on new images is ``rate`` for any
    distribution, up to the interpolation between two neighbours. With fewer images the threshold is Student's one-sided
    prediction bound, which assumes normally distributed values, or the largest value if that is higher.

    Args:
        values: Scores of n normal images, or peaks of their anomaly maps.
        rate: Share of new normal images that exceed the threshold, in (0, 1).

    Returns:
        The threshold, in the unit of the values.

    Raises:
        ValueError: If there are no values, some are not finite, or rate is out of range.
    """
    rate = check_rate(rate)
    sample = np.asarray(values, dtype=np.float64).reshape(-1)
    if not len(sample) or not np.isfinite(sample).all():
        msg = f"values must be finite and at least one, got {sample}"
        raise ValueError(msg)
    if len(sample) >= fewest_images(rate):
        return float(np.quantile(sample, 1 - rate, method="weibull"))
    largest = float(sample.max())
    if len(sample) == 1:
        return largest
    bound = stats.t.ppf(1 - rate, len(sample) - 1) * sample.std(ddof=1) * math.sqrt(1 + 1 / len(sample))
    return max(largest, float(sample.mean() + bound))


def fewest_images(rate: float) -> int:
    """Fewest normal images with a quantile for a rate: 19 for 5 %."""
    return math.ceil((1 - rate) / rate - 1e-9)


def share_interval(count: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Clopper-Pearson interval of a share.

    Args:
        count: Number of cases.
        total: Number of trials.
        confidence: Smallest probability that the interval contains the true share, in (0, 1).

    Returns:
        Lower and upper end, in [0, 1]; (0, 1) without trials.
    """
    if not total:
        return 0.0, 1.0
    interval = stats.binomtest(count, total).proportion_ci(confidence_level=confidence, method="exact")
    return float(interval.low), float(interval.high)


def threshold_scale(threshold: float, normal: ArrayLike) -> float:
    """Scale of the distance from the threshold in a calibrated score.

    It is the distance from the threshold to the median of normal values, or their standard deviation if that is larger
    (a threshold that does not separate), so that it is never zero.

    Args:
        threshold: Threshold, in the unit of the values.
        normal: Normal values.

    Returns:
        Above 0.
    """
    values: NDArray[np.float64] = np.asarray(normal, dtype=np.float64).reshape(-1)
    least = _LEAST_SCALE * max(abs(threshold), _LEAST_SCALE)
    if not len(values):
        return max(abs(threshold), least)
    return float(max(abs(threshold - np.median(values)), values.std(), least))


def check_rate(rate: float) -> float:
    """Check a false-alarm rate and return it.

    Raises:
        ValueError: If the rate is not in (0, 1).
    """
    if isinstance(rate, bool) or not isinstance(rate, (int, float, np.number)) or not 0 < rate < 1:
        msg = f"false_alarm_rate must be in (0, 1), got {rate!r}"
        raise ValueError(msg)
    return float(rate)
