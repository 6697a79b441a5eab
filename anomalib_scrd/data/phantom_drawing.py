"""Axial head slices with lesions, drawn from random parameters.

Parameters are sampled separately from drawing and do not depend on the number of pixels. Lengths are in units of half
the shorter image side, positions inside the head in units of its outline (the ellipse of radius 1), intensities in
[0, 1].
"""

__all__ = ["LESION_SIZES", "draw_slices", "sample_anatomy", "sample_lesions"]

import math
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F  # noqa: N812

LESION_SIZES: dict[str, tuple[float, float]] = {"small": (0.05, 0.08), "medium": (0.10, 0.15), "large": (0.19, 0.27)}
"""Range of the mean radius of each kind of lesion, in units of half the shorter image side."""

_LESION_DISTANCES = {"small": (0.35, 0.8), "medium": (0.3, 0.7), "large": (0.15, 0.55)}
_LAYERS = ((0.73, 0.0), (0.08, 0.07), (0.17, 0.13), (0.49, 0.15))  # tone and depth: scalp, skull, fluid, cortex
_WHITE, _FLUID, _DEEP_GREY = 0.67, 0.17, 0.53
# Tone, centre of the right one and half axes of paired structures: deep grey matter and two horns of the ventricles.
_PAIRED = (
    (_DEEP_GREY, (0.30, -0.08), (0.10, 0.22)),
    (_FLUID, (0.10, -0.15), (0.06, 0.20)),
    (_FLUID, (0.17, 0.27), (0.06, 0.19)),
)


def sample_anatomy(count: int, generator: Generator) -> dict[str, Tensor]:
    """Sample the parameters of heads: uniform numbers and random fields, ``count`` of each."""
    fields = {"warp": (2, 6, 6), "folds": (1, 18, 18), "texture": (1, 40, 40)}
    uniform = {"uniform": torch.rand(count, 12, generator=generator)}
    return uniform | {name: torch.randn(count, *shape, generator=generator) for name, shape in fields.items()}


def sample_lesions(count: int, kind: str, generator: Generator) -> dict[str, Tensor]:
    """Sample a lesion of a kind (a key of ``LESION_SIZES``) for each of ``count`` heads.

    Returns:
        place (N, 2) in head units, radius (N,), harmonics of the outline (N, 2, 4), contrast (N,).
    """
    if kind not in LESION_SIZES:
        msg = f"kind must be one of {list(LESION_SIZES)}, got {kind!r}"
        raise ValueError(msg)
    ranges = torch.tensor([_LESION_DISTANCES[kind], (0, 2 * math.pi), LESION_SIZES[kind], (0.10, 0.24), (-1, 1)])
    numbers = ranges[:, 0] + (ranges[:, 1] - ranges[:, 0]) * torch.rand(count, 5, generator=generator)  # (N, 5)
    distance, direction, radius, contrast, sign = numbers.T
    place = torch.stack([distance * direction.cos(), distance * direction.sin()], dim=1)
    harmonics = torch.rand(count, 2, 4, generator=generator)
    return {"place": place, "radius": radius, "harmonics": harmonics, "contrast": contrast * sign.sign()}


