"""Teacher, bottleneck, student, scale weights and map in one torch module: the boundary of every export."""

__all__ = ["ScaleAwareCRDModel", "TrainingFeatures"]

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from anomalib.data import InferenceBatch
from torch import nn

from anomalib_scrd.components.blocks import BlockKind
from anomalib_scrd.components.bottleneck import Bottleneck
from anomalib_scrd.components.feature_standardisation import FeatureScaling, feature_standardisation
from anomalib_scrd.components.scale_adaptation import PublishedScaleAdaptation
from anomalib_scrd.components.student import Student
from anomalib_scrd.components.teacher import Teacher
from anomalib_scrd.loss import split_batch
from anomalib_scrd.options import GroupValue, ScoringOptions, StudentOptions
from anomalib_scrd.presets import PresetName, resolved
from anomalib_scrd.scoring.anomaly_map import compared_with_image
from anomalib_scrd.scoring.map_and_score import MapAndScore
from anomalib_scrd.tiling import Tiling

# From this many channels on, RD4AD's decoders (and the ResNets they mirror) have bottleneck blocks.
_BOTTLENECK_CHANNELS = 512
_BOTTLENECK_DEPTH = (3, 4, 6)
_SHALLOW_DEPTH = 1


class TrainingFeatures(NamedTuple):
    """Input of the loss; K tensors (B, C_k, H_k, W_k) each, finest scale first.

    Attributes:
        clean: Teacher's features of the images, without gradient.
        student: Student's features of the images.
        noisy: Teacher's features of the noisy images, (b, C_k, H_k, W_k) without gradient, or None.
        restored: Student's features of the noisy images, or None.
        weights: (B, K) weights of the scales in the published form, None in the others.
    """

    clean: list[torch.Tensor]
    student: list[torch.Tensor]
    noisy: list[torch.Tensor] | None = None
    restored: list[torch.Tensor] | None = None
    weights: torch.Tensor | None = None


