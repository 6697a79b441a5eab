"""Noise at every point of complete fields, by the package's own function for some of them."""

__all__ = ["noise_field"]

import torch

from anomalib_scrd.noise.fields import NoiseState, noise_at
from anomalib_scrd.noise.patches import grid_points


def noise_field(
    state: NoiseState, channels: int, height: int, width: int, *, period: float, persistence: float
) -> torch.Tensor:
    """(N, channels, height, width) for N fields."""
    points = grid_points(len(state.seeds), height, width, state.seeds.device)
    field = noise_at(state, points, channels, period=period, persistence=persistence)
    return field.view(channels, -1, height, width).transpose(0, 1)
