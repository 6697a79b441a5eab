"""Comparison of an export's scores with those of the training."""

__all__ = ["Parity", "compare"]

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anomalib_scrd.edge.records import Record


@dataclass(frozen=True)
class Parity:
    """Differences between the scores of an export and those of the training.

    Args:
        pairs: Scores of the training and of the export for each picture.
        flipped: Number of pictures with different decisions.
        missing: Number of pictures with only one of the two scores.
    """

    pairs: list[tuple[float, float]]
    flipped: int
    missing: int

    @property
    def differences(self) -> np.ndarray:
        """Absolute differences, (N,)."""
        values = np.array(self.pairs, np.float64).reshape(-1, 2)
        return np.abs(values[:, 1] - values[:, 0])


def compare(training: Sequence[Record], export: Sequence[Record]) -> Parity:
    """Compare the pictures with both scores.

    Args:
        training: Records of the training.
        export: Records of the export.

    Returns:
        The comparison.
    """
    first = {(record.path, record.picture): record for record in training if record.score is not None}
    second = {(record.path, record.picture): record for record in export if record.score is not None}
    both = [(first[key], second[key]) for key in second if key in first]
    flipped = sum(a.anomalous is not None and b.anomalous is not None and a.anomalous != b.anomalous for a, b in both)
    pairs = [(float(a.score or 0.0), float(b.score or 0.0)) for a, b in both]
    return Parity(pairs, flipped, len(first.keys() ^ second.keys()))
