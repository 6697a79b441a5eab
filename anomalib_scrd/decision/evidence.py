"""Input of the thresholds: score, peak and level of the map of each image."""

__all__ = ["EvidenceMetric", "evidence_of", "lacks_real_anomalies"]

from typing import Any

import numpy as np
import torch
from anomalib.data import Batch, InferenceBatch
from anomalib.data.utils import LabelName
from anomalib.data.utils.synthetic import SyntheticAnomalyDataset
from numpy.typing import NDArray
from torch.utils.data import ConcatDataset
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

_UNKNOWN = -1


def evidence_of(predictions: Batch | InferenceBatch) -> torch.Tensor:
    """Score, and highest and median value of the map, of each image.

    Args:
        predictions: Raw ``pred_score`` (B,) and ``anomaly_map`` (B, 1, H, W) or (B, H, W). If only one of them exists,
            the score is the highest value of the map, or the map is a single pixel with the score.

    Returns:
        (B, 3) float32.

    Raises:
        ValueError: If there is neither a score nor a map.
    """
    score, anomaly_map = predictions.pred_score, predictions.anomaly_map
    if anomaly_map is None:
        if score is None:
            msg = "at least one of pred_score and anomaly_map is needed, got neither"
            raise ValueError(msg)
        anomaly_map = score
    maps = anomaly_map.as_subclass(torch.Tensor).detach().float().reshape(len(anomaly_map), -1)
    peaks, levels = maps.amax(dim=1), maps.median(dim=1).values
    scores = peaks if score is None else score.as_subclass(torch.Tensor).detach().float().reshape(-1)
    return torch.stack([scores, peaks, levels], dim=1)


class EvidenceMetric(Metric):
    """Collects the evidence of images by label, over all processes of a distributed validation."""

    full_state_update = False
    rows: list[torch.Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def update(self, labels: torch.Tensor | None, evidence: torch.Tensor) -> None:
        """Add a batch.

        Args:
            labels: (B,), 1 for anomalous; None if they are unknown.
            evidence: (B, 3), see :func:`evidence_of`.
        """
        if labels is None:
            labels = torch.full((len(evidence),), _UNKNOWN, device=evidence.device)
        self.rows.append(torch.cat([labels.reshape(-1, 1).to(evidence), evidence], dim=1))

    def compute(self) -> torch.Tensor:
        """(N, 4): label, score, peak, level."""
        # A list of batches, or one tensor after a synchronisation of several processes.
        return dim_zero_cat(self.rows) if len(self.rows) else torch.empty(0, 4)

    def compute_numpy(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Evidence of the normal and of the anomalous images, (n, 3) and (m, 3)."""
        if not self.update_called:
            return np.empty((0, 3), np.float32), np.empty((0, 3), np.float32)
        rows = self.compute().cpu().numpy()
        return rows[rows[:, 0] == LabelName.NORMAL, 1:], rows[rows[:, 0] == LabelName.ABNORMAL, 1:]


def lacks_real_anomalies(loaders: Any) -> bool:
    """Whether a validation set is known to have no real anomalies: only normal images, or synthetic anomalies.

    Args:
        loaders: Validation loader, or several.

    Returns:
        True or False; False also if the images would have to be read.
    """
    several = loaders if isinstance(loaders, (list, tuple)) else [loaders]
    return all(_without_real_anomalies(getattr(loader, "dataset", None)) for loader in several)


def _without_real_anomalies(dataset: Any) -> bool:
    if isinstance(dataset, SyntheticAnomalyDataset):
        return True
    if isinstance(dataset, ConcatDataset):
        return all(_without_real_anomalies(part) for part in dataset.datasets)
    samples = getattr(dataset, "_samples", None)  # the public property raises if there are none
    if samples is not None and "label_index" in samples:
        return LabelName.ABNORMAL not in set(samples.label_index.dropna())
    return False