def draw_slices(
    anatomy: dict[str, Tensor], height: int, width: int, generator: Generator, lesions: dict[str, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Draw N heads of ``sample_anatomy``, with lesions of ``sample_lesions``; the generator is the scanner's noise.

    Returns:
        Images (N, height, width) in [0, 1], and masks that are true where a lesion covers at least half of the tissue.
    """
    pixel = 2 / min(height, width)
    edge = max(0.010, 0.7 * pixel)
    uniform = anatomy["uniform"].T[..., None, None]  # (12, N, 1, 1)
    place, axes = _head_coordinates(anatomy["warp"], uniform, height, width)
    # Random grids that span the head, (N, 1, G, G), interpolated at (N, H, W, 2), as (N, H, W).
    grid: dict[str, Any] = {"mode": "bicubic", "align_corners": True, "padding_mode": "reflection"}
    folds, texture = (F.grid_sample(anatomy[name], place, **grid)[:, 0] for name in ("folds", "texture"))
    depth = 1 - place.norm(dim=-1)  # (N, H, W), below the skin
    image, brain = torch.zeros_like(depth), depth
    for tone, start in _LAYERS:
        brain = torch.sigmoid((depth - start * (0.8 + 0.4 * uniform[5])) / edge)  # the last layer ends at the brain
        image = image.lerp(torch.full_like(image, tone), brain)
    furrows = 0.24 + 0.1 * uniform[6] - 0.12 * torch.tanh(1.6 * folds.abs())
    image = image.lerp(torch.full_like(image, _WHITE), torch.sigmoid((depth - furrows) / (1.6 * edge)))
    for tone, (x, y), half in _PAIRED:
        for side, size in ((-1, uniform[7]), (1, uniform[8])):
            offset = (place - torch.tensor([side * x, y])) / torch.tensor(half)
            grown = 0.5 + 0.7 * size if tone == _FLUID else 1.0
            cover = torch.sigmoid((grown - offset.norm(dim=-1)) * 0.06 / edge)
            image = image.lerp(torch.full_like(image, tone), 0.9 * cover)
    mask = torch.zeros_like(image, dtype=torch.bool)
    if lesions is not None:
        cover, contrast = _lesion_cover(lesions, place, axes, pixel) * brain, lesions["contrast"][:, None, None]
        tissue = torch.where(contrast > 0, _WHITE, _DEEP_GREY - 0.04) + contrast
        image, mask = image.lerp(tissue + 0.025 * texture, 0.9 * cover), cover >= 0.5  # noqa: PLR2004
    image = ((0.88 + 0.2 * uniform[9]) * (image + 0.02 * texture * brain)).clamp(0, 1) ** (0.88 + 0.27 * uniform[10])
    real, imaginary = torch.randn(2, *image.shape, generator=generator) * (0.008 + 0.012 * uniform[11])
    return torch.hypot(image + real, imaginary).clamp(0, 1), mask  # Rician noise of a magnitude image


def _head_coordinates(warp: Tensor, uniform: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Place of every pixel in units of the head's outline, (N, H, W, 2) as x and y, and the half axes (N, 1, 1, 2)."""
    rows, columns = ((2 * torch.arange(side) + 1 - side) / min(height, width) for side in (height, width))
    across, down = columns - 0.1 * (uniform[0] - 0.5), rows[:, None] - 0.1 * (uniform[1] - 0.5)
    angle = 0.44 * (uniform[4] - 0.5)
    turned = angle.cos() * across + angle.sin() * down, angle.cos() * down - angle.sin() * across
    axes = torch.stack([0.64 + 0.12 * uniform[2], 0.78 + 0.12 * uniform[3]], dim=-1)
    place = torch.stack(turned, dim=-1) / axes
    shift = F.grid_sample(warp, place, mode="bicubic", padding_mode="border", align_corners=True)
    return place + 0.017 * shift.permute(0, 2, 3, 1), axes  # (N, 2, H, W) to (N, H, W, 2)


def _lesion_cover(lesions: dict[str, Tensor], place: Tensor, axes: Tensor, pixel: float) -> Tensor:
    """Soft membership of the lesions, (N, H, W)."""
    offset = (place - lesions["place"][:, None, None]) * axes  # in image units
    direction = torch.atan2(offset[..., 1], offset[..., 0])[..., None]
    amplitude, phase = lesions["harmonics"][:, None, None].unbind(dim=3)  # (N, 1, 1, 4)
    order = torch.arange(2, 6)
    outline = 1 + (0.3 * amplitude / (order - 1) * torch.cos(order * direction + 2 * math.pi * phase)).sum(dim=-1)
    radius = lesions["radius"][:, None, None].clamp_min(1.6 * pixel)  # visible in the smallest images too
    return torch.sigmoid(
        (radius * outline.clamp_min(0.4) - offset.norm(dim=-1)) / (0.1 * radius).clamp_min(0.15 * pixel)
    )
