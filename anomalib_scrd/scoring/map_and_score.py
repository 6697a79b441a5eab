"""What teacher and student disagree on, as an anomaly map and a score, both calibrated on normal images."""

__all__ = ["ReadOut"]

from collections.abc import Sequence

import torch
from anomalib.data import InferenceBatch
from torch import nn

from anomalib_scrd.distance import position_distances
from anomalib_scrd.scoring.anomaly_map import AnomalyMap, MergeMode, joined_scales
from anomalib_scrd.scoring.image_score import SCORES, ScoreKind, image_score, map_level, top_mean
from anomalib_scrd.scoring.map_standardisation import CalibrationMode, MapCalibration, PeakCalibration

# A quarter of the training images are enough for the statistics of maps and peaks, and cost a quarter.
_CALIBRATION_SHARE = 4


class ReadOut(nn.Module):
    """Anomaly map and image score from the features of teacher and student.

    Nothing in it is learned by gradient: it follows the training, and no other part depends on it.

    Args:
        num_scales: Number of scales.
        calibration: See :class:`~anomalib_scrd.scoring.map_standardisation.MapCalibration`.
        damping: Mean square of the teacher's channels at which half of a distance remains in the map, see
            :func:`~anomalib_scrd.distance.confidence`; 0 for none (published).
        merge: See :class:`~anomalib_scrd.scoring.anomaly_map.AnomalyMap`.
        score: ``scales``: the peaks of the scales' maps, damped and plain ones, standardised by those of normal images,
            weighted and joined (:func:`~anomalib_scrd.scoring.anomaly_map.joined_scales`); or one of
            :func:`~anomalib_scrd.scoring.image_score.image_score` of the merged map.
        top_k: Share of a map which ``top_k`` averages, and ``scales`` of the damped ones, in (0, 1].
        diffuse_top_k: Share of a plain map which ``scales`` averages, in (0, 1].
        level: Share of a map's median which they subtract, in [0, 1]; from the damped peaks of ``scales`` all of it.
        sigma: Standard deviation of the map's smoothing, pixels of the input.
        broad_weight: Weight in the anomaly map of maps that are smoothed four times as wide; 0 for none.

    Raises:
        ValueError: If an argument is out of range; the message names it, its value and what is allowed.
    """

    def __init__(
        self,
        num_scales: int,
        calibration: CalibrationMode = "scale",
        damping: float = 10.0,
        merge: MergeMode = "norm",
        score: ScoreKind = "scales",
        top_k: float = 0.02,
        diffuse_top_k: float = 0.1,
        level: float = 0.5,
        sigma: float = 4.0,
        broad_weight: float = 0.85,
    ) -> None:
        super().__init__()
        if score not in SCORES:
            msg = f"score must be one of {SCORES}, got {score!r}"
            raise ValueError(msg)
        for name, share in (("top_k", top_k), ("diffuse_top_k", diffuse_top_k)):
            if not 0 < share <= 1:
                msg = f"{name} must lie in (0, 1], got {share}"
                raise ValueError(msg)
        if not damping >= 0:
            msg = f"damping must be at least 0, got {damping}"
            raise ValueError(msg)
        if not 0 <= level <= 1:
            msg = f"level must lie in [0, 1], got {level}"
            raise ValueError(msg)
        self.damping = damping
        self.score: ScoreKind = score
        self.top_k = top_k
        self.diffuse_top_k = diffuse_top_k
        self.level = level
        self.anomaly_map = AnomalyMap(merge, sigma, broad_weight)
        self.calibrate_maps = MapCalibration(self.anomaly_map.number(num_scales), calibration)
        self.calibrate_peaks = PeakCalibration(2 * num_scales) if score == "scales" else None

    def reset(self) -> None:
        """Forget what was seen of training images, before a training on other data."""
        self.calibrate_maps.reset()
        if self.calibrate_peaks is not None:
            self.calibrate_peaks.reset()

    @torch.no_grad()
    def update(
        self, teacher: Sequence[torch.Tensor], student: Sequence[torch.Tensor], size: torch.Size | tuple[int, int]
    ) -> None:
        """Let the calibration see normal training images.

        Args:
            teacher: K features (B, C_k, H_k, W_k) of the teacher, finest scale first.
            student: K features of the same shapes.
            size: (H, W) of the images.
        """
        few_teacher, few_student = ([f[::_CALIBRATION_SHARE] for f in features] for features in (teacher, student))
        damped, plain = self._maps(few_teacher, few_student, size)
        self.calibrate_maps.update(damped)
        if self.calibrate_peaks is not None:
            self.calibrate_peaks.update(self._peaks(self.calibrate_maps(damped), plain))

    def forward(
        self,
        teacher: Sequence[torch.Tensor],
        student: Sequence[torch.Tensor],
        weights: torch.Tensor,
        size: torch.Size | tuple[int, int],
    ) -> InferenceBatch:
        """Read out images.

        Args:
            teacher: K features (B, C_k, H_k, W_k) of the teacher, finest scale first.
            student: K features of the same shapes.
            weights: (B, K) weights of the scales.
            size: (H, W) of the images.

        Returns:
            ``pred_score`` (B,) and ``anomaly_map`` (B, 1, H, W).
        """
        damped, plain = self._maps(teacher, student, size)
        standardised = self.calibrate_maps(damped)
        # Weighted after the calibration, which would divide a weight of all images out again.
        anomaly_map = self.anomaly_map.merged(self.anomaly_map.shown(standardised, weights), size)
        if self.calibrate_peaks is None:
            score = image_score(anomaly_map, self.score, self.top_k, self.level)
        else:
            peaks = self.calibrate_peaks(self._peaks(standardised, plain))
            score = joined_scales(torch.cat([weights, weights], dim=1) * peaks)
        return InferenceBatch(pred_score=score, anomaly_map=anomaly_map)

    def _maps(
        self, teacher: Sequence[torch.Tensor], student: Sequence[torch.Tensor], size: torch.Size | tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Smooth maps of the scales, not standardised.

        Returns:
            The damped ones, (B, K, h, w) or with the broad ones behind them (B, 2K - 1, h, w), and the plain ones, of
            which the score needs a part of the rows and columns only, (B, K, h', w').
        """
        pairs = [position_distances(t, s, self.damping) for t, s in zip(teacher, student, strict=True)]
        distances, damped = zip(*pairs, strict=True)
        maps = self.anomaly_map.all_maps(damped, size)
        # without peaks nothing asks for the plain ones
        plain = maps if self.calibrate_peaks is None else self.anomaly_map.thin_scales(distances, size)
        return maps, plain

    def _peaks(self, damped: torch.Tensor, plain: torch.Tensor) -> torch.Tensor:
        """Peaks that the score goes by, (B, 2K), at least 0.

        The plain ones, of a larger share of the map, keep a part of what an image has everywhere, for diffuse
        anomalies; the damped ones tell only what stands out from the rest of the image. The root of a cosine distance
        is, up to a factor, the length between the two directions; it is distributed more evenly than its square.
        """
        fine = self.anomaly_map.thinned(damped[:, : plain.shape[1]])
        highest = torch.cat([top_mean(fine, self.top_k), top_mean(plain, self.diffuse_top_k)], dim=1)
        damped_level, plain_level = map_level(torch.cat([fine, plain], dim=1)).chunk(2, dim=1)
        peaks = highest - torch.cat([damped_level, self.level * plain_level], dim=1)
        return peaks.clamp_min(0).sqrt()
