"""One-class bottleneck embedding: all scales of the teacher squeezed into one compact map."""

__all__ = ["Bottleneck"]

import math
from collections.abc import Sequence

import torch
from torch import nn

from anomalib_scrd.components.blocks import BlockKind, ResidualStage, conv_norm_act, init_convolutions, match_size
from anomalib_scrd.components.resampling import AxisMatrices, averaged


class Bottleneck(nn.Module):
    """Fuses the teacher's scales and compresses them (OCBE of RD4AD, Deng & Li, CVPR 2022).

    Every scale is brought to the resolution of the coarsest by 3x3 convolutions of stride 2 (scale k passes through the
    channels of the scales after it), all are concatenated, mixed by a 1x1 convolution and halved once more by residual
    blocks. With wide_resnet50_2 at layer1..3 the embedding has 2048 channels at stride 32. Its blocks are those of a
    plain ResNet, as in anomalib's ReverseDistillation: wide ones would have half of all weights of bottleneck and
    student.

    Args:
        channels: Channels of the teacher's scales, finest first.
        strides: Their strides, increasing, each a power of two times the one before.
        block: Kind of residual block.
        depth: Number of residual blocks.
        places: Largest side of the mixed map in positions, 2 or more, before it is halved: a map whose geometric mean
            of height and width is larger is averaged to this size. The size of the embedding is then the same for all
            image sizes; a larger embedding passes anomalies on to the student. 0 for no limit (default, published).

    Attributes:
        out_channels: Channels of the embedding (twice those of the coarsest scale).
        stride: Its stride (twice that of the coarsest scale).
    """

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int], *, block: BlockKind, depth: int, places: int = 0
    ) -> None:
        super().__init__()
        coarsest = channels[-1]
        self.out_channels = 2 * coarsest
        self.stride = 2 * strides[-1]
        self.reductions = nn.ModuleList(
            [self._reduction(channels, strides, scale, block) for scale in range(len(channels))],
        )
        self.mix = conv_norm_act(len(channels) * coarsest, coarsest, 1)
        self.compress = ResidualStage(block, coarsest, self.out_channels, depth=depth, down=2, expansion=4)
        self.places = places
        self._averaged = AxisMatrices(averaged)
        init_convolutions(self)

    @staticmethod
    def _reduction(channels: Sequence[int], strides: Sequence[int], scale: int, block: BlockKind) -> nn.Sequential:
        layers: list[nn.Module] = []
        current = channels[scale]
        for index in range(scale, len(channels) - 1):
            factor = strides[index + 1] // strides[index]
            while factor > 1:
                wanted = channels[index + 1]
                if block == "separable":
                    layers += [
                        conv_norm_act(current, current, 3, stride=2, groups=current),
                        conv_norm_act(current, wanted, 1),
                    ]
                else:
                    layers.append(conv_norm_act(current, wanted, 3, stride=2))
                current = wanted
                factor //= 2
        return nn.Sequential(*layers)

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Embed the teacher's features.

        Args:
            features: One (B, C_k, H_k, W_k) per scale, finest first.

        Returns:
            (B, out_channels, ceil(H / 2), ceil(W / 2)), non-negative, with (H, W) the size of the coarsest scale or,
            where it is larger, of ``places`` along a side.
        """
        size = features[-1].shape[-2:]
        reduced = [
            match_size(reduction(scale), size) for reduction, scale in zip(self.reductions, features, strict=True)
        ]
        mixed = self.mix(torch.cat(reduced, dim=1))
        excess = math.sqrt(size[0] * size[1]) / self.places if self.places else 1.0
        if excess > 1:
            rows, columns = (max(2, round(side / excess)) for side in size)
            mixed = self._averaged(mixed, (min(rows, size[0]), min(columns, size[1]))).to(mixed.dtype)
        return self.compress(mixed).relu()
