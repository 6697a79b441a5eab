"""Brings the channels of the teacher's features to one scale."""

__all__ = ["FEATURE_SCALINGS", "ChannelStandardisation"]

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

FeatureScaling = Literal["channel", "none"]
FEATURE_SCALINGS = ("channel", "none")

# A channel is dead if its variance is at most the first share of the scale's mean variance plus the second share of its
# own squared mean, which covers the float32 rounding of a constant.
_DEAD_SHARE = 1e-4
_DEAD_CONSTANT = 1e-6
_MIN_VARIANCE = 1e-10


class ChannelStandardisation(nn.Module):
    """Subtracts the mean of every channel over normal images and divides by its standard deviation.

    A cosine is dominated by channels with large values. The channels of a backbone differ by a factor of a hundred, and
    many have a large mean, which teacher and student share for any image. After the standardisation all channels have
    the same weight, and only their variation is compared.

    The statistics are those of the first training batches, which are normal, and are fixed afterwards, because the
    student's target must not move. They need no separate pass over the data.

    A dead channel, constant in these batches, has no standard deviation of its own: it is divided by the typical one of
    its scale, and has an ordinary weight if it becomes active later.

    Args:
        channels: Channels of the scales, finest first.
        batches: Number of batches that are measured, at least 1.

    Attributes:
        learning: Whether the model calls :meth:`update`. Updates after the first ``batches`` change nothing, but cost
            two passes over the features: a caller that counts batches can switch them off.
    """

    seen: torch.Tensor

    def __init__(self, channels: Sequence[int], batches: int = 32) -> None:
        super().__init__()
        self.batches = batches
        self.learning = True
        self.num_scales = len(channels)
        self.register_buffer("seen", torch.zeros(()))
        for scale, count in enumerate(channels):
            self.register_buffer(f"mean_{scale}", torch.zeros(count))
            self.register_buffer(f"square_{scale}", torch.ones(count))

    def reset(self) -> None:
        """Reset the statistics, before a training on other data."""
        self.learning = True
        self.seen.zero_()
        for scale in range(self.num_scales):
            self.get_buffer(f"mean_{scale}").zero_()
            self.get_buffer(f"square_{scale}").fill_(1)

    @torch.no_grad()
    def update(self, features: Sequence[torch.Tensor]) -> None:
        """Update the statistics with a batch of normal images; nothing changes after the first ``batches`` updates.

        Args:
            features: The teacher's features, one (B, C_k, H_k, W_k) per scale.
        """
        # A rate of zero instead of a branch avoids a host synchronisation.
        self.seen += 1
        rate = torch.where(self.seen <= self.batches, 1 / self.seen, torch.zeros_like(self.seen))
        for scale, feature in enumerate(features):
            feature = feature.float()  # noqa: PLW2901
            self.get_buffer(f"mean_{scale}").lerp_(feature.mean(dim=(0, 2, 3)), rate)
            self.get_buffer(f"square_{scale}").lerp_(feature.square().mean(dim=(0, 2, 3)), rate)

    def forward(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Standardise features; the identity before the first update.

        Args:
            features: One (B, C_k, H_k, W_k) per scale.

        Returns:
            The same shapes and precision.
        """
        result = []
        for scale, feature in enumerate(features):
            mean = self.get_buffer(f"mean_{scale}")
            variance = (self.get_buffer(f"square_{scale}") - mean.square()).clamp_min(0)
            typical = variance.mean()
            dead = variance <= _DEAD_SHARE * typical + _DEAD_CONSTANT * mean.square()
            variance = torch.where(dead, typical, variance).clamp_min(_MIN_VARIANCE)
            # One pass, in float32 inside for any input precision: the product alone may overflow float16.
            result.append(F.batch_norm(feature, mean, variance, eps=_MIN_VARIANCE * 1e-10))
        return result
