"""Random shapes and smooth fields from which synthetic anomalies are made."""

__all__ = ["at_shifted_places", "log_uniform", "smooth_fields", "soft_ellipses", "uniform"]

import math
from collections.abc import Sequence

import torch
from torch.nn import functional as F  # noqa: N812

# Width of the border of a soft ellipse relative to its radius.
_SOFTNESS = 0.15
# Amplitude of a field's component relative to the next coarser one.
_PERSISTENCE = 0.7


def uniform(batch: int, generator: torch.Generator, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
    """Draw one number per image, (B, 1, 1) in [low, high)."""
    draw = torch.rand(batch, 1, 1, generator=generator, device=generator.device)
    return low + (high - low) * draw


def log_uniform(batch: int, generator: torch.Generator, extent: tuple[float, float]) -> torch.Tensor:
    """Draw one number per image whose logarithm is uniform, (B, 1, 1) in [extent[0], extent[1])."""
    low, high = extent
    return torch.exp(uniform(batch, generator, math.log(low), math.log(high)))


def soft_ellipses(
    batch: int, size: tuple[int, int], extent: tuple[float, float], generator: torch.Generator
) -> torch.Tensor:
    """Draw ellipses with a random centre and direction and a soft border.

    Args:
        batch: Number of images B.
        size: (H, W) in pixels.
        extent: Smallest and largest axis relative to the shorter side of the image; log-uniform between them.
        generator: Source of randomness; the result is on its device.

    Returns:
        (B, H, W) in (0, 1): ``sigmoid((1 - r) / 0.15)`` with r the distance from the centre in radii.
    """
    height, width = size
    device = generator.device
    rows = torch.arange(height, device=device).view(1, -1, 1)
    columns = torch.arange(width, device=device).view(1, 1, -1)
    first, second = (0.5 * min(size) * log_uniform(batch, generator, extent) for _ in range(2))
    down = rows - height * uniform(batch, generator)
    right = columns - width * uniform(batch, generator)
    angle = math.pi * uniform(batch, generator)
    along = angle.cos() * down + angle.sin() * right
    across = angle.cos() * right - angle.sin() * down
    radius = ((along / first.clamp_min(1)).square() + (across / second.clamp_min(1)).square()).sqrt()
    return torch.sigmoid((1 - radius) / _SOFTNESS)


def smooth_fields(
    batch: int, size: tuple[int, int], generator: torch.Generator, cells: Sequence[int] = (4, 8, 16, 32)
) -> torch.Tensor:
    """Draw smooth Gaussian fields: a sum of coarse grids of normal numbers, each enlarged to the image.

    Args:
        batch: Number of images B.
        size: (H, W) in pixels.
        generator: Source of randomness; the result is on its device.
        cells: Cells of each grid along a side, coarsest first.

    Returns:
        (B, H, W) float32, mean 0; component i has the amplitude ``0.7**i``.
    """
    total = torch.zeros(batch, 1, *size, device=generator.device)
    for index, cell in enumerate(cells):
        grid = torch.randn(batch, 1, cell, cell, generator=generator, device=generator.device)
        total = total + _PERSISTENCE**index * F.interpolate(grid, size=size, mode="bicubic", align_corners=False)
    return total[:, 0]


def at_shifted_places(
    images: torch.Tensor, generator: torch.Generator, *, mirrored: bool = False, chosen: torch.Tensor | None = None
) -> torch.Tensor:
    """Shift every image by a random number of rows and columns, with wrap-around.

    Args:
        images: (N, C, H, W).
        generator: Source of randomness, on the images' device.
        mirrored: Whether each axis of an image is mirrored with probability one half.
        chosen: (B,) int64 indices of the images to take; None, the default, for all in order.

    Returns:
        (B, C, H, W).
    """
    device = images.device
    numbers = torch.arange(len(images), device=device) if chosen is None else chosen
    batch, (height, width) = len(numbers), images.shape[-2:]
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)

    def places(line: torch.Tensor, length: int) -> torch.Tensor:  # (B, length)
        line = line.expand(batch, -1)
        if mirrored:
            flip = torch.rand(batch, 1, generator=generator, device=device) < 0.5  # noqa: PLR2004 - half of them
            line = torch.where(flip, length - 1 - line, line)
        shift = torch.randint(length, (batch, 1), generator=generator, device=device)
        return (line + shift) % length

    from_rows, from_columns = places(rows, height), places(columns, width)
    picked = images[numbers.view(-1, 1, 1), :, from_rows.unsqueeze(2), from_columns.unsqueeze(1)]
    return picked.permute(0, 3, 1, 2)  # (B, H, W, C) to (B, C, H, W)
