"""Residual blocks from which the bottleneck and the student are built."""

__all__ = [
    "BLOCK_KINDS",
    "BlockKind",
    "ResidualBlock",
    "ResidualStage",
    "conv_norm_act",
    "init_convolutions",
    "match_size",
]

from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

BlockKind = Literal["basic", "bottleneck", "separable"]
BLOCK_KINDS = ("basic", "bottleneck", "separable")


def match_size(features: torch.Tensor, size: torch.Size | tuple[int, int]) -> torch.Tensor:
    """Bring feature maps to a recorded size; a map of that size is returned unchanged.

    Backbones disagree on how an odd side is halved (padding rounds up, patch embeddings round down), so a map that was
    reduced here can differ by one position from the one it is combined with.

    Args:
        features: (B, C, H, W).
        size: Wanted (H, W).

    Returns:
        (B, C, *size).
    """
    if features.shape[-2:] == tuple(size):
        return features
    return F.interpolate(features, size=tuple(size), mode="bilinear", align_corners=False)


def conv_norm_act(
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    activation: bool = True,
) -> nn.Sequential:
    """Convolution, batch norm and, unless switched off, ReLU; padded so that stride 1 keeps the size."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    if activation:
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def _upsample_norm(inputs: int, outputs: int, factor: int, *, groups: int = 1) -> nn.Sequential:
    """Transposed convolution whose kernel is its stride (no overlap, no checkerboard), and batch norm."""
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, outputs, factor, factor, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    )


class ResidualBlock(nn.Module):
    """A residual block that keeps, halves or multiplies the resolution.

    Args:
        kind: ``basic`` (two 3x3 convolutions), ``bottleneck`` (1x1, 3x3, 1x1 with fewer channels inside) or
            ``separable`` (two depthwise 3x3 with pointwise 1x1: the cheapest).
        inputs: Input channels.
        outputs: Output channels.
        down: Factor by which the resolution shrinks (1 or 2).
        up: Factor by which the resolution grows (1, 2, 4, ...).
        expansion: Output channels per channel inside a ``bottleneck`` block: 2 in a wide ResNet, 4 in a ResNet.
    """

    def __init__(
        self, kind: BlockKind, inputs: int, outputs: int, *, down: int = 1, up: int = 1, expansion: int = 2
    ) -> None:
        super().__init__()
        relu = nn.ReLU(inplace=True)

        def resample(channels: int) -> nn.Module:
            if up > 1:
                return nn.Sequential(_upsample_norm(channels, channels, up), relu)
            return conv_norm_act(channels, channels, 3, stride=down)

        if kind == "bottleneck":
            width = max(outputs // expansion, 1)
            self.branch = nn.Sequential(
                conv_norm_act(inputs, width, 1),
                resample(width),
                conv_norm_act(width, outputs, 1, activation=False),
            )
        elif kind == "basic":
            first = (
                nn.Sequential(_upsample_norm(inputs, outputs, up), relu)
                if up > 1
                else conv_norm_act(inputs, outputs, 3, stride=down)
            )
            self.branch = nn.Sequential(first, conv_norm_act(outputs, outputs, 3, activation=False))
        elif kind == "separable":
            depthwise = (
                nn.Sequential(_upsample_norm(inputs, inputs, up, groups=inputs), relu)
                if up > 1
                else conv_norm_act(inputs, inputs, 3, stride=down, groups=inputs)
            )
            self.branch = nn.Sequential(
                depthwise,
                conv_norm_act(inputs, outputs, 1),
                conv_norm_act(outputs, outputs, 3, groups=outputs),
                conv_norm_act(outputs, outputs, 1, activation=False),
            )
        else:
            msg = f"block kind must be one of {BLOCK_KINDS}, got {kind!r}"
            raise ValueError(msg)

        self.shortcut: nn.Module = nn.Identity()
        if up > 1:
            self.shortcut = _upsample_norm(inputs, outputs, up)
        elif down > 1 or inputs != outputs:
            self.shortcut = conv_norm_act(inputs, outputs, 1, stride=down, activation=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Sum of branch and shortcut, without a final ReLU, which the caller applies."""
        return self.branch(features) + self.shortcut(features)


class ResidualStage(nn.Module):
    """Residual blocks with a ReLU between them; the first one changes the resolution.

    Args:
        kind: Kind of block.
        inputs: Input channels.
        outputs: Output channels.
        depth: Number of blocks, at least 1.
        down: Factor by which the resolution shrinks.
        up: Factor by which the resolution grows.
        expansion: See :class:`ResidualBlock`.
    """

    def __init__(
        self, kind: BlockKind, inputs: int, outputs: int, *, depth: int, down: int = 1, up: int = 1, expansion: int = 2
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            [
                ResidualBlock(kind, inputs, outputs, down=down, up=up, expansion=expansion),
                *(ResidualBlock(kind, outputs, outputs, expansion=expansion) for _ in range(depth - 1)),
            ],
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features before the last ReLU, (B, outputs, H', W')."""
        for index, block in enumerate(self.blocks):
            features = block(features if index == 0 else features.relu())
        return features


def init_convolutions(module: nn.Module) -> None:
    """Kaiming normal initialisation (fan out, ReLU) of every convolution in a module, as in ResNets and RD4AD."""
    for child in module.modules():
        if isinstance(child, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(child.weight, mode="fan_out", nonlinearity="relu")
