"""From the distances of the scales to smoothed maps, and from these to one anomaly map."""

__all__ = ["MERGES", "AnomalyMap", "GaussianSmoothing", "gaussian_kernel", "joined_scales"]

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from anomalib_scrd.blocks import match_size

MergeMode = Literal["norm", "max", "mean"]
MERGES = ("norm", "max", "mean")
_TRUNCATE = 4.0

# A map of this smoothing or more, in pixels, is computed on every second row and column: it holds nothing finer, and
# smoothing and peaks would cost four times as much.
_COARSE_SIGMA = 4.0

# The same, in steps of that grid, for what is only sorted: a peak or a median of a smooth map differs by a percent.
_THINNED_SIGMA = 2.0

# Width of the broad smoothing over that of the fine one.
_BROAD = 4.0


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
        # One group per map: single maps as a batch take four times as long on CPUs. Columns twice, the second time of
        # the transposed map: with a kernel of one row OpenVINO (2026.4) never ends compiling where the processor has
        # AMX and it computes in bfloat16, as it does there by default.
        groups = maps.shape[1]
        kernel = self.kernel.to(maps.dtype).view(1, 1, -1, 1).expand(groups, 1, -1, 1)
        columns = F.conv2d(maps, kernel, groups=groups)
        return F.conv2d(columns.transpose(2, 3), kernel, groups=groups).transpose(2, 3)


class AnomalyMap(nn.Module):
    """One map from the distances of all scales: upsampled, smoothed, merged.

    Args:
        merge: ``mean`` over the scales (published, up to a factor), ``max``: a position is as anomalous as at the
            scale where it stands out most, or ``norm``: see :func:`joined_scales`. The last two need scales that are
            calibrated.
        sigma: Standard deviation of the smoothing in pixels of the input, 0 or more.
        broad_weight: Weight of the broadly smoothed maps beside the others, see :meth:`shown`; 0 for none (published).

    Attributes:
        stride: Pixels of the input between two of the grid on which the scales are smoothed and merged.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, merge: MergeMode = "norm", sigma: float = 4.0, broad_weight: float = 0.85) -> None:
        super().__init__()
        if merge not in MERGES:
            msg = f"merge must be one of {MERGES}, got {merge!r}"
            raise ValueError(msg)
        if not sigma >= 0:
            msg = f"sigma must be at least 0 pixels, got {sigma}"
            raise ValueError(msg)
        if not broad_weight >= 0:
            msg = f"broad_weight must be at least 0, got {broad_weight}"
            raise ValueError(msg)
        self.merge = merge
        self.stride = 2 if sigma >= _COARSE_SIGMA else 1
        self.smooth = GaussianSmoothing(sigma / self.stride)
        self.thinning = 2 if sigma / self.stride >= _THINNED_SIGMA else 1
        # A pyramid: what is smooth already is smoothed further on a grid of half the standard deviation.
        self.broad_stride = max(1, int(_BROAD * sigma / (2 * self.stride)))
        self.broad_weight = broad_weight if sigma > 0 else 0.0
        self.smooth_further = GaussianSmoothing(sigma * math.sqrt(_BROAD**2 - 1) / (self.stride * self.broad_stride))

    def number(self, num_scales: int) -> int:
        """Number of maps of so many scales, fine and broad."""
        return 2 * num_scales - 1 if self.broad_weight > 0 else num_scales

    def scales(self, distances: Sequence[torch.Tensor], size: torch.Size | tuple[int, int]) -> torch.Tensor:
        """A smooth map of each scale, on the grid.

        Args:
            distances: One (B, H_k, W_k) per scale.
            size: (H, W) of the input.

        Returns:
            (B, K, ceil(H / stride), ceil(W / stride)) float32.
        """
        grid = _strided(size, self.stride)
        return self.smooth(torch.cat([match_size(distance.unsqueeze(1), grid) for distance in distances], dim=1))

    def thinned(self, maps: torch.Tensor) -> torch.Tensor:
        """Every second row and column of maps (B, M, h, w) of :meth:`scales`, or all where they are not smooth enough.

        Sorting is what a score costs, and a quarter of the values tells the peaks and the median as well.
        """
        return maps[..., :: self.thinning, :: self.thinning]

    def with_broad(self, scales: torch.Tensor) -> torch.Tensor:
        """Add maps that are smoothed four times as wide: Lindeberg's scale space, with two scales.

        In a fine map the noise hides what lies over a large part of an image, faintly. The finest scale has no broad
        map: what it sees is small.

        Args:
            scales: (B, K, h, w) on the grid.

        Returns:
            (B, 2K - 1, h, w), or the maps as they are where broad ones have no weight.
        """
        if self.broad_weight == 0:
            return scales
        size = scales.shape[-2:]
        small = match_size(scales[:, 1:], _strided(size, self.broad_stride))
        return torch.cat([scales, match_size(self.smooth_further(small), size)], dim=1)

    def shown(self, maps: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Weighted maps that are merged: fine ones of all scales but the coarsest, broad ones of all but the finest.

        What the coarsest scale sees is no smaller than a broad map shows it.

        Args:
            maps: (B, 2K - 1, h, w) of :meth:`with_broad`, standardised; or (B, K, h, w) without broad ones.
            weights: (B, K) of the scales.

        Returns:
            (B, 2K - 2, h, w), or (B, K, h, w).
        """
        if self.broad_weight > 0:
            fine = weights.shape[1] - 1
            maps = torch.cat([maps[:, :fine], maps[:, fine + 1 :]], dim=1)
            weights = torch.cat([weights[:, :fine], self.broad_weight * weights[:, 1:]], dim=1)
        return weights[..., None, None] * maps

    def merged(self, scales: torch.Tensor, size: torch.Size | tuple[int, int]) -> torch.Tensor:
        """One map from several.

        Args:
            scales: (B, M, h, w) on the grid.
            size: (H, W) of the input.

        Returns:
            (B, 1, H, W).
        """
        if self.merge == "norm":
            joined = joined_scales(scales).unsqueeze(1)
        else:
            joined = scales.amax(dim=1, keepdim=True) if self.merge == "max" else scales.mean(dim=1, keepdim=True)
        return match_size(joined, size)


def _strided(size: Sequence[int], stride: int) -> tuple[int, int]:
    rows, columns = (-(-side // stride) for side in size)
    return rows, columns
