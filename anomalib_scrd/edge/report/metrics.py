"""Metrics of pictures with known truth."""

__all__ = ["Metrics", "PixelCounts", "group_aurocs", "image_metrics"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import numpy as np

from anomalib_scrd.edge.groups import GROUPS, grouped_scores, labels_of, several
from anomalib_scrd.edge.records import Record
from anomalib_scrd.edge.report.cases import Case
from anomalib_scrd.edge.report.resampling import (
    Interval,
    auroc,
    average_precision,
    bootstrap,
    pixel_auroc,
    pixel_dice,
    share,
)

_BINS = 1024  # bins of a map's values, half of them below its threshold


@dataclass(frozen=True)
class Metrics:
    """Metrics with their intervals; None where they are undefined.

    Args:
        auroc: Area under the ROC curve of pictures.
        precision: Average precision.
        f1: F1 score at the threshold.
        false_alarms: Share of normal pictures above the threshold.
        sensitivity: Share of anomalous pictures above it.
        pixel_auroc: Area under the ROC curve of pixels.
        pixel_dice: Overlap of regions at the map's threshold.
        groups: Area under the ROC curve of patients and volumes, by ``patient`` and ``volume``.
    """

    auroc: Interval | None = None
    precision: Interval | None = None
    f1: Interval | None = None
    false_alarms: Interval | None = None
    sensitivity: Interval | None = None
    pixel_auroc: Interval | None = None
    pixel_dice: Interval | None = None
    groups: Mapping[str, Interval] = field(default_factory=dict)

    def with_pixels(self, counts: "PixelCounts") -> "Metrics":
        """Add the metrics of pixels.

        Args:
            counts: Counts of all pictures with known masks.

        Returns:
            New metrics.
        """
        normal, anomalous = counts.arrays()
        if not anomalous.any() or not normal.any():
            return self
        return replace(
            self, pixel_auroc=pixel_auroc(normal, anomalous), pixel_dice=pixel_dice(normal, anomalous, _BINS // 2)
        )


class PixelCounts:
    """Numbers of normal and anomalous pixels by the value of the map, picture by picture.

    Args:
        threshold: Threshold of the map, above 0; the bins end at twice the threshold.
    """

    def __init__(self, threshold: float) -> None:
        self._top = 2 * threshold
        self._normal: list[np.ndarray] = []
        self._anomalous: list[np.ndarray] = []

    def add(self, case: Case) -> None:
        """Count the pixels of a picture.

        Args:
            case: The picture; ignored without a mask.
        """
        if case.mask is None:
            return
        # a value equal to the threshold is not above it
        bins = np.ceil(np.asarray(case.anomaly_map, np.float64) * (_BINS / self._top)).astype(np.int64) - 1
        bins = np.clip(bins, 0, _BINS - 1)
        self._normal.append(np.bincount(bins[~case.mask], minlength=_BINS))
        self._anomalous.append(np.bincount(bins[case.mask], minlength=_BINS))

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Counts of normal and anomalous pixels, (N, bins) each."""
        shape = (len(self._normal), _BINS)
        return np.array(self._normal, np.int64).reshape(shape), np.array(self._anomalous, np.int64).reshape(shape)


def image_metrics(scores: Sequence[float], labels: Sequence[bool | None], threshold: float | None) -> Metrics:
    """Metrics of pictures.

    Args:
        scores: (N,).
        labels: (N,), None where the truth is not known.
        threshold: Above it a picture is anomalous; None without one.

    Returns:
        The metrics.
    """
    known = [(score, label) for score, label in zip(scores, labels, strict=True) if label is not None]
    values = np.array([score for score, _ in known], np.float64)
    truth = np.array([label for _, label in known], bool)
    normal, anomalous = np.flatnonzero(~truth), np.flatnonzero(truth)
    result = Metrics()
    if threshold is not None and known:
        above = values > threshold
        result = replace(
            result,
            false_alarms=share(int(above[normal].sum()), len(normal)),
            sensitivity=share(int(above[anomalous].sum()), len(anomalous)),
        )
    if not len(normal) or not len(anomalous):
        return result
    result = replace(
        result,
        auroc=auroc(values[normal], values[anomalous]),
        precision=bootstrap(lambda index: average_precision(values[index], truth[index]), normal, anomalous),
    )
    if threshold is not None:
        above = values > threshold

        def f1(index: np.ndarray) -> float:
            hits = int((above[index] & truth[index]).sum())
            return 2 * hits / (int(above[index].sum()) + int(truth[index].sum()))

        result = replace(result, f1=bootstrap(f1, normal, anomalous))
    return result


def group_aurocs(records: Sequence[Record], labels: Sequence[bool | None]) -> dict[str, Interval]:
    """Area under the ROC curve of the scores of patients and of volumes.

    Args:
        records: Pictures, those of a file next to each other.
        labels: Their truth, None where it is not known.

    Returns:
        AUROC by ``patient`` and ``volume``; without one if no two pictures share it or all groups are of one kind.
    """
    found = {}
    for by in GROUPS:
        truth = labels_of(records, labels, by)
        files = (file for _, file in groupby(records, key=lambda record: record.path))
        groups = grouped_scores(files, by)
        normal, anomalous = (
            np.array([group.score for group in groups if truth[group.name] is kind]) for kind in (False, True)
        )
        if several(groups) and len(normal) and len(anomalous):
            found[by] = auroc(normal, anomalous)
    return found
