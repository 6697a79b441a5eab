"""The student: a decoder from the embedding back to each of the teacher's feature maps."""

__all__ = ["Student"]

from collections.abc import Sequence

import torch
from torch import nn

from anomalib_scrd.components.blocks import BlockKind, ResidualStage, init_convolutions, match_size


class Student(nn.Module):
    """Mirrored residual decoder (Deng & Li, CVPR 2022): coarsest scale first, each built on the last.

    Args:
        channels: Channels of the teacher's scales, finest first.
        strides: Their strides.
        in_channels: Channels of the embedding.
        in_stride: Stride of the embedding.
        non_negative: For each scale, whether the teacher's features end in a ReLU. If so the student's end in one too;
            features of a linear layer (EfficientNet, ConvNeXt) need linear outputs.
        block: Kind of residual block.
        depth: Number of residual blocks of each scale, coarsest first.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        *,
        in_channels: int,
        in_stride: int,
        non_negative: Sequence[bool],
        block: BlockKind,
        depth: Sequence[int],
    ) -> None:
        super().__init__()
        self.non_negative = tuple(non_negative)
        self.stages = nn.ModuleList()
        for outputs, stride, blocks in zip(reversed(channels), reversed(strides), depth, strict=True):
            self.stages.append(
                ResidualStage(block, in_channels, outputs, depth=blocks, up=in_stride // stride),
            )
            in_channels, in_stride = outputs, stride
        init_convolutions(self)

    def forward(self, embedding: torch.Tensor, sizes: Sequence[torch.Size]) -> list[torch.Tensor]:
        """Predict the teacher's features.

        Args:
            embedding: (B, in_channels, h, w).
            sizes: (H_k, W_k) of each of the teacher's scales, finest first.

        Returns:
            One (B, C_k, H_k, W_k) per scale, finest first.
        """
        outputs: list[torch.Tensor] = []
        features = embedding
        for stage, size, relu in zip(self.stages, reversed(sizes), reversed(self.non_negative), strict=True):
            before = match_size(stage(features), size)
            features = before.relu()
            outputs.append(features if relu else before)
        return outputs[::-1]
