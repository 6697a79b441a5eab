"""Brings the channels of the teacher's features to one scale, and takes out what they share."""

__all__ = ["ChannelStandardisation", "FeatureScaling", "Whitening", "feature_standardisation"]

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

FeatureScaling = Literal["whiten", "channel", "none"]

# A channel is dead if its variance is at most the first share of the scale's mean variance plus the second share of its
# own squared mean, which covers the float32 rounding of a constant.
_DEAD_SHARE = 1e-4
_DEAD_CONSTANT = 1e-6
_MIN_VARIANCE = 1e-10
# Shrinkage of the correlation of the channels towards none: 1 is no whitening, 0 a complete one.
_SHRINKAGE = 0.5
# 12 steps bring 2**-14, the smallest eigenvalue of any correlation of 2**14 channels, near 1, and 5 more to rounding.
_ROOT_STEPS = 18


def feature_standardisation(scaling: FeatureScaling, channels: Sequence[int]) -> "ChannelStandardisation | None":
    """The standardisation of a name, for features of so many channels; None for ``none``."""
    if scaling == "none":
        return None
    return Whitening(channels) if scaling == "whiten" else ChannelStandardisation(channels)


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
    """

    seen: torch.Tensor

    def __init__(self, channels: Sequence[int], batches: int = 32) -> None:
        super().__init__()
        self.batches = batches
        self.num_scales = len(channels)
        self.register_buffer("seen", torch.zeros(()))
        for scale, count in enumerate(channels):
            self.register_buffer(f"mean_{scale}", torch.zeros(count))
            self.register_buffer(f"variance_{scale}", torch.ones(count))

    def reset(self) -> None:
        """Reset the statistics, before a training on other data."""
        self.seen.zero_()
        for scale in range(self.num_scales):
            self.get_buffer(f"mean_{scale}").zero_()
            self.get_buffer(f"variance_{scale}").fill_(1)

    @torch.no_grad()
    def update(self, features: Sequence[torch.Tensor]) -> None:
        """Update the statistics with a batch of normal images; nothing changes after the first ``batches`` updates.

        Args:
            features: The teacher's features, one (B, C_k, H_k, W_k) per scale.
        """
        # A rate of zero instead of a branch avoids a host synchronisation.
        self.seen += 1
        rate = torch.where(self.seen <= self.batches, 1 / self.seen, torch.zeros_like(self.seen))
        # Half precision would round the products of the channels.
        with torch.autocast(self.seen.device.type, enabled=False):
            for scale, feature in enumerate(features):
                self._learn(scale, feature.float(), rate)

    def forward(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Standardise features; the identity before the first update.

        Args:
            features: One (B, C_k, H_k, W_k) per scale.

        Returns:
            The same shapes and precision.
        """
        # One pass, in float32 inside for any input precision: the product alone may overflow float16.
        eps = _MIN_VARIANCE * 1e-10
        return [
            F.batch_norm(feature, self.get_buffer(f"mean_{scale}"), self._divisor(scale)[0], eps=eps)
            for scale, feature in enumerate(features)
        ]

    def _learn(self, scale: int, feature: torch.Tensor, rate: torch.Tensor) -> None:
        """Join the moments of a batch, (B, C, H, W) float32, with those of the earlier ones: Chan et al., 1979."""
        variance, mean = torch.var_mean(feature, dim=(0, 2, 3), correction=0)
        between = mean - self.get_buffer(f"mean_{scale}")
        self.get_buffer(f"mean_{scale}").lerp_(mean, rate)
        self.get_buffer(f"variance_{scale}").lerp_(variance, rate).add_(rate * (1 - rate) * between.square())

    def _divisor(self, scale: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Variance by which each channel is standardised, (C,), and which channels are dead, (C,) bool."""
        mean, variance = self.get_buffer(f"mean_{scale}"), self.get_buffer(f"variance_{scale}")
        typical = variance.mean()
        dead = variance <= _DEAD_SHARE * typical + _DEAD_CONSTANT * mean.square()
        return torch.where(dead, typical, variance).clamp_min(_MIN_VARIANCE), dead


class Whitening(ChannelStandardisation):
    """Standardises the channels and takes out half of what they share.

    Channels of a backbone are correlated: a few directions hold most of the variation of normal images, and a cosine
    compares hardly anything else. With R the correlation of the channels, the standardised features are multiplied by
    ``(0.5 R + 0.5 I)^-1/2``: common directions are shortened, and rare ones lengthened, by at most the root of 2. Of
    all roots of this matrix the symmetric one changes the channels least (ZCA; Kessy et al., 2018).

    Args:
        channels: Channels of the scales, finest first.
        batches: Number of batches that are measured, at least 1.
    """

    def __init__(self, channels: Sequence[int], batches: int = 32) -> None:
        super().__init__(channels, batches)
        for scale, count in enumerate(channels):
            self.register_buffer(f"covariance_{scale}", torch.eye(count))
            self.register_buffer(f"mixing_{scale}", torch.eye(count))

    def reset(self) -> None:
        """Reset the statistics, before a training on other data."""
        super().reset()
        for scale in range(self.num_scales):
            for name in ("covariance", "mixing"):
                torch.nn.init.eye_(self.get_buffer(f"{name}_{scale}"))

    def forward(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Standardise and whiten features; the identity before the first update.

        Args:
            features: One (B, C_k, H_k, W_k) per scale.

        Returns:
            The same shapes, and the same precision outside of autocast.
        """
        mixing = [self.get_buffer(f"mixing_{scale}")[:, :, None, None] for scale in range(self.num_scales)]
        return [F.conv2d(z, each.to(z.dtype)) for z, each in zip(super().forward(features), mixing, strict=True)]

    def _learn(self, scale: int, feature: torch.Tensor, rate: torch.Tensor) -> None:
        rows = feature.movedim(1, -1).flatten(0, -2)
        mean = rows.mean(dim=0)
        between, rows = mean - self.get_buffer(f"mean_{scale}"), rows - mean
        covariance = self.get_buffer(f"covariance_{scale}")
        covariance.lerp_(rows.mT @ rows / len(rows), rate).add_(rate * (1 - rate) * torch.outer(between, between))
        self.get_buffer(f"mean_{scale}").lerp_(mean, rate)
        self.get_buffer(f"variance_{scale}").copy_(covariance.diagonal())
        variance, dead = self._divisor(scale)
        same = torch.eye(len(variance), dtype=variance.dtype, device=variance.device)
        correlation = covariance * torch.outer(variance, variance).rsqrt()
        correlation = torch.where(dead | dead[:, None], same, correlation)  # what hardly varies is left alone
        root = inverse_root(torch.lerp(correlation, same, _SHRINKAGE))
        self.get_buffer(f"mixing_{scale}").copy_(root)


def inverse_root(matrix: torch.Tensor) -> torch.Tensor:
    """Symmetric ``A^-1/2`` by the coupled iteration of Newton and Schulz (Higham, Functions of Matrices, 6.35).

    Products only: no value is read by the host, as eigenvalues would be, and every device has them. The smallest
    eigenvalue relative to the norm grows by a factor of 2.25 in each step until it is near 1.

    Args:
        matrix: A, (C, C) float32, symmetric, with eigenvalues of at least 0.5 and a trace of at most C, for C up to
            2**14.

    Returns:
        (C, C) float32; not finite where A is not.
    """
    norm = torch.linalg.matrix_norm(matrix)
    same = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    root, inverse = matrix / norm, same
    for _ in range(_ROOT_STEPS):
        step = 1.5 * same - 0.5 * inverse @ root
        root, inverse = root @ step, step @ inverse
    return inverse * norm.rsqrt()
