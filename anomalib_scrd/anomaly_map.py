"""From the distances of the scales to smoothed maps, and from these to one anomaly map."""

__all__ = ["MERGES", "AnomalyMap", "GaussianSmoothing", "gaussian_kernel", "joined_scales"]

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

MergeMode = Literal["norm", "max", "mean"]
MERGES = ("norm", "max", "mean")
_TRUNCATE = 4.0


def joined_scales(deviations: torch.Tensor) -> torch.Tensor:
    """Join what the scales say about a place or an image: ``sqrt(sum_k softplus(z_k)^2)``.

    A sum would let the noise of every scale drown an anomaly that one of them sees, a maximum would ignore that others
    see it too; the Euclidean norm lies between. What lies below normal counts nothing, smoothly.

    Args:
        deviations: (B, K, ...) in standard deviations from normal.

    Returns:
        (B, ...), above 0.
    """
    return F.softplus(deviations).square().sum(dim=1).sqrt()


def gaussian_kernel(sigma: float) -> torch.Tensor:
    """Sampled Gaussian that sums to 1, cut at four standard deviations.

    Args:
        sigma: Standard deviation in pixels, above 0.

    Returns:
        (2 * ceil-to-nearest(4 * sigma) + 1,) float32.
    """
    radius = max(1, int(_TRUNCATE * sigma + 0.5))
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offsets / sigma).square())
    return (kernel / kernel.sum()).float()


class GaussianSmoothing(nn.Module):
    """Gaussian smoothing with a kernel that is built once.

    Separable: at sigma 4 two passes of 33 taps in place of 1,089, which is why anomalib's two-dimensional blur is not
    used here. The border is reflected; an image smaller than the kernel's radius repeats its edge instead.

    Args:
        sigma: Standard deviation in pixels; 0 switches the smoothing off.
    """

    kernel: torch.Tensor

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma
        kernel = gaussian_kernel(sigma) if sigma > 0 else torch.ones(1)
        self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Smooth maps of shape (B, K, H, W), each on its own."""
        if self.sigma == 0:
            return maps
        if torch.is_autocast_enabled(maps.device.type):
            # Half precision would round the map, and with it the score, to two or three digits.
            with torch.autocast(maps.device.type, enabled=False):
                return self._convolve(maps.float())
        return self._convolve(maps)

    def _convolve(self, maps: torch.Tensor) -> torch.Tensor:
        radius = self.kernel.shape[0] // 2
        mode = "reflect" if radius < min(maps.shape[-2:]) else "replicate"
        maps = F.pad(maps, (radius, radius, radius, radius), mode=mode)
        # One group per map: single maps as a batch take four times as long on CPUs.
        groups = maps.shape[1]
        kernel = self.kernel.to(maps.dtype).expand(groups, 1, 1, -1)
        return F.conv2d(F.conv2d(maps, kernel.transpose(2, 3), groups=groups), kernel, groups=groups)


class AnomalyMap(nn.Module):
    """One map from the distances of all scales: upsampled, smoothed, merged.

    Args:
        merge: ``mean`` over the scales (published, up to a factor), ``max``: a position is as anomalous as at the
            scale where it stands out most, or ``norm``: see :func:`joined_scales`. The last two need scales that are
            calibrated.
        sigma: Standard deviation of the smoothing in pixels of the input, 0 or more.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, merge: MergeMode = "norm", sigma: float = 4.0) -> None:
        super().__init__()
        if merge not in MERGES:
            msg = f"merge must be one of {MERGES}, got {merge!r}"
            raise ValueError(msg)
        if not sigma >= 0:
            msg = f"sigma must be at least 0 pixels, got {sigma}"
            raise ValueError(msg)
        self.merge = merge
        self.smooth = GaussianSmoothing(sigma)

    def scales(self, distances: Sequence[torch.Tensor], size: torch.Size | tuple[int, int]) -> torch.Tensor:
        """A smooth map of each scale.

        Args:
            distances: One (B, H_k, W_k) per scale.
            size: (H, W) of the input.

        Returns:
            (B, K, H, W) float32.
        """
        upsampled = [
            F.interpolate(distance.unsqueeze(1), size=tuple(size), mode="bilinear", align_corners=False)
            for distance in distances
        ]
        return self.smooth(torch.cat(upsampled, dim=1))

    def merged(self, scales: torch.Tensor) -> torch.Tensor:
        """One map from those of the scales, (B, K, H, W) to (B, 1, H, W)."""
        if self.merge == "norm":
            return joined_scales(scales).unsqueeze(1)
        return scales.amax(dim=1, keepdim=True) if self.merge == "max" else scales.mean(dim=1, keepdim=True)
