"""Baselines: reverse distillation on any timm backbone, and plain nearest neighbours by level."""

__all__ = ["FittedLevels", "NearestNeighbour", "NearestNeighbourModel", "TimmReverseDistillation"]

from collections.abc import Sequence
from typing import Any, Literal

import torch
from anomalib.data import InferenceBatch
from anomalib.models import Patchcore, ReverseDistillation
from anomalib.models.components import AnomalibModule, DynamicBufferMixin
from anomalib.models.components.feature_extractors import TimmFeatureExtractor
from anomalib.models.image.reverse_distillation.anomaly_map import AnomalyMapGenerationMode, AnomalyMapGenerator
from anomalib.models.image.reverse_distillation.loss import ReverseDistillationLoss
from anomalib.models.image.reverse_distillation.torch_model import ReverseDistillationModel
from lightning.pytorch import Callback
from torch import nn

from anomalib_scrd.components.blocks import BlockKind
from anomalib_scrd.components.bottleneck import Bottleneck
from anomalib_scrd.components.student import Student
from anomalib_scrd.components.teacher import Teacher
from anomalib_scrd.noise import Normalisation
from anomalib_scrd.scoring.anomaly_map import SmoothMaps, compared_with_image
from anomalib_scrd.scoring.evidence import EXTENTS, evidence
from anomalib_scrd.scoring.fitted_weights import FittedWeights
from anomalib_scrd.scoring.fitting import fit_weights
from anomalib_scrd.training.held_out import HeldOut
from anomalib_scrd.training.pre_processing import normalisation

_ROWS = 1024
_DEAD_SHARE = 1e-4


