"""Metrics of raw anomaly scores. All go by the order of the scores: no score is squashed, clamped or normalised."""

__all__ = [
    "aupro",
    "best_f1",
    "check_finite",
    "image_metrics",
    "quantile_threshold",
    "rank_auroc",
    "thresholded_metrics",
]

import numpy as np
import torch
from anomalib.metrics.aupro import _AUPRO as AuproMetric  # noqa: N811  (the plain metric, without anomalib's field names)
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

Floats = NDArray[np.floating]
Labels = NDArray[np.integer] | NDArray[np.bool_]


def check_finite(scores: Floats, what: str) -> None:
    """Raise ValueError, naming how many, if scores hold NaN or infinities: they have no rank."""
    bad = int(np.size(scores) - np.isfinite(scores).sum())
    if bad:
        msg = f"{bad} of {np.size(scores)} {what} are not finite; a ranking of them means nothing"
        raise ValueError(msg)


def rank_auroc(anomalous: Floats, normal: Floats) -> float:
    """Area under the ROC curve as the probability that an anomalous score exceeds a normal one, ties counting half.

    Sorting the normal scores and looking the others up is exact for any range of scores and takes
    O(n log n) time and O(n) memory, also for the pixels of a whole test set.

    Args:
        anomalous: (n,) raw scores.
        normal: (m,) raw scores.

    Returns:
        AUROC in [0, 1], NaN if one of the two is empty.
    """
    if anomalous.size == 0 or normal.size == 0:
        return float("nan")
    ordered = np.sort(normal)
    below = np.searchsorted(ordered, anomalous, side="left").sum(dtype=np.float64)
    not_above = np.searchsorted(ordered, anomalous, side="right").sum(dtype=np.float64)
    return float((below + not_above) / 2 / (float(anomalous.size) * float(normal.size)))


def aupro(maps: Floats, masks: Labels, fpr_limit: float = 0.3) -> float:
    """Area under the per-region overlap curve up to a false positive rate (Bergmann et al., IJCV 2021), normalised.

    Args:
        maps: (N, H, W) raw anomaly maps.
        masks: (N, H, W), nonzero = anomalous.
        fpr_limit: Where the curve ends, in (0, 1].

    Returns:
        AUPRO in [0, 1], NaN if no mask marks anything.
    """
    binary = masks != 0
    if not binary.any():
        return float("nan")
    metric = AuproMetric(fpr_limit=fpr_limit)
    metric.update(torch.from_numpy(np.ascontiguousarray(maps)), torch.from_numpy(binary.astype(np.uint8)))
    return float(metric.compute())


def image_metrics(scores: Floats, labels: Labels) -> dict[str, float]:
    """Metrics of image scores that need no threshold, and the published ones that take theirs from the test set.

    Args:
        scores: (N,) raw scores.
        labels: (N,), 1 = anomalous.

    Returns:
        ``image_auroc``, ``image_ap``, ``f1_best_on_test`` and ``accuracy_best_on_test`` (each the maximum over all
        thresholds on the test set: what papers print, and an optimistic figure).
    """
    labels = np.asarray(labels).astype(bool)
    if labels.all() or not labels.any():
        return dict.fromkeys(("image_auroc", "image_ap", "f1_best_on_test", "accuracy_best_on_test"), float("nan"))
    return {
        "image_auroc": rank_auroc(scores[labels], scores[~labels]),
        "image_ap": float(average_precision_score(labels, scores)),
        "f1_best_on_test": best_f1(scores, labels)[0],
        "accuracy_best_on_test": _best_accuracy(scores, labels),
    }


def thresholded_metrics(scores: Floats, labels: Labels, threshold: float) -> dict[str, float]:
    """F1 and accuracy of ``score > threshold``.

    Args:
        scores: (N,) raw scores.
        labels: (N,), 1 = anomalous.
        threshold: In units of the raw scores, chosen elsewhere.

    Returns:
        ``f1`` and ``accuracy``, each in [0, 1].
    """
    labels = np.asarray(labels).astype(bool)
    predicted = np.asarray(scores, dtype=np.float64) > threshold  # float32 would round a threshold just below a score
    hits = int((predicted & labels).sum())
    wrong = int((predicted != labels).sum())
    return {
        "f1": 2 * hits / (2 * hits + wrong) if hits + wrong else 0.0,
        "accuracy": float((predicted == labels).mean()),
    }


def quantile_threshold(normal_scores: Floats, quantile: float) -> float:
    """Smallest of the scores such that at least the share ``quantile`` of them does not exceed it."""
    return float(np.quantile(normal_scores, quantile, method="inverted_cdf"))


def best_f1(scores: Floats, labels: Labels) -> tuple[float, float]:
    """Highest F1 over all thresholds, and the threshold.

    Args:
        scores: (N,) raw scores.
        labels: (N,), 1 = anomalous.

    Returns:
        F1 in [0, 1] and the threshold, to be used as ``score > threshold``.
    """
    ordered, hits, flagged = _cuts(scores, labels)
    positives = int(np.asarray(labels).astype(bool).sum())
    f1 = 2 * hits / np.maximum(flagged + positives, 1)
    index = int(f1.argmax())
    if index == 0:
        return float(f1[0]), float(ordered[0])
    below = ordered[index] if index < ordered.size else -np.inf
    threshold = (ordered[index - 1] + below) / 2 if np.isfinite(below) else np.nextafter(ordered[-1], -np.inf)
    return float(f1[index]), float(threshold)


def _best_accuracy(scores: Floats, labels: Labels) -> float:
    _, hits, flagged = _cuts(scores, labels)
    labels = np.asarray(labels).astype(bool)
    negatives = int((~labels).sum())
    correct = hits + negatives - (flagged - hits)
    return float(correct.max() / labels.size)


def _cuts(scores: Floats, labels: Labels) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
    """Different scores, highest first; and of the k highest of them (k = 0, 1, ...), hits and flagged images."""
    values, inverse = np.unique(-np.asarray(scores, dtype=np.float64), return_inverse=True)
    weights = np.asarray(labels).astype(np.int64)
    hits = np.bincount(inverse, weights=weights, minlength=values.size).astype(np.int64)
    flagged = np.bincount(inverse, minlength=values.size)
    zero = np.zeros(1, dtype=np.int64)
    return -values, np.concatenate([zero, hits.cumsum()]), np.concatenate([zero, flagged.cumsum()])