class ScaleAwareCRDModel(nn.Module):
    """Scale-aware contrastive reverse distillation (Li et al., ICLR 2025).

    In training mode the output is :class:`TrainingFeatures`, in evaluation mode an ``InferenceBatch`` with
    ``pred_score`` (B,) and ``anomaly_map`` (B, 1, H, W).

    Args:
        preset: Name of the preset that gives the values of arguments that are None.
        backbone: Name of a timm model.
        layers: Names of its feature maps, finest first; None for those of strides 4, 8 and 16.
        pre_trained: See :class:`~anomalib_scrd.components.teacher.Teacher`.
        student: See :class:`~anomalib_scrd.options.StudentOptions`.
        scoring: See :class:`~anomalib_scrd.options.ScoringOptions`.

    Attributes:
        tiling: How predictions cut images into tiles; None for no tiles. Assigning ``tiler``, as anomalib's
            ``TilerConfigurationCallback`` does, sets it.

    Raises:
        ValueError: If an argument is out of range; the message names it, its value and what is allowed.
    """

    tiling: Tiling | None = None

    def __init__(
        self,
        preset: PresetName = "default",
        backbone: str | None = None,
        layers: Sequence[str] | None = None,
        pre_trained: bool | str | Path = True,
        student: StudentOptions | GroupValue = None,
        scoring: ScoringOptions | GroupValue = None,
    ) -> None:
        super().__init__()
        # Checked before the teacher is built, which may download weights.
        chosen = resolved(preset, backbone, student=student, scoring=scoring)
        scoring_values = chosen.scoring.as_dict()
        scoring_values.pop("held_out")
        self._build(chosen.backbone, layers, pre_trained, scoring_values, **chosen.student.as_dict())

    def _build(
        self,
        backbone: str,
        layers: Sequence[str] | None,
        pre_trained: bool | str | Path,
        scoring: dict[str, Any],
        *,
        block: str,
        depth: str | int | list[int],
        feature_scaling: FeatureScaling,
        places: int,
        image_side: int,
    ) -> None:
        """Build the parts from checked values."""
        self.teacher = Teacher(backbone, layers, pre_trained, image_side)
        channels, strides = self.teacher.channels, self.teacher.strides
        self.standardise = feature_standardisation(feature_scaling, channels)
        kind = _block_kind(block, channels)
        depths = _depths(depth, kind, len(channels))
        self.bottleneck = Bottleneck(channels, strides, block=kind, depth=depths[0], places=places)
        self.scale_adaptation = None
        if scoring["scale_adaptation"] == "published":
            self.scale_adaptation = PublishedScaleAdaptation(self.bottleneck.out_channels, len(channels))
        self.student = Student(
            channels,
            strides,
            in_channels=self.bottleneck.out_channels,
            in_stride=self.bottleneck.stride,
            non_negative=[relu and self.standardise is None for relu in self.teacher.non_negative],
            block=kind,
            depth=depths,
        )
        self.map_and_score = MapAndScore(channels, **scoring)

    @property
    def tiler(self) -> Any:
        """``tiling`` under the name that anomalib uses."""
        return self.tiling

    def __setattr__(self, name: str, value: Any) -> None:
        """Convert anomalib's tiler: ``nn.Module.__setattr__`` bypasses properties of the class."""
        if name == "tiler":
            self.tiling = None if value is None else Tiling.of(value)
        else:
            super().__setattr__(name, value)

    def tiles(self, images: torch.Tensor) -> torch.Tensor:
        """Cut images, (B, C, H, W), into the tiles that the model is trained on; or return them without tiling."""
        return images if self.tiling is None else self.tiling.cut(images)

    @property
    def distance_names(self) -> list[str]:
        """Names of the maps of distances: of the levels, and of the same levels with prototypes."""
        layers = list(self.teacher.layers)
        return layers if self.map_and_score.prototypes is None else [*layers, *(f"{x}, prototypes" for x in layers)]

    @property
    def minimum_size(self) -> int:
        """Smallest height and width of an image, in pixels: the stride of the embedding."""
        return self.bottleneck.stride

    def reset_statistics(self) -> None:
        """Reset the statistics of the data: the standardisation of the channels."""
        if self.standardise is not None:
            self.standardise.reset()

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Parameters of everything but the teacher."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def forward(
        self,
        images: torch.Tensor,
        noisy_images: torch.Tensor | None = None,
        *,
        restore: bool = False,
        teacher_features: list[torch.Tensor] | None = None,
    ) -> TrainingFeatures | InferenceBatch:
        """Features for the loss in training mode, predictions in evaluation mode.

        Args:
            images: (B, 3, H, W), normalised.
            noisy_images: The first b of the images with synthetic anomalies, (b, 3, H, W); training mode only.
            restore: Whether the student processes the noisy images as well; training mode only.
            teacher_features: The teacher's features of the images, followed by those of the noisy ones, if they are
                known; the teacher is not run then. One (B, C_k, H_k, W_k) or (B + b, C_k, H_k, W_k) per scale; training
                mode only.

        Returns:
            :class:`TrainingFeatures` or ``InferenceBatch``.

        Raises:
            ValueError: If the images are smaller than the stride of the embedding, or not (B, 3, H, W).
        """
        self._check_images(images)
        if not self.training:
            return self.predict(images)
        return self.features(images, noisy_images, restore=restore, teacher_features=teacher_features)

    def features(
        self,
        images: torch.Tensor,
        noisy_images: torch.Tensor | None = None,
        *,
        restore: bool = False,
        teacher_features: list[torch.Tensor] | None = None,
    ) -> TrainingFeatures:
        """Extract what the loss needs; arguments as in ``forward``.

        The caller updates the statistics of ``standardise`` with the teacher's features of the first batches.
        """
        batch = images.shape[0]
        noisy = restored = None
        both = teacher_features
        if both is None:
            # One pass of the teacher over both, in one larger batch.
            both = self.teacher(images if noisy_images is None else torch.cat([images, noisy_images]))
        if self.standardise is not None:
            both = self.standardise(both)
        clean = [f[:batch] for f in both]
        if noisy_images is not None:
            noisy = [f[batch:] for f in both]
        if restore and noisy is not None:
            embedding, outputs = self._decode(both)
            student, restored = split_batch(outputs, batch)
            embedding = embedding[:batch]
        else:
            embedding, student = self._decode(clean)
        weights = None if self.scale_adaptation is None else self.scale_adaptation(embedding)
        return TrainingFeatures(clean, student, noisy, restored, weights)

    def compared(self, images: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor | None]:
        """Compute the features that a prediction compares; in evaluation mode.

        Args:
            images: (B, 3, H, W), normalised.

        Returns:
            The teacher's and the student's features, K tensors (B, C_k, H_k, W_k) each, and in the published form (B,
            K) weights of the scales, whose rows sum to K; None in the others.
        """
        teacher = self.teacher_features(images)
        embedding, student = self._decode(teacher)
        return teacher, student, None if self.scale_adaptation is None else self.scale_adaptation(embedding)

    def teacher_features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """The teacher's features of normalised images, (B, 3, H, W), as they are compared; in evaluation mode."""
        features = self.teacher(images)
        return features if self.standardise is None else self.standardise(features)

    def predict(self, images: torch.Tensor) -> InferenceBatch:
        """Compute anomaly map and score of images, (B, 3, H, W).

        With tiles, the score of an image is the highest of its tiles, or the mean of its map in the published form.
        """
        if self.tiling is not None:
            return self._predict_tiles(images, self.tiling)
        teacher, student, weights = self.compared(images)
        size = images.shape[-2:]
        return self.map_and_score(teacher, student, self.teacher.backbone_size(size), weights, map_size=size)

    def _predict_tiles(self, images: torch.Tensor, tiling: Tiling) -> InferenceBatch:
        tiles, scoring = tiling.cut(images), self.map_and_score
        size, count = tiles.shape[-2:], len(tiling.places(*images.shape[-2:]))

        def pieces(of: torch.Tensor) -> Sequence[torch.Tensor]:
            # All tiles at once would need the memory of as many images; an exported graph has one batch only.
            return [of] if torch.compiler.is_compiling() else of.split(len(images))

        found = []
        for piece in pieces(tiles):
            teacher, student, weights = self.compared(piece)
            found.append(scoring.levels_and_score(teacher, student, self.teacher.backbone_size(size), weights))
        levels = torch.cat([part for part, _ in found])
        # A place is compared with its image, not with its tile, which an anomaly can fill.
        means = levels.mean(dim=(2, 3)).unflatten(0, (-1, count)).mean(dim=1, keepdim=True)
        means = means.expand(-1, count, -1).flatten(0, 1)
        pairs = zip(pieces(levels), pieces(means), strict=True)
        maps = torch.cat([scoring.anomaly_map(part, size, mean) for part, mean in pairs])
        anomaly_map = tiling.join(maps, *images.shape[-2:])
        scores = [score for _, score in found if score is not None]
        if not scores:
            return InferenceBatch(pred_score=anomaly_map.flatten(1).mean(dim=1), anomaly_map=anomaly_map)
        highest = torch.cat(scores).reshape(-1, count).amax(dim=1)
        return InferenceBatch(pred_score=highest, anomaly_map=anomaly_map)

    def evidence(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the data on which the weights of the scales are fitted; in evaluation mode.

        Args:
            images: (B, 3, H, W), normalised.

        Returns:
            (B, 12 M) features of the score, and (B, M, h, w) smoothed distances, compared with their image, of the map,
            for M maps of distances: 2 K of K levels, or K without prototypes.
        """
        teacher, student, _ = self.compared(images)
        plain, damped = self.map_and_score.distances(teacher, student)
        size = self.teacher.backbone_size(images.shape[-2:])
        levels = compared_with_image(self.map_and_score.smooth_maps(damped, size))
        return self.map_and_score.evidence(plain, damped, size), levels

    def _decode(self, features: list[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        embedding = self.bottleneck(features)
        return embedding, self.student(embedding, [feature.shape[-2:] for feature in features])

    def _check_images(self, images: torch.Tensor) -> None:
        if torch.compiler.is_compiling():  # the exporter traces with sizes of its own
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


def _block_kind(block: str, channels: Sequence[int]) -> BlockKind:
    if block != "auto":
        return cast("BlockKind", block)
    return "bottleneck" if channels[-1] >= _BOTTLENECK_CHANNELS else "basic"


def _depths(depth: str | int | list[int], block: BlockKind, num_scales: int) -> list[int]:
    """Blocks of each scale, coarsest first."""
    if isinstance(depth, list):
        if len(depth) != num_scales:
            msg = f"student.depth must be auto, one number, or one for each of {num_scales} scales, got {depth}"
            raise ValueError(msg)
        return depth
    if isinstance(depth, int):
        return [depth] * num_scales
    if block == "bottleneck":
        return [_BOTTLENECK_DEPTH[min(scale, len(_BOTTLENECK_DEPTH) - 1)] for scale in range(num_scales)]
    return [_SHALLOW_DEPTH] * num_scales
