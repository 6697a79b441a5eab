"""Distances of all levels on one grid, smoothed, compared with their image, and the grid enlarged to the image."""

__all__ = ["SmoothMaps", "compared_with_image"]

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from anomalib_scrd.components.blocks import match_size
from anomalib_scrd.components.resampling import AxisMatrices, resized
from anomalib_scrd.scoring.smoothing import smoothed

# From this sigma on, in pixels, the grid has every second row and column: finer detail is smoothed away.
_COARSE_SIGMA = 2.0

# Maps of which only the extents are used are smoothed by this multiple of sigma: image AUROC is equal for 1, 2 and 3
# (six sets, within 0.001 in the mean), and with 2 a quarter of the places is sufficient.
_THIN_WIDTH = 2.0

# From this width on, in steps of the grid, they have every second row and column of it: extents change by about 1 %.
_THINNED_SIGMA = 2.0

# Share of the mean of an image that is subtracted from its maps. From 0 to 1 AUPRO rises and pixel AUROC falls; pixel
# AP is highest at one half (configs/benchmark/README.md, "Anomaly map").
_SHARE = 0.5

# Largest side in pixels to which matrix products enlarge a map: at 256 pixels they take OpenVINO a fifth of the time of
# an interpolation, but their cost grows with the third power of the side.
_PRODUCT_LIMIT = 512


class SmoothMaps(nn.Module):
    """Brings distance maps of all levels to one grid and smooths them.

    Args:
        sigma: Standard deviation of the smoothing in pixels of the input, 0 or more; for :meth:`thin` twice as much.

    Attributes:
        stride: Pixels of the input between two places of the grid.

    Raises:
        ValueError: If ``sigma`` is negative.
    """

    def __init__(self, sigma: float) -> None:
        super().__init__()
        if not sigma >= 0:
            msg = f"scoring.sigma must be at least 0 pixels, got {sigma}"
            raise ValueError(msg)
        self.sigma = sigma
        self.stride = 2 if sigma >= _COARSE_SIGMA else 1
        wide = _THIN_WIDTH * sigma / self.stride
        self.thinning = 2 if wide >= _THINNED_SIGMA else 1
        self._on_grid = AxisMatrices(partial(_smoothed, sigma=sigma / self.stride))
        self._on_thin_grid = AxisMatrices(partial(_thinned, sigma=wide, step=self.thinning))
        self._on_image = AxisMatrices(resized)

    def forward(self, distances: Sequence[torch.Tensor], size: torch.Size | tuple[int, int]) -> torch.Tensor:
        """Smooth maps on the grid.

        Args:
            distances: K tensors (B, N, H_k, W_k), N maps of each level.
            size: (H, W) of the input.

        Returns:
            (B, N K, ceil(H / stride), ceil(W / stride)) float32: the first map of each level, then the second of each.
        """
        return self._applied(self._on_grid, distances, size)

    def thin(self, distances: Sequence[torch.Tensor], size: torch.Size | tuple[int, int]) -> torch.Tensor:
        """Smooth twice as wide, and keep every ``thinning``-th row and column of the grid."""
        return self._applied(self._on_thin_grid, distances, size)

    def enlarged(self, maps: torch.Tensor, size: torch.Size | tuple[int, int]) -> torch.Tensor:
        """Enlarge maps (B, M, h, w) of the grid to the image, (B, M, H, W), bilinearly."""
        if max(size) > _PRODUCT_LIMIT or maps.shape[-2:] == tuple(size):
            return match_size(maps, size)
        return self._on_image(maps, size)

    def _applied(
        self, function: AxisMatrices, distances: Sequence[torch.Tensor], size: torch.Size | tuple[int, int]
    ) -> torch.Tensor:
        rows, columns = (-(-side // self.stride) for side in size)
        return torch.stack([function(level, (rows, columns)) for level in distances], dim=2).flatten(1, 2)


def compared_with_image(maps: torch.Tensor, means: torch.Tensor | None = None) -> torch.Tensor:
    """Subtract half of an image's mean from each of its maps.

    An anomaly increases the distances at its places; an image as a whole, its brightness or a rotation, increases them
    everywhere. With this difference, a place is compared with normal images and with the rest of its image.

    Args:
        maps: (B, M, h, w) smoothed distances.
        means: (B, M), of the image to which the maps belong; by default those of the maps. They differ for tiles.

    Returns:
        (B, M, h, w).
    """
    means = maps.mean(dim=(2, 3)) if means is None else means
    return maps - _SHARE * means[..., None, None]


# Linear maps along an axis from distances, (N, L), to the grid, (N, length).


def _smoothed(signals: torch.Tensor, length: int, sigma: float) -> torch.Tensor:
    return smoothed(resized(signals, length), sigma)


def _thinned(signals: torch.Tensor, length: int, sigma: float, step: int) -> torch.Tensor:
    return _smoothed(signals, length, sigma)[:, ::step]
