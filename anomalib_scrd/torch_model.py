"""Teacher, bottleneck, student, scale weights and map in one torch module: the boundary of every export."""

__all__ = ["BlockChoice", "ScaleAwareCRDModel", "TrainingFeatures"]

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from anomalib.data import InferenceBatch
from torch import nn

from anomalib_scrd.anomaly_map import AnomalyMap, MergeMode, joined_scales
from anomalib_scrd.blocks import BLOCK_KINDS, BlockKind
from anomalib_scrd.bottleneck import Bottleneck
from anomalib_scrd.calibration import CalibrationMode, MapCalibration, PeakCalibration
from anomalib_scrd.distance import confidence, position_distance
from anomalib_scrd.loss import scale_distances
from anomalib_scrd.scale_adaptation import ScaleAdaptation, ScaleAdaptationMode, ScaleWeights
from anomalib_scrd.score import SCORES, ScoreKind, image_score, map_peak
from anomalib_scrd.standardisation import FEATURE_SCALINGS, ChannelStandardisation, FeatureScaling
from anomalib_scrd.student import Student
from anomalib_scrd.teacher import Teacher

BlockChoice = Literal["auto", "basic", "bottleneck", "separable"]

# From this many channels on, RD4AD's decoders (and the ResNets they mirror) have bottleneck blocks.
_BOTTLENECK_CHANNELS = 512
_BOTTLENECK_DEPTH = (3, 4, 6)
_SHALLOW_DEPTH = 1

# A quarter of the training images are enough for the statistics of maps and peaks, and cost a quarter.
_CALIBRATION_SHARE = 4


class TrainingFeatures(NamedTuple):
    """What the loss needs; K tensors (B, C_k, H_k, W_k) each, finest scale first.

    Attributes:
        clean: Teacher's features of the images, without gradient.
        student: Student's features of the images.
        scale: Weights of the scales.
        noisy: Teacher's features of the noisy images, (b, C_k, H_k, W_k) without gradient, or None.
        restored: Student's features of the noisy images, or None.
    """

    clean: list[torch.Tensor]
    student: list[torch.Tensor]
    scale: ScaleWeights
    noisy: list[torch.Tensor] | None = None
    restored: list[torch.Tensor] | None = None


