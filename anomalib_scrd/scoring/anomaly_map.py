"""From the distances of the scales to smoothed maps, and from these to one anomaly map."""

__all__ = ["MERGES", "AnomalyMap", "joined_scales"]

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from anomalib_scrd.components.blocks import match_size
from anomalib_scrd.scoring.smoothing import AxisFunction, AxisMatrices, resized, smoothed

MergeMode = Literal["norm", "max", "mean"]
MERGES = ("norm", "max", "mean")

# A map of this smoothing or more, in pixels, is computed on every second row and column: it holds nothing finer, and
# smoothing and peaks would cost four times as much.
_COARSE_SIGMA = 4.0

# The same, in steps of that grid, for what is only sorted: a peak or a median of a smooth map differs by a percent.
_THINNED_SIGMA = 2.0

# Pixels of a side to which a product of matrices enlarges the merged map. It takes OpenVINO a fifth of the time of an
# interpolation at 256 pixels, but grows with the third power of the side.
_PRODUCT_LIMIT = 512

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
        self.sigma = sigma
        self.stride = 2 if sigma >= _COARSE_SIGMA else 1
        self.thinning = 2 if sigma / self.stride >= _THINNED_SIGMA else 1
        # A pyramid: what is smooth already is smoothed further on a grid of half the standard deviation.
        self.broad_stride = max(1, int(_BROAD * sigma / (2 * self.stride)))
        self.broad_weight = broad_weight if sigma > 0 else 0.0
        fine = partial(_fine, sigma=sigma / self.stride)
        further = sigma * math.sqrt(_BROAD**2 - 1) / (self.stride * self.broad_stride)
        self._fine_maps = AxisMatrices(fine)
        self._thin_maps = AxisMatrices(partial(_thin, fine=fine, thinning=self.thinning))
        self._full_maps = AxisMatrices(resized)
        self._broad_maps = AxisMatrices(partial(_broad, fine=fine, stride=self.broad_stride, sigma=further))

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
        return _on_grid(self._fine_maps, distances, _strided(size, self.stride))

    def thin_scales(self, distances: Sequence[torch.Tensor], size: torch.Size | tuple[int, int]) -> torch.Tensor:
        """What :meth:`thinned` leaves of :meth:`scales`, without the rest."""
        return _on_grid(self._thin_maps, distances, _strided(size, self.stride))

    def thinned(self, maps: torch.Tensor) -> torch.Tensor:
        """Every second row and column of maps (B, M, h, w) of :meth:`scales`, or all where they are not smooth enough.

        Sorting is what a score costs, and a quarter of the values tells the peaks and the median as well.
        """
        return maps[..., :: self.thinning, :: self.thinning]

    def all_maps(self, distances: Sequence[torch.Tensor], size: torch.Size | tuple[int, int]) -> torch.Tensor:
        """Those of :meth:`scales`, and behind them maps smoothed four times as wide: two steps of a scale space.

        In a fine map the noise hides what lies over a large part of an image, faintly. The finest scale has no broad
        map: what it sees is small.

        Args:
            distances: One (B, H_k, W_k) per scale.
            size: (H, W) of the input.

        Returns:
            (B, 2K - 1, h, w), or those of :meth:`scales` alone where broad ones have no weight.
        """
        fine = self.scales(distances, size)
        if self.broad_weight == 0 or len(distances) == 1:
            return fine
        return torch.cat([fine, _on_grid(self._broad_maps, distances[1:], _strided(size, self.stride))], dim=1)

    def shown(self, maps: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Weighted maps that are merged: fine ones of all scales but the coarsest, broad ones of all but the finest.

        What the coarsest scale sees is no smaller than a broad map shows it.

        Args:
            maps: (B, 2K - 1, h, w) of :meth:`all_maps`, standardised; or (B, K, h, w) without broad ones.
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
        if max(size) > _PRODUCT_LIMIT or joined.shape[-2:] == tuple(size):
            return match_size(joined, size)
        return self._full_maps(joined, size)


# What happens to distances along an axis, (N, L), on their way to the grid, (N, length).


def _fine(signals: torch.Tensor, length: int, sigma: float) -> torch.Tensor:
    return smoothed(resized(signals, length), sigma)


def _thin(signals: torch.Tensor, length: int, fine: AxisFunction, thinning: int) -> torch.Tensor:
    return fine(signals, length)[:, ::thinning]


def _broad(signals: torch.Tensor, length: int, fine: AxisFunction, stride: int, sigma: float) -> torch.Tensor:
    return resized(smoothed(resized(fine(signals, length), -(-length // stride)), sigma), length)


def _on_grid(maps: AxisMatrices, distances: Sequence[torch.Tensor], grid: tuple[int, int]) -> torch.Tensor:
    return torch.cat([maps(distance.unsqueeze(1), grid) for distance in distances], dim=1)


def _strided(size: Sequence[int], stride: int) -> tuple[int, int]:
    rows, columns = (-(-side // stride) for side in size)
    return rows, columns
