"""Metrics of raw anomaly scores. All depend only on the order of the scores, which are not normalised."""

__all__ = ["METRICS", "check_finite", "image_metrics", "pixel_metrics", "quantile_threshold", "thresholded_metrics"]

import numpy as np
import torch
from anomalib.metrics.aupro import _AUPRO as AuproMetric  # noqa: N811  (the plain metric, without anomalib's field names)
from numpy.typing import NDArray
from sklearn import metrics

METRICS = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "f1": "F1",
    "accuracy": "accuracy",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "pixel_aupro": "AUPRO",
    "f1_best_on_test": "F1, best threshold on test",
    "accuracy_best_on_test": "accuracy, best threshold on test",
}
"""Titles of all metrics by name."""

_FPR_LIMIT = 0.3  # upper limit of AUPRO's curve (Bergmann et al., IJCV 2021)

Floats = NDArray[np.floating]
Labels = NDArray[np.integer] | NDArray[np.bool_]


def check_finite(scores: Floats, what: str) -> None:
    """Raise ValueError, with their number, if scores are NaN or infinite: they have no rank."""
    bad = int(np.size(scores) - np.isfinite(scores).sum())
    if bad:
        msg = f"{bad} of {np.size(scores)} {what} are not finite: they cannot be ranked"
        raise ValueError(msg)


def image_metrics(scores: Floats, labels: Labels) -> dict[str, float]:
    """Metrics of image scores without a threshold, and published ones with thresholds from the test set.

    Args:
        scores: (N,) raw scores.
        labels: (N,), 1 = anomalous.

    Returns:
        ``image_auroc``, ``image_ap``, ``f1_best_on_test`` and ``accuracy_best_on_test`` (each the maximum over all
        thresholds on the test set, as in papers, which is optimistic).
    """
    labels = np.asarray(labels).astype(bool)
    precision, recall, _ = metrics.precision_recall_curve(labels, scores)
    false_rate, true_rate, _ = metrics.roc_curve(labels, scores, drop_intermediate=False)
    share = labels.mean()
    return {
        "image_auroc": float(metrics.roc_auc_score(labels, scores)),
        "image_ap": float(metrics.average_precision_score(labels, scores)),
        "f1_best_on_test": float((2 * precision * recall / np.maximum(precision + recall, 1e-12)).max()),
        "accuracy_best_on_test": float((share * true_rate + (1 - share) * (1 - false_rate)).max()),
    }


def thresholded_metrics(scores: Floats, labels: Labels, threshold: float) -> dict[str, float]:
    """``f1`` and ``accuracy`` of ``score > threshold``, for (N,) raw scores and (N,) labels, 1 = anomalous."""
    labels = np.asarray(labels).astype(bool)
    predicted = np.asarray(scores, dtype=np.float64) > threshold  # float32 could round up the threshold
    f1 = metrics.f1_score(labels, predicted, zero_division=0)
    return {"f1": float(f1), "accuracy": float(metrics.accuracy_score(labels, predicted))}


def quantile_threshold(normal_scores: Floats, quantile: float) -> float:
    """Smallest score that at least the share ``quantile`` of the scores does not exceed."""
    return float(np.quantile(normal_scores, quantile, method="inverted_cdf"))


def pixel_metrics(maps: Floats, masks: Labels) -> dict[str, float]:
    """Metrics of (N, H, W) raw anomaly maps and masks, nonzero = anomalous, over all test images together.

    Returns:
        ``pixel_auroc``, ``pixel_ap`` and ``pixel_aupro`` (area under the per-region overlap curve up to a false
        positive rate of 0.3, normalised), each in [0, 1].
    """
    binary = masks != 0
    aupro = AuproMetric(fpr_limit=_FPR_LIMIT)
    aupro.update(torch.from_numpy(np.ascontiguousarray(maps)), torch.from_numpy(binary.astype(np.uint8)))
    labels, scores = binary.ravel(), maps.ravel()
    return {
        "pixel_auroc": float(metrics.roc_auc_score(labels, scores)),
        "pixel_ap": float(metrics.average_precision_score(labels, scores)),
        "pixel_aupro": float(aupro.compute()),
    }
