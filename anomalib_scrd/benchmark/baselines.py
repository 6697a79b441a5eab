"""Baselines that anomalib's own classes can't give under every backbone."""

__all__ = ["TimmReverseDistillation"]

from collections.abc import Sequence
from typing import Any

import torch
from anomalib.models import ReverseDistillation
from anomalib.models.components import AnomalibModule
from anomalib.models.components.feature_extractors import TimmFeatureExtractor
from anomalib.models.image.reverse_distillation.anomaly_map import AnomalyMapGenerationMode, AnomalyMapGenerator
from anomalib.models.image.reverse_distillation.loss import ReverseDistillationLoss
from anomalib.models.image.reverse_distillation.torch_model import ReverseDistillationModel
from torch import nn

from anomalib_scrd.components.blocks import BlockKind
from anomalib_scrd.components.bottleneck import Bottleneck
from anomalib_scrd.components.student import Student


class TimmReverseDistillation(ReverseDistillation):
    """anomalib's ReverseDistillation with a bottleneck and a decoder that fit any timm backbone.

    anomalib's ``get_decoder`` knows the ResNet family only ("Decoder with architecture ... not supported") and its
    bottleneck expects 256 or 64 channels in the first map. Here these two parts are the ones of this project, built
    from the channels of the backbone. Everything else is anomalib's: loss, optimiser (Adam, 0.005), anomaly map
    (sum over scales, Gaussian sigma 4) and image score (maximum of the map).

    Args:
        backbone: Name of a timm model.
        layers: Names of three or more feature maps, finest first.
        pre_trained: Whether the backbone has ImageNet weights.
        block: Kind of residual block of bottleneck and decoder.
        depth: Number of residual blocks of the bottleneck and of each stage of the decoder (coarsest first).
        non_negative: Whether the backbone's maps end in a ReLU, as those of the ResNet family do. The decoder's
            then do, too.
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
        # not ReverseDistillation's own constructor: it builds the parts that don't fit and stops
        AnomalibModule.__init__(self, **kwargs)
        if self.input_size is None:
            msg = "the pre-processor must resize to a fixed size, it has no Resize"
            raise ValueError(msg)
        layers = list(layers)
        self.backbone, self.layers, self.pre_trained = backbone, layers, pre_trained
        self.anomaly_map_mode = AnomalyMapGenerationMode.ADD
        encoder = TimmFeatureExtractor(backbone=backbone, layers=layers, pre_trained=pre_trained)
        self.model = _TimmReverseDistillationModel(
            encoder, self.input_size, block=block, depth=depth, non_negative=non_negative
        )
        self.loss = ReverseDistillationLoss()


class _TimmReverseDistillationModel(ReverseDistillationModel):
    """The forward pass is anomalib's; only what it calls is built here."""

    def __init__(
        self,
        encoder: TimmFeatureExtractor,
        input_size: tuple[int, int],
        *,
        block: BlockKind,
        depth: Sequence[int],
        non_negative: bool,
    ) -> None:
        nn.Module.__init__(self)
        self.tiler = None
        self.encoder = encoder
        channels, strides = list(encoder.out_dims), list(encoder.reductions)
        bottleneck = Bottleneck(channels, strides, block=block, depth=depth[0])
        student = Student(
            channels,
            strides,
            in_channels=bottleneck.out_channels,
            in_stride=bottleneck.stride,
            non_negative=[non_negative] * len(channels),
            block=block,
            depth=depth[1:],
        )
        self.bottleneck = _SizedBottleneck(bottleneck)  # type: ignore[assignment]
        self.decoder = _SizedDecoder(student)  # type: ignore[assignment]
        self.anomaly_map_generator = AnomalyMapGenerator(image_size=input_size, mode=AnomalyMapGenerationMode.ADD)


class _SizedBottleneck(nn.Module):
    """Hands the sizes of the feature maps on, which anomalib's interface has no place for."""

    def __init__(self, embed: Bottleneck) -> None:
        super().__init__()
        self.embed = embed

    def forward(self, features: list[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Size]]:
        return self.embed(features), [feature.shape[-2:] for feature in features]


class _SizedDecoder(nn.Module):
    """Takes what the bottleneck hands on."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, embedding: tuple[torch.Tensor, list[torch.Size]]) -> list[torch.Tensor]:
        return self.student(*embedding)