class ScaleAwareCRDModel(nn.Module):
    """Scale-aware contrastive reverse distillation (Li et al., ICLR 2025).

    In training mode the output is :class:`TrainingFeatures`, in evaluation mode an ``InferenceBatch`` with
    ``pred_score`` (B,) and ``anomaly_map`` (B, 1, H, W).

    Args:
        backbone: Name of a timm model.
        layers: Names of its feature maps, finest first; None for those of strides 4, 8 and 16.
        pre_trained: See :class:`~anomalib_scrd.teacher.Teacher`.
        student_block: Block of bottleneck and student. ``auto`` takes bottleneck blocks, as RD4AD does, where the
            coarsest map has 512 channels or more, else basic ones. ``separable`` is the cheapest.
        student_depth: Blocks per scale, coarsest scale first, or one number for all. None: (3, 4, 6, 6, ...) for
            bottleneck blocks as in RD4AD, 1 for the others. The first number also counts for the
            bottleneck.
        feature_scaling: ``channel`` for standardised features of the teacher, see
            :class:`~anomalib_scrd.standardisation.ChannelStandardisation`, or ``none`` (published).
        scale_adaptation: See :class:`~anomalib_scrd.scale_adaptation.ScaleAdaptation`.
        calibration: See :class:`~anomalib_scrd.calibration.MapCalibration`.
        damping: Mean square of the teacher's channels at which half of a distance remains in the map, see
            :func:`~anomalib_scrd.distance.confidence`; 0 for none (published).
        merge: See :class:`~anomalib_scrd.anomaly_map.AnomalyMap`.
        score: ``scales``: the peaks of the scales' maps, damped and plain ones, standardised by those of normal images,
            weighted and joined (:func:`~anomalib_scrd.anomaly_map.joined_scales`); or one of
            :func:`~anomalib_scrd.score.image_score` of the merged map.
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
        backbone: str = "wide_resnet50_2",
        layers: Sequence[str] | None = None,
        pre_trained: bool | str | Path = True,
        student_block: BlockChoice = "auto",
        student_depth: int | Sequence[int] | None = None,
        feature_scaling: FeatureScaling = "channel",
        scale_adaptation: ScaleAdaptationMode = "adaptive",
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
        if feature_scaling not in FEATURE_SCALINGS:
            msg = f"feature_scaling must be one of {FEATURE_SCALINGS}, got {feature_scaling!r}"
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
        self.level = level
        self.score: ScoreKind = score
        self.top_k = top_k
        self.diffuse_top_k = diffuse_top_k

        # Cheap checks come first: loading the teacher can mean a download.
        anomaly_map = AnomalyMap(merge, sigma, broad_weight)
        calibrate = MapCalibration(1, calibration).mode
        adapt = ScaleAdaptation(1, 1, scale_adaptation).mode
        _check_block(student_block)
        _check_depth(student_depth)
        self.teacher = Teacher(backbone, layers, pre_trained)
        channels, strides = self.teacher.channels, self.teacher.strides
        self.standardise = ChannelStandardisation(channels) if feature_scaling == "channel" else None
        block = _resolve_block(student_block, channels)
        depth = _resolve_depth(student_depth, block, len(channels))
        self.bottleneck = Bottleneck(channels, strides, block=block, depth=depth[0])
        self.scale_adaptation = ScaleAdaptation(self.bottleneck.out_channels, len(channels), adapt)
        self.student = Student(
            channels,
            strides,
            in_channels=self.bottleneck.out_channels,
            in_stride=self.bottleneck.stride,
            non_negative=[relu and self.standardise is None for relu in self.teacher.non_negative],
            block=block,
            depth=depth,
        )
        self.calibration = MapCalibration(anomaly_map.number(len(channels)), calibrate)
        self.anomaly_map = anomaly_map
        self.calibrate_peaks = PeakCalibration(2 * len(channels)) if score == "scales" else None

    @property
    def minimum_size(self) -> int:
        """Smallest height and width of an image, in pixels: the stride of the embedding."""
        return self.bottleneck.stride

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Parameters of everything but the teacher."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def forward(
        self,
        images: torch.Tensor,
        noisy_images: torch.Tensor | None = None,
        *,
        restore: bool = False,
        taught: list[torch.Tensor] | None = None,
    ) -> TrainingFeatures | InferenceBatch:
        """Features for the loss in training mode, predictions in evaluation mode.

        Args:
            images: (B, 3, H, W), normalised.
            noisy_images: The first b of the images with synthetic anomalies, (b, 3, H, W); training mode only.
            restore: Whether the student sees the noisy images as well; training mode only.
            taught: The teacher's features of the images and, behind them, the noisy ones, if they are known: it is not
                asked then. One (B, C_k, H_k, W_k) or (B + b, C_k, H_k, W_k) per scale; training mode only.

        Returns:
            :class:`TrainingFeatures` or ``InferenceBatch``.

        Raises:
            ValueError: If the images are smaller than the stride of the embedding, or not (B, 3, H, W).
        """
        self._check_images(images)
        if not self.training:
            return self.predict(images)
        return self.features(images, noisy_images, restore=restore, taught=taught)

    def features(
        self,
        images: torch.Tensor,
        noisy_images: torch.Tensor | None = None,
        *,
        restore: bool = False,
        taught: list[torch.Tensor] | None = None,
    ) -> TrainingFeatures:
        """Extract what the loss needs and let the calibration see the clean images; arguments as in ``forward``."""
        batch = images.shape[0]
        noisy = restored = None
        both = taught
        if both is None:
            # One pass of the teacher over both: the same work in larger pieces.
            both = self.teacher(images if noisy_images is None else torch.cat([images, noisy_images]))
        if self.standardise is not None:
            self.standardise.update([f[:batch] for f in both])
            both = self.standardise(both)
        clean = [f[:batch] for f in both]
        if noisy_images is not None:
            noisy = [f[batch:] for f in both]
        if restore and noisy is not None:
            embedding, outputs = self._decode(both)
            student, restored = [f[:batch] for f in outputs], [f[batch:] for f in outputs]
            scale = self.scale_adaptation(embedding[:batch])
        else:
            embedding, student = self._decode(clean)
            scale = self.scale_adaptation(embedding)
        self._calibrate(clean, student, images.shape[-2:])
        return TrainingFeatures(clean, student, scale, noisy, restored)

    def scales(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the loss sees of each scale: distance of the student to the teacher, and weight; in evaluation mode.

        Args:
            images: (B, 3, H, W), normalised.

        Returns:
            (B, K) distances in [0, 2], the pull, and (B, K) weights, whose rows sum to K.
        """
        clean = self._taught(images)
        embedding, student = self._decode(clean)
        return scale_distances(clean, student), self.scale_adaptation(embedding).weights

    def predict(self, images: torch.Tensor) -> InferenceBatch:
        """Anomaly map and score of images, (B, 3, H, W)."""
        clean = self._taught(images)
        embedding, student = self._decode(clean)
        weights = self.scale_adaptation(embedding).weights
        damped, plain = self._maps(clean, student, images.shape[-2:])
        standardised = self.calibration(damped)
        # Weighted after the calibration, which would divide a weight of all images out again.
        shown = self.anomaly_map.shown(standardised, weights)
        anomaly_map = self.anomaly_map.merged(shown, images.shape[-2:])
        if self.calibrate_peaks is None:
            score = image_score(anomaly_map, self.score, self.top_k, self.level)
        else:
            peaks = self.calibrate_peaks(self._peaks(standardised, plain))
            score = joined_scales(torch.cat([weights, weights], dim=1) * peaks)
        return InferenceBatch(pred_score=score, anomaly_map=anomaly_map)

    @torch.no_grad()
    def _calibrate(self, clean: list[torch.Tensor], student: list[torch.Tensor], size: torch.Size) -> None:
        """Let the calibration see the maps of normal training images."""
        few_clean, few_student = ([f[::_CALIBRATION_SHARE] for f in features] for features in (clean, student))
        damped, plain = self._maps(few_clean, few_student, size)
        self.calibration.update(damped)
        if self.calibrate_peaks is not None:
            self.calibrate_peaks.update(self._peaks(self.calibration(damped), plain))

    def _maps(
        self, teacher: list[torch.Tensor], student: list[torch.Tensor], size: torch.Size
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Smooth maps of the scales, not standardised.

        Returns:
            The damped ones, (B, K, h, w) or with the broad ones behind them (B, 2K - 1, h, w), and the plain ones that
            the score needs, (B, K, h, w).
        """
        distances, damped = self._distances(teacher, student)
        if self.calibrate_peaks is None:  # nothing asks for the plain ones
            fine = plain = self.anomaly_map.scales(damped, size)
        else:
            fine, plain = self.anomaly_map.scales([*damped, *distances], size).tensor_split(2, dim=1)
        return self.anomaly_map.with_broad(fine), plain

    def _peaks(self, damped: torch.Tensor, plain: torch.Tensor) -> torch.Tensor:
        """Peaks that the score goes by, (B, 2K), at least 0.

        The plain ones, of a larger share of the map, keep a part of what an image has everywhere, for diffuse
        anomalies; the damped ones tell only what stands out from the rest of the image. The root of a cosine distance
        is, up to a factor, the length between the two directions; it is distributed more evenly than its square.
        """
        fine, plain = (self.anomaly_map.thinned(maps) for maps in (damped[:, : plain.shape[1]], plain))
        peaks = [map_peak(fine, self.top_k, 1.0), map_peak(plain, self.diffuse_top_k, self.level)]
        return torch.cat(peaks, dim=1).clamp_min(0).sqrt()

    def _taught(self, images: torch.Tensor) -> list[torch.Tensor]:
        """The teacher's features of images, standardised as in training."""
        features = self.teacher(images)
        return features if self.standardise is None else self.standardise(features)

    def _decode(self, features: list[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        embedding = self.bottleneck(features)
        return embedding, self.student(embedding, [feature.shape[-2:] for feature in features])

    def _distances(
        self, teacher: list[torch.Tensor], student: list[torch.Tensor]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Distance of every scale, plain and damped, (B, H_k, W_k) each."""
        distances = [position_distance(t, s) for t, s in zip(teacher, student, strict=True)]
        if self.damping == 0:
            return distances, distances
        return distances, [d * confidence(t, self.damping) for d, t in zip(distances, teacher, strict=True)]

    def _check_images(self, images: torch.Tensor) -> None:
        if torch.compiler.is_compiling():  # the exporter probes with sizes of its own
            return
        if images.ndim != 4 or images.shape[1] != 3:  # noqa: PLR2004
            msg = f"images must be (B, 3, H, W), got {tuple(images.shape)}"
            raise ValueError(msg)
        if min(images.shape[-2:]) < self.minimum_size:
            msg = (
                f"images must be at least {self.minimum_size} x {self.minimum_size} pixels, the stride of the "
                f"embedding of this backbone, got {images.shape[-2]} x {images.shape[-1]}"
            )
            raise ValueError(msg)


def _check_block(block: str) -> None:
    if block not in {"auto", *BLOCK_KINDS}:
        msg = f"student_block must be one of {('auto', *BLOCK_KINDS)}, got {block!r}"
        raise ValueError(msg)


def _check_depth(depth: Any) -> None:
    depths = [depth] if depth is None or isinstance(depth, (int, float, str)) else list(depth)
    if depth is not None and any(type(d) is not int or d < 1 for d in depths):
        msg = f"student_depth must be one number, or one for each scale, whole and each at least 1, got {depth!r}"
        raise ValueError(msg)


def _resolve_block(block: BlockChoice, channels: Sequence[int]) -> BlockKind:
    if block != "auto":
        return block
    return "bottleneck" if channels[-1] >= _BOTTLENECK_CHANNELS else "basic"


def _resolve_depth(depth: int | Sequence[int] | None, block: BlockKind, num_scales: int) -> list[int]:
    if depth is None:
        if block == "bottleneck":
            return [_BOTTLENECK_DEPTH[min(scale, len(_BOTTLENECK_DEPTH) - 1)] for scale in range(num_scales)]
        return [_SHALLOW_DEPTH] * num_scales
    depths = [depth] * num_scales if isinstance(depth, int) else list(depth)
    if len(depths) != num_scales:
        msg = f"student_depth must be one number, or {num_scales} of them, each at least 1, got {depth}"
        raise ValueError(msg)
    return depths
