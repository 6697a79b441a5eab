"""Models to compare with: reverse distillation on any backbone of timm, and plain nearest neighbours by level."""

__all__ = ["EqualLevels", "NearestNeighbour", "NearestNeighbourModel", "TimmReverseDistillation"]

from collections.abc import Sequence
from typing import Any

import torch
from anomalib.data import InferenceBatch
from anomalib.models import Patchcore, ReverseDistillation
from anomalib.models.components import AnomalibModule, DynamicBufferMixin, GaussianBlur2d
from anomalib.models.components.feature_extractors import TimmFeatureExtractor
from anomalib.models.image.reverse_distillation.anomaly_map import AnomalyMapGenerationMode, AnomalyMapGenerator
from anomalib.models.image.reverse_distillation.loss import ReverseDistillationLoss
from anomalib.models.image.reverse_distillation.torch_model import ReverseDistillationModel
from torch import nn
from torch.nn import functional as F  # noqa: N812

from anomalib_scrd.components.blocks import BlockKind
from anomalib_scrd.components.bottleneck import Bottleneck
from anomalib_scrd.components.student import Student
from anomalib_scrd.components.teacher import Teacher

_ROWS = 1024
_DEAD_SHARE = 1e-4


class NearestNeighbour(Patchcore):
    """Distance to the nearest normal patch at each level of a backbone, without any training.

    In the loop of a training it is anomalib's PatchCore; its own are the levels, which are not joined, the even draw of
    patches in place of a coreset, and map and score.

    Args:
        backbone: Name of a timm model.
        layers: Names of its feature maps, finest first; None for those of strides 4, 8 and 16.
        pre_trained: Whether the backbone has ImageNet weights.
        patches: Normal patches that are kept of each level, drawn evenly from the training images.
        score: Makes score and map of the distances, see :class:`EqualLevels`, which is the default.
        kwargs: Components of anomalib's base class.
    """

    def __init__(
        self,
        backbone: str = "tf_efficientnet_lite0",
        layers: Sequence[str] | None = None,
        pre_trained: bool = True,
        patches: int = 20_000,
        score: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        super(Patchcore, self).__init__(**kwargs)  # PatchCore's own constructor builds its model
        teacher = Teacher(backbone, layers, pre_trained)
        self.model = NearestNeighbourModel(teacher, patches, score or EqualLevels())  # type: ignore[assignment]

    def fit(self) -> None:
        """Standardise the patches once they are drawn."""
        self.model.standardise()  # type: ignore[operator]


class NearestNeighbourModel(DynamicBufferMixin, nn.Module):
    """Draws patches in training mode, and returns an ``InferenceBatch`` in evaluation mode.

    Args:
        teacher: Its features are compared, standardised by channel over the patches.
        patches: Patches that are kept of each level.
        score: Called with the distances, one (B, H_k, W_k) per level, and the (H, W) of the images.
    """

    def __init__(self, teacher: Teacher, patches: int, score: nn.Module) -> None:
        super().__init__()
        self.teacher, self.patches, self.score = teacher, patches, score
        for level, channels in enumerate(teacher.channels):
            self.register_buffer(f"bank_{level}", torch.empty(0, channels))
            self.register_buffer(f"mean_{level}", torch.zeros(channels))
            self.register_buffer(f"scale_{level}", torch.ones(channels))
        self._keys = [torch.empty(0) for _ in teacher.channels]

    def forward(self, images: torch.Tensor) -> InferenceBatch | None:
        """Draw patches from normal images, (B, 3, H, W), or predict them."""
        if not self.training:
            return self.score(self.distances(images), images.shape[-2:])
        for level, features in enumerate(self.teacher(images)):
            # every patch gets a random key and those with the smallest keys stay: an even draw of unknown length
            rows = torch.cat([self.get_buffer(f"bank_{level}"), _rows(features)])
            keys = torch.cat([self._keys[level], torch.rand(len(rows) - len(self._keys[level]))])
            self._keys[level], kept = keys.topk(min(self.patches, len(keys)), largest=False, sorted=False)
            setattr(self, f"bank_{level}", rows[kept.to(rows.device)])
        return None

    def standardise(self) -> None:
        """Give every channel of the patches mean 0 and variance 1; a dead one gets the typical scale of the others."""
        for level in range(len(self._keys)):
            bank = self.get_buffer(f"bank_{level}")
            variance, mean = torch.var_mean(bank, dim=0)
            scale = torch.where(variance < _DEAD_SHARE * variance.mean(), variance.mean(), variance).sqrt()
            for name, value in (("mean", mean), ("scale", scale), ("bank", (bank - mean) / scale)):
                setattr(self, f"{name}_{level}", value)

    @torch.no_grad()
    def distances(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Distance of every place to the nearest normal patch, one (B, H_k, W_k) per level.

        Euclidean over the square root of the number of channels: two independent normal patches are at about 1.4.
        """
        found = []
        for level, features in enumerate(self.teacher(images)):
            mean, scale, bank = (self.get_buffer(f"{name}_{level}") for name in ("mean", "scale", "bank"))
            rows = (_rows(features) - mean) / scale
            nearest = torch.cat([torch.cdist(part, bank).amin(dim=1) for part in rows.split(_ROWS)])
            found.append(nearest.view(len(features), *features.shape[-2:]) / bank.shape[1] ** 0.5)
        return found


def _rows(features: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) as (B H W, C) in float32."""
    return features.float().permute(0, 2, 3, 1).flatten(0, 2)


class EqualLevels(nn.Module):
    """Map: mean of the levels' distances, smoothed by four pixels as PatchCore's is. Score: its largest place."""

    def __init__(self) -> None:
        super().__init__()
        self.smooth = GaussianBlur2d(kernel_size=(33, 33), sigma=(4.0, 4.0), channels=1)

    def forward(self, distances: Sequence[torch.Tensor], size: Sequence[int]) -> InferenceBatch:
        """Map and score of images of a size, from one (B, H_k, W_k) per level."""
        maps = [F.interpolate(level.unsqueeze(1), size=tuple(size), mode="bilinear") for level in distances]
        joined = self.smooth(torch.stack(maps).mean(dim=0))
        return InferenceBatch(pred_score=joined.amax(dim=(1, 2, 3)), anomaly_map=joined)


class TimmReverseDistillation(ReverseDistillation):
    """anomalib's ReverseDistillation with a bottleneck and a decoder that fit any timm backbone.

    anomalib's own two know the ResNet family only. Those here are this project's, built from the backbone's channels.
    Loss, optimiser (Adam, 0.005), map (sum over scales, Gaussian sigma 4) and score (its maximum) are anomalib's.

    Args:
        backbone: Name of a timm model.
        layers: Names of three or more feature maps, finest first.
        pre_trained: Whether the backbone has ImageNet weights.
        block: Kind of residual block of bottleneck and decoder.
        depth: Number of residual blocks of the bottleneck and of each stage of the decoder (coarsest first).
        non_negative: Whether the backbone's maps end in a ReLU, as those of the ResNet family do, and the decoder's
            with them.
        kwargs: Components of anomalib's base class.
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
        # not ReverseDistillation's own constructor, nor that of its model: they build the parts that don't fit
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
    """Bottleneck and decoder in one: anomalib's interface has no place for the sizes of the feature maps."""

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