class NearestNeighbour(Patchcore):
    """Distance to the nearest normal patch at each level of a backbone, without training.

    The training loop is that of anomalib's PatchCore. Three things differ: levels are not concatenated, patches are
    drawn uniformly instead of by a coreset, and the weights of map and score are fitted as in ``ScaleAwareCRD``.

    Args:
        backbone: Name of a timm model.
        layers: Names of its feature maps, finest first; None for those of strides 4, 8 and 16.
        pre_trained: Whether the backbone has ImageNet weights.
        patches: Number of normal patches kept per level, drawn uniformly from the training images.
        scale_adaptation: Weights of levels and extents: fitted, or uniform.
        held_out: Share of the training images that are held out from the patches: the weights are fitted on them.
        kwargs: Components for anomalib's base class.
    """

    def __init__(
        self,
        backbone: str = "tf_efficientnet_lite0",
        layers: Sequence[str] | None = None,
        pre_trained: bool = True,
        patches: int = 20_000,
        scale_adaptation: Literal["fitted", "uniform"] = "fitted",
        held_out: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super(Patchcore, self).__init__(**kwargs)  # PatchCore's own constructor builds its model
        self.held_out = HeldOut(held_out)
        teacher = Teacher(backbone, layers, pre_trained)
        score = FittedLevels(len(teacher.layers), scale_adaptation)
        self.model = NearestNeighbourModel(teacher, patches, score)  # type: ignore[assignment]

    def configure_callbacks(self) -> list[Callback]:
        """Hold images out during a fit."""
        callbacks = super().configure_callbacks()
        return [*(callbacks if isinstance(callbacks, Sequence) else [callbacks]), self.held_out]

    def fit(self) -> None:
        """Standardise the patches once they are drawn, and fit the weights."""
        model: Any = self.model
        model.standardise()
        images = list(self.held_out.images(self))
        if images:
            found = normalisation(getattr(self.pre_processor, "transform", None))
            found = found and Normalisation(found.mean.to(self.device), found.std.to(self.device))
            fit_weights(model, torch.cat(images), found, torch.initial_seed() % 2**63)


class NearestNeighbourModel(DynamicBufferMixin, nn.Module):
    """Draws patches in training mode, and returns an ``InferenceBatch`` in evaluation mode.

    Args:
        teacher: Backbone whose features are compared, standardised by channel over the patches.
        patches: Number of patches kept per level.
        map_and_score: Called with the distances, one (B, H_k, W_k) per level, and the (H, W) of the images.
    """

    def __init__(self, teacher: Teacher, patches: int, map_and_score: "FittedLevels") -> None:
        super().__init__()
        self.teacher, self.patches, self.map_and_score = teacher, patches, map_and_score
        for level, channels in enumerate(teacher.channels):
            self.register_buffer(f"bank_{level}", torch.empty(0, channels))
            self.register_buffer(f"mean_{level}", torch.zeros(channels))
            self.register_buffer(f"scale_{level}", torch.ones(channels))
        self._keys = [torch.empty(0) for _ in teacher.channels]

    def forward(self, images: torch.Tensor) -> InferenceBatch | None:
        """Draw patches from normal images, (B, 3, H, W), or predict them."""
        if not self.training:
            return self.map_and_score(self.distances(images), images.shape[-2:])
        for level, features in enumerate(self.teacher(images)):
            # reservoir sampling: each patch gets a random key, and those with the smallest keys are kept
            rows = torch.cat([self.get_buffer(f"bank_{level}"), _rows(features)])
            keys = torch.cat([self._keys[level], torch.rand(len(rows) - len(self._keys[level]))])
            self._keys[level], kept = keys.topk(min(self.patches, len(keys)), largest=False, sorted=False)
            setattr(self, f"bank_{level}", rows[kept.to(rows.device)])
        return None

    def standardise(self) -> None:
        """Standardise every channel of the patches; a dead one is divided by the typical standard deviation."""
        for level in range(len(self._keys)):
            bank = self.get_buffer(f"bank_{level}")
            variance, mean = torch.var_mean(bank, dim=0)
            scale = torch.where(variance < _DEAD_SHARE * variance.mean(), variance.mean(), variance).sqrt()
            for name, value in (("mean", mean), ("scale", scale), ("bank", (bank - mean) / scale)):
                setattr(self, f"{name}_{level}", value)

    @torch.no_grad()
    def distances(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Distance of every place to the nearest normal patch, one (B, H_k, W_k) per level.

        Euclidean distance over the square root of the number of channels: about 1.4 for two independent normal patches.
        """
        found = []
        for level, features in enumerate(self.teacher(images)):
            mean, scale, bank = (self.get_buffer(f"{name}_{level}") for name in ("mean", "scale", "bank"))
            rows = (_rows(features) - mean) / scale
            nearest = torch.cat([torch.cdist(part, bank).amin(dim=1) for part in rows.split(_ROWS)])
            found.append(nearest.view(len(features), *features.shape[-2:]) / bank.shape[1] ** 0.5)
        return found

    def evidence(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Evidence for the fit of the weights, see :meth:`FittedLevels.evidence`."""
        return self.map_and_score.evidence(self.distances(images), images.shape[-2:])


def _rows(features: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) as (B H W, C) in float32."""
    return features.float().permute(0, 2, 3, 1).flatten(0, 2)


class FittedLevels(nn.Module):
    """Map and score from one distance per level, as in ``ScaleAwareCRD`` from two.

    Args:
        levels: Number of levels K.
        scale_adaptation: Whether the weights are fitted, or uniform.
    """

    published = False

    def __init__(self, levels: int, scale_adaptation: str) -> None:
        super().__init__()
        self.uniform = scale_adaptation == "uniform"
        self.smooth_maps = SmoothMaps(sigma=2.0)
        self.score_weights = FittedWeights(levels * len(EXTENTS))
        self.map_weights = FittedWeights(levels)

    def evidence(
        self, distances: Sequence[torch.Tensor], size: torch.Size | tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 6 K) features of the score and (B, K, h, w) maps, from one (B, H_k, W_k) per level."""
        levels = [distance.unsqueeze(1) for distance in distances]
        return evidence(self.smooth_maps.thin(levels, size)), compared_with_image(self.smooth_maps(levels, size))

    def forward(self, distances: Sequence[torch.Tensor], size: torch.Size | tuple[int, int]) -> InferenceBatch:
        """Compute map and score of images of (H, W) ``size``."""
        features, levels = self.evidence(distances, size)
        anomaly_map = self.smooth_maps.enlarged(self.map_weights(levels).unsqueeze(1), size)
        return InferenceBatch(pred_score=self.score_weights(features), anomaly_map=anomaly_map)


class TimmReverseDistillation(ReverseDistillation):
    """anomalib's ReverseDistillation with a bottleneck and a decoder that fit any timm backbone.

    anomalib's own two support the ResNet family only; these are this project's, built from the backbone's channels.
    Loss, optimiser (Adam, 0.005), map (sum over scales, Gaussian sigma 4) and score (its maximum) are anomalib's.

    The first three arguments are those of anomalib's class. ``block`` is the kind of residual block of both parts,
    ``depth`` their number in the bottleneck and in each stage of the decoder, coarsest first; with ``non_negative`` the
    decoder's maps end in a ReLU, like the backbone's in the ResNet family.
    """

    def __init__(
        self,
        backbone: str = "tf_efficientnet_lite0",
        layers: Sequence[str] = ("blocks.1", "blocks.2", "blocks.4"),
        pre_trained: bool = True,
        block: BlockKind = "basic",
        depth: Sequence[int] = (2, 2, 2, 2),
        non_negative: bool = False,
        **kwargs: Any,
    ) -> None:
        # the constructors of ReverseDistillation and its model would build parts that do not fit
        AnomalibModule.__init__(self, **kwargs)
        encoder = TimmFeatureExtractor(backbone=backbone, layers=list(layers), pre_trained=pre_trained)
        self.model = ReverseDistillationModel.__new__(ReverseDistillationModel)
        nn.Module.__init__(self.model)
        self.model.tiler = None
        self.model.encoder = encoder
        self.model.bottleneck = nn.Identity()  # type: ignore[assignment]
        self.model.decoder = _Decoder(encoder, block, depth, non_negative=non_negative)  # type: ignore[assignment]
        generator = AnomalyMapGenerator(self.input_size, mode=AnomalyMapGenerationMode.ADD)  # type: ignore[arg-type]
        self.model.anomaly_map_generator = generator
        self.loss = ReverseDistillationLoss()


class _Decoder(nn.Module):
    """Bottleneck and decoder in one module: anomalib's interface cannot pass the sizes of the feature maps."""

    def __init__(self, encoder: Any, block: BlockKind, depth: Sequence[int], *, non_negative: bool) -> None:
        super().__init__()
        channels, strides = list(encoder.out_dims), list(encoder.reductions)
        self.embed = Bottleneck(channels, strides, block=block, depth=depth[0])
        self.student = Student(
            channels,
            strides,
            in_channels=self.embed.out_channels,
            in_stride=self.embed.stride,
            non_negative=[non_negative] * len(channels),
            block=block,
            depth=depth[1:],
        )

    def forward(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        return self.student(self.embed(features), [feature.shape[-2:] for feature in features])
