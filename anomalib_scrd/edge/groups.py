"""Scores of patients and volumes from those of their pictures."""

__all__ = ["GROUPS", "Group", "grouped_scores", "labels_of", "several", "write_groups"]

import heapq
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from anomalib_scrd.edge.records import Record, as_row

GROUPS = ("patient", "volume")
"""Fields of a record by which pictures are grouped."""

_TOP = 3


class Group(NamedTuple):
    """A patient or a volume.

    Attributes:
        name: Pseudonym, or the file of a volume.
        pictures: Number of its pictures.
        score: Mean of its three highest scores, or of all if there are fewer.
    """

    name: str
    pictures: int
    score: float


def grouped_scores(files: Iterable[Iterable[Record]], by: str) -> list[Group]:
    """Score patients or volumes by the mean of the three highest scores of their pictures.

    A lesion appears in a few slices: the mean over all slices would dilute it, and the single highest score is noisy.
    ``anomalib_scrd.data.patient_scores`` does the same.

    Args:
        files: Records file by file; if a file occurs twice, its later records are used.
        by: ``patient`` or ``volume``.

    Returns:
        Groups, the highest score first; pictures without a patient or volume are left out.
    """
    latest: dict[str, dict[str, tuple[int, list[float]]]] = {}
    for file in files:
        scores: dict[str, list[float]] = {}
        path = ""
        for record in file:
            path, name = record.path, getattr(record, by)
            if name is not None and record.score is not None:
                scores.setdefault(name, []).append(record.score)
        if scores or path in latest:
            latest[path] = {name: (len(values), heapq.nlargest(_TOP, values)) for name, values in scores.items()}
    counts: dict[str, int] = {}
    highest: dict[str, list[float]] = {}
    for parts in latest.values():
        for name, (count, values) in parts.items():
            counts[name] = counts.get(name, 0) + count
            highest[name] = heapq.nlargest(_TOP, [*highest.get(name, []), *values])
    groups = [Group(name, counts[name], math.fsum(values) / len(values)) for name, values in highest.items()]
    return sorted(groups, key=lambda group: (-group.score, group.name))


def write_groups(groups: Iterable[Group], path: Path, by: str, threshold: float | None) -> None:
    """Write a table of patients or volumes.

    Args:
        groups: Groups of :func:`grouped_scores`.
        path: CSV file with the columns ``by``, pictures, score, anomalous; names as
            :func:`~anomalib_scrd.edge.records.as_cell`.
        by: ``patient`` or ``volume``.
        threshold: Score above which a picture, and a group, is anomalous; None for none.

    Raises:
        OSError: If the file cannot be written.
    """
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        file.write(as_row([by, "pictures", "score", "anomalous"]))
        for group in groups:
            anomalous = None if threshold is None else group.score > threshold
            file.write(as_row([group.name, group.pictures, group.score, anomalous]))


def several(groups: Iterable[Group]) -> bool:
    """Whether a group has more than one picture; otherwise group scores equal picture scores."""
    return any(group.pictures > 1 for group in groups)


def labels_of(records: Iterable[Record], labels: Iterable[bool | None], by: str) -> Mapping[str, bool | None]:
    """Truth of patients or volumes: anomalous if a picture is, else unknown if that of a picture is.

    Args:
        records: Pictures.
        labels: Their truth.
        by: ``patient`` or ``volume``.

    Returns:
        Truth by name.
    """
    truth: dict[str, bool | None] = {}
    for record, label in zip(records, labels, strict=True):
        name = getattr(record, by)
        if name is None:
            continue
        before = truth.get(name, False)
        truth[name] = True if label or before else None if label is None or before is None else False
    return truth
