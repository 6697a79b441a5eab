"""Anomaly map and image score from the features of teacher and student."""

__all__ = ["SCALE_ADAPTATIONS", "MapAndScore", "ScaleAdaptationMode"]

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from anomalib.data import InferenceBatch
from torch import nn

from anomalib_scrd.distance import confidence, position_distance
from anomalib_scrd.scoring.anomaly_map import SmoothMaps, compared_with_image
from anomalib_scrd.scoring.evidence import EXTENTS, evidence
from anomalib_scrd.scoring.fitted_weights import FittedWeights
from anomalib_scrd.scoring.prototypes import Prototypes

ScaleAdaptationMode = Literal["fitted", "uniform", "published"]
SCALE_ADAPTATIONS = ("fitted", "uniform", "published")


class MapAndScore(nn.Module):
    """Weighs the distances of all scales into one map and one score.

    A scale is a level of the teacher, and for the score an extent in the image as well. At each of K levels there are
    two distances of the teacher's features: to the student's, and to the nearest prototype, M = 2 K in all (M = K
    without prototypes). The map is a weighted sum of the smoothed distances, compared with their image
    (:func:`~anomalib_scrd.scoring.anomaly_map.compared_with_image`): ``sum_m w_m (d_m - c_m) / s_m``. The score is a
    weighted sum of the logarithms of six extents of each distance, plain and damped
    (:mod:`~anomalib_scrd.scoring.evidence`). Both sets of weights are
    :class:`~anomalib_scrd.scoring.fitted_weights.FittedWeights`; the distance to prototypes is the counterpart of
    that to the student. Nothing here is trained by gradient.

    Args:
        channels: Channels of the K levels.
        scale_adaptation: ``fitted``: the weights separate synthetic anomalies from normal images; ``uniform``: every
            weight is equal; ``published``: the map is the sum of the levels' distances with weights of the image from
            the scale adaptation head, not standardised, and the score is the mean of the map.
        damping: Mean square of the teacher's channels at which half of a distance remains in the map, see
            :func:`~anomalib_scrd.distance.confidence`; 0 for none (published).
        sigma: Standard deviation of the smoothing of the map, in pixels of the backbone's input; the distances of the
            score are smoothed by twice as much. 0 for none.
        prototypes: Number of prototypes of each level; 0 for none. Not used in the published form.

    Raises:
        ValueError: If an argument is out of range; the message names it, its value and what is allowed.
    """

    def __init__(
        self,
        channels: Sequence[int],
        scale_adaptation: ScaleAdaptationMode,
        damping: float,
        sigma: float,
        prototypes: int,
    ) -> None:
        super().__init__()
        if scale_adaptation not in SCALE_ADAPTATIONS:
            msg = f"scoring.scale_adaptation must be one of {SCALE_ADAPTATIONS}, got {scale_adaptation!r}"
            raise ValueError(msg)
        if not damping >= 0:
            msg = f"scoring.damping must be at least 0, got {damping}"
            raise ValueError(msg)
        self.damping = damping
        self.published = scale_adaptation == "published"
        self.uniform = scale_adaptation == "uniform"
        self.smooth_maps = SmoothMaps(sigma)
        self.prototypes = Prototypes(channels, prototypes) if prototypes and not self.published else None
        if not self.published:
            num_distances = len(channels) * (1 if self.prototypes is None else 2)
            # Plain and damped; to the student and to prototypes, if there are any; level; extent.
            features = np.arange(2 * num_distances * len(EXTENTS)).reshape(2, -1, len(channels), len(EXTENTS))
            self.score_weights = FittedWeights(features.size, _counterparts(features))
            # The map needs less correction for what the student is trained with: its AUPRO falls with all of it.
            levels = np.arange(num_distances).reshape(1, -1, len(channels))
            self.map_weights = FittedWeights(levels.size, _counterparts(levels), length=0.5, share=0.0)

    def distances(
        self, teacher: Sequence[torch.Tensor], student: Sequence[torch.Tensor]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Distances at each position, plain and damped.

        Args:
            teacher: K features (B, C_k, H_k, W_k).
            student: K features of the same shapes.

        Returns:
            K tensors (B, M / K, H_k, W_k) float32 each: the distance to the student, then to the nearest prototype.
        """
        kinds = [[position_distance(t, s) for t, s in zip(teacher, student, strict=True)]]
        if self.prototypes is not None:
            kinds.append(self.prototypes(teacher))
        plain = [torch.stack(level, dim=1) for level in zip(*kinds, strict=True)]
        if not self.damping:
            return plain, plain
        factors = [confidence(t, self.damping).unsqueeze(1) for t in teacher]
        return plain, [level * factor for level, factor in zip(plain, factors, strict=True)]

    def evidence(
        self, plain: Sequence[torch.Tensor], damped: Sequence[torch.Tensor], size: torch.Size | tuple[int, int]
    ) -> torch.Tensor:
        """Features of the score.

        Args:
            plain: K tensors (B, M / K, H_k, W_k).
            damped: K tensors of the same shapes.
            size: (H, W) of the backbone's input.

        Returns:
            (B, 12 M): six extents of each plain map, then of each damped one.
        """
        both = [torch.cat(level, dim=1) for level in zip(plain, damped, strict=True)]
        return evidence(self.smooth_maps.thin(both, size))

    def forward(
        self,
        teacher: Sequence[torch.Tensor],
        student: Sequence[torch.Tensor],
        size: torch.Size | tuple[int, int],
        weights: torch.Tensor | None = None,
        *,
        map_size: torch.Size | tuple[int, int] | None = None,
    ) -> InferenceBatch:
        """Compute map and score.

        Args:
            teacher: K features (B, C_k, H_k, W_k) of the teacher, finest level first.
            student: K features of the same shapes.
            size: (H, W) of the backbone's input.
            weights: (B, K) weights of the levels, for the published form only; ones without them.
            map_size: (H, W) of the map; None, the default, for ``size``.

        Returns:
            ``pred_score`` (B,) and ``anomaly_map`` (B, 1, H, W).
        """
        levels, score = self.levels_and_score(teacher, student, size, weights)
        anomaly_map = self.anomaly_map(levels, map_size or size)
        return InferenceBatch(
            pred_score=anomaly_map.flatten(1).mean(dim=1) if score is None else score, anomaly_map=anomaly_map
        )

    def levels_and_score(
        self,
        teacher: Sequence[torch.Tensor],
        student: Sequence[torch.Tensor],
        size: torch.Size | tuple[int, int],
        weights: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Compute the maps that :meth:`anomaly_map` joins, and the score; arguments as in :meth:`forward`.

        Returns:
            (B, M, h, w) smoothed distances, times the weights of the levels in the published form; and (B,) scores,
            None in the published form, in which the score is the mean of the anomaly map.
        """
        plain, damped = self.distances(teacher, student)
        levels = self.smooth_maps(damped, size)
        if self.published:
            return levels if weights is None else levels * weights[..., None, None], None
        return levels, self.score_weights(self.evidence(plain, damped, size))

    def anomaly_map(
        self, levels: torch.Tensor, map_size: torch.Size | tuple[int, int], means: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Join the maps of levels.

        Args:
            levels: (B, M, h, w), as :meth:`levels_and_score` returns them.
            map_size: (H, W) of the result.
            means: (B, M) means of the image to which the levels belong; by default those of the levels.

        Returns:
            (B, 1, H, W).
        """
        joined = levels.sum(dim=1) if self.published else self.map_weights(compared_with_image(levels, means))
        return self.smooth_maps.enlarged(joined.unsqueeze(1), map_size)


def _counterparts(features: np.ndarray) -> list[int]:
    """Index of each feature's counterpart: the same feature of the last distance, which the second axis counts."""
    return np.broadcast_to(features[:, -1:], features.shape).ravel().tolist()
