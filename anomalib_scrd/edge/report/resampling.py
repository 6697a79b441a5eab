"""Metrics of an export with 95 % intervals, in NumPy only."""

__all__ = [
    "Interval",
    "auroc",
    "average_precision",
    "bootstrap",
    "pixel_auroc",
    "pixel_dice",
    "share",
]

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Counts = NDArray[np.int64]

_Z = 1.959963984540054  # two-sided 95 % quantile of the normal distribution
_RESAMPLES = 1000


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % confidence interval.

    Args:
        value: The estimate, NaN if there is none.
        low: Lower end.
        high: Upper end.
        count: Number of images, or of other units.
    """

    value: float
    low: float
    high: float
    count: int


def share(hits: int, count: int) -> Interval:
    """A share with Wilson's interval (1927), which is valid near 0 and 1 and in small samples.

    Args:
        hits: Number of hits.
        count: Number of trials.

    Returns:
        The share in [0, 1]; NaN without trials.
    """
    if count == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    observed = hits / count
    centre = (observed + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z / (1 + _Z**2 / count) * math.sqrt(observed * (1 - observed) / count + _Z**2 / (4 * count**2))
    return Interval(observed, max(0.0, centre - half), min(1.0, centre + half), count)


def auroc(normal: Floats, anomalous: Floats) -> Interval:
    """Area under the ROC curve with the interval of DeLong et al. (1988), on the logit scale.

    Args:
        normal: (m,) scores.
        anomalous: (n,) scores.

    Returns:
        Probability that an anomalous score exceeds a normal one, ties counting half; NaN if one of them is empty. The
        variance of an area of 1 or 0 cannot be estimated: its interval is Wilson's, with the size of the smaller group
        as the number of trials.
    """
    m, n = len(normal), len(anomalous)
    if not m or not n:
        return Interval(math.nan, math.nan, math.nan, m + n)
    above = _exceeded(anomalous, normal)  # share of normal scores that each anomalous one exceeds
    below = 1 - _exceeded(normal, anomalous)
    area = float(above.mean())
    if area in {0.0, 1.0} or min(m, n) == 1:
        few = share(round(area * min(m, n)), min(m, n))
        return Interval(area, few.low, few.high, m + n)
    error = math.sqrt(above.var(ddof=1) / n + below.var(ddof=1) / m)
    logit, width = math.log(area / (1 - area)), _Z * error / (area * (1 - area))
    low, high = (1 / (1 + math.exp(-(logit + side * width))) for side in (-1, 1))
    return Interval(area, low, high, m + n)


def average_precision(scores: Floats, labels: NDArray[np.bool_]) -> float:
    """Mean precision over the anomalous images, in the order of the scores.

    Args:
        scores: (N,).
        labels: (N,), true for anomalous.

    Returns:
        In [0, 1], NaN without anomalous images. Images of equal score form one step.
    """
    if not labels.any():
        return math.nan
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    hits = np.cumsum(labels[order])[ends]
    precision = hits / (ends + 1)
    return float((np.diff(hits, prepend=0) * precision).sum() / labels.sum())


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], float], normal: NDArray[np.int64], anomalous: NDArray[np.int64]
) -> Interval:
    """Percentile interval over 1,000 resamples of the images, stratified by kind, seed 0.

    Args:
        statistic: Function of the indices of images.
        normal: Indices of the normal ones.
        anomalous: Indices of the anomalous ones.

    Returns:
        The statistic of all images and its interval.
    """
    rng = np.random.default_rng(0)
    values = [
        statistic(np.concatenate([rng.choice(group, len(group)) for group in (normal, anomalous) if len(group)]))
        for _ in range(_RESAMPLES)
    ]
    low, high = np.nanpercentile(values, [2.5, 97.5]) if np.isfinite(values).any() else (math.nan, math.nan)
    everything = np.concatenate([normal, anomalous])
    return Interval(statistic(everything), float(low), float(high), len(everything))


def pixel_auroc(normal: Counts, anomalous: Counts) -> Interval:
    """Area under the ROC curve of pixels, with an interval over images, as pixels of an image are not independent.

    Args:
        normal: (N, bins) number of normal pixels of each image by the value of the map, ascending.
        anomalous: (N, bins) number of anomalous pixels.

    Returns:
        The area and its interval; pixels of one bin are ties.
    """

    def area(counts: NDArray[np.int64]) -> Floats:
        low, high = (_resampled(part, counts) for part in (normal, anomalous))
        below = np.cumsum(low, axis=-1) - low / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            result: Floats = (below * high).sum(axis=-1) / (low.sum(axis=-1) * high.sum(axis=-1))
        return result

    return _over_images(area, len(normal))


def pixel_dice(normal: Counts, anomalous: Counts, first: int) -> Interval:
    """Dice overlap of the regions above a threshold with the true ones, over the pixels of all images.

    Args:
        normal: See :func:`pixel_auroc`.
        anomalous: See there.
        first: The first bin above the threshold.

    Returns:
        Twice the common area over the sum of both areas, with an interval over images.
    """

    def dice(counts: NDArray[np.int64]) -> Floats:
        wrong, hits = (
            _resampled(part[:, first:].sum(axis=1, keepdims=True), counts)[..., 0] for part in (normal, anomalous)
        )
        true = _resampled(anomalous.sum(axis=1, keepdims=True), counts)[..., 0]
        with np.errstate(invalid="ignore", divide="ignore"):
            result: Floats = 2 * hits / (hits + wrong + true)
        return result

    return _over_images(dice, len(normal))


def _over_images(statistic: Callable[[NDArray[np.int64]], Floats], count: int) -> Interval:
    """A statistic of all images, and its percentiles over resamples of them."""
    if count == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    value = float(statistic(np.ones((1, count), np.int64))[0])
    resamples = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), _RESAMPLES)
    values = statistic(resamples)
    values = values[np.isfinite(values)]
    low, high = np.percentile(values, [2.5, 97.5]) if len(values) else (math.nan, math.nan)
    return Interval(value, float(low), float(high), count)


def _resampled(counts: Counts, times: NDArray[np.int64]) -> Floats:
    """Sum over images, weighted by how often each was drawn: (resamples, bins), exact below 2^53."""
    result: Floats = times.astype(np.float64) @ counts.astype(np.float64)
    return result


def _exceeded(scores: Floats, others: Floats) -> Floats:
    """Share of others below each score, ties counting half."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, scores, side="left") + np.searchsorted(ordered, scores, side="right")
    result: Floats = below / (2 * len(others))
    return result
