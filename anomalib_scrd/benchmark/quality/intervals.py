"""Means and paired differences with 95 % intervals, and the choice of a variant on the other data sets."""

__all__ = [
    "Estimate",
    "PairedScores",
    "bootstrap_difference",
    "bootstrap_mean",
    "estimate",
    "leave_one_set_out",
    "paired_difference",
]

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """Mean of ``size`` values (NaN for none) and the ends of its interval (NaN for fewer than two)."""

    mean: float
    low: float
    high: float
    size: int


class PairedScores(NamedTuple):
    """(N,) raw image scores of two models for the same test images, and (N,) labels, 1 = anomalous."""

    candidate: NDArray[np.floating]
    reference: NDArray[np.floating]
    labels: NDArray[np.integer]


def estimate(values: Sequence[float] | pd.Series) -> Estimate:
    """Mean and Student-t interval of independent values, for example one per seed."""
    array = pd.Series(np.asarray(values, dtype=np.float64))
    return paired_difference(array, 0 * array)


def paired_difference(candidate: pd.Series, reference: pd.Series) -> Estimate:
    """Mean and Student-t interval of candidate minus reference (``scipy.stats.ttest_rel``).

    The interval assumes independent pairs. Seeds of one data set are not fully independent:
    :func:`bootstrap_difference` also resamples the sets.

    Args:
        candidate: Scores, indexed by seed, or by data set and seed, which defines the pairs.
        reference: Scores. Incomplete pairs are left out.

    Returns:
        The estimate.
    """
    pairs = pd.concat([candidate, reference], axis=1, join="inner").dropna().to_numpy(dtype=np.float64)
    mean = float((pairs[:, 0] - pairs[:, 1]).mean()) if len(pairs) else math.nan
    if len(pairs) < 2:  # noqa: PLR2004
        return Estimate(mean, math.nan, math.nan, len(pairs))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of equal differences, whose interval is correct
        interval = stats.ttest_rel(pairs[:, 0], pairs[:, 1]).confidence_interval(CONFIDENCE)
    return Estimate(mean, float(interval.low), float(interval.high), len(pairs))


def bootstrap_difference(
    pairs: Mapping[str, Sequence[PairedScores]], resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the mean difference in image AUROC, over data sets, seeds and test images.

    A resample draws data sets with replacement, for each of them seeds, and its normal and anomalous test images, which
    are the same for both models and all seeds.

    Args:
        pairs: Scores of both models, one entry per seed, by data set. All entries of a set have the same images.
        resamples: Number of resamples.
        seed: Seed of the draws.

    Returns:
        The ends of the interval.
    """
    rng = np.random.default_rng(seed)
    kernels = [
        [_order(pair.candidate, pair.labels) - _order(pair.reference, pair.labels) for pair in seeds]
        for seeds in pairs.values()
    ]
    differences = np.stack([_resampled(seeds, resamples, rng) for seeds in kernels])  # (sets, resamples)
    shape = (resamples, len(pairs))
    chosen = differences[rng.integers(len(pairs), size=shape), rng.integers(resamples, size=shape)]
    return _ends(chosen.mean(axis=1))


def bootstrap_mean(
    scores: Mapping[str, Sequence[PairedScores]], resamples: int = 2000, seed: int = 0
) -> tuple[dict[str, tuple[float, float]], tuple[float, float]]:
    """Percentile intervals of the image AUROC of the candidate, over seeds and test images of the given data sets.

    A resample draws seeds of each data set and its normal and anomalous test images, the same for all seeds.

    Args:
        scores: Scores of the candidate, one entry per seed, by data set; the reference is not used. All entries of a
            set have the same images.
        resamples: Number of resamples.
        seed: Seed of the draws.

    Returns:
        The ends of the interval of each data set, and of the mean over the data sets.
    """
    rng = np.random.default_rng(seed)
    drawn = {
        name: _resampled([_order(one.candidate, one.labels) for one in seeds], resamples, rng)
        for name, seeds in scores.items()
    }
    return {name: _ends(values) for name, values in drawn.items()}, _ends(np.mean(list(drawn.values()), axis=0))


def _ends(values: NDArray[np.floating]) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _resampled(kernels: Sequence[NDArray[np.float64]], resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Means on one data set, (resamples,): images are drawn, then seeds, whose kernels (P, Q) are given."""
    # AUROC is a mean over pairs of images: that of a resample is a quadratic form of the numbers of draws
    anomalous, normal = (rng.multinomial(n, np.full(n, 1 / n), size=resamples) for n in kernels[0].shape)
    by_seed = np.stack([((anomalous @ kernel) * normal).sum(axis=1) for kernel in kernels]) / kernels[0].size
    drawn = rng.integers(len(kernels), size=(resamples, len(kernels)))
    return by_seed[drawn, np.arange(resamples)[:, None]].mean(axis=1)


def _order(scores: NDArray[np.floating], labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """(P, Q): 1 where the anomalous image scores higher than the normal one, 0.5 for a tie."""
    high, low = scores[labels == 1][:, None], scores[labels == 0][None, :]
    return (high > low) + 0.5 * (high == low)


def leave_one_set_out(scores: pd.DataFrame) -> pd.DataFrame:
    """Choose a variant by its mean on all data sets except one, and report it on that one, for each set in turn.

    Args:
        scores: Scores by data set and seed (index) and variant (columns). Variants that lack a set are left out.

    Returns:
        By set: the variant ``chosen``, its mean on the ``others`` and on the set ``left_out``, and the ``best`` of any
        variant there. Empty for fewer than two sets.
    """
    means = scores.groupby(level="data", sort=False).mean().dropna(axis=1) if len(scores.columns) else pd.DataFrame()
    rows = {}
    for data in means.index if len(means) > 1 and len(means.columns) else []:
        others = means.drop(index=data).mean()
        chosen = others.idxmax()
        rows[data] = (chosen, others[chosen], means.loc[data, chosen], means.loc[data].max())
    return pd.DataFrame.from_dict(rows, orient="index", columns=["chosen", "others", "left_out", "best"])
