"""Kinds of synthetic anomalies in addition to the published noise; each is a function of images and a generator.

All take images (B, C, H, W) in [0, 1], a pool (N, C, H, W) of normal images, the smallest and largest extent relative
to the shorter side, and a generator on the images' device. They return images with one anomaly each, in [0, 1], and
the places of the anomaly, (B, H, W) bool.
"""

__all__ = ["altered_ellipse", "foreign_texture", "pasted_patch"]

import torch
from torch.nn import functional as F  # noqa: N812

from anomalib_scrd.noise.shapes import at_shifted_places, log_uniform, smooth_fields, soft_ellipses, uniform

_HALF = 0.5
# Share of an ellipse's full effect from which on a pixel counts as anomalous.
_INSIDE = 0.3
# An irregular patch with fewer pixels than this is replaced by its complete ellipse.
_FEW_PIXELS = 4


def pasted_patch(
    images: torch.Tensor, pool: torch.Tensor, extent: tuple[float, float], generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Blend in a rectangle from another place of another image, possibly mirrored, with opacity 0.5 to 1.

    A form of CutPaste (Li et al., CVPR 2021) whose border is softened over one pixel.
    """
    batch, (height, width) = len(images), images.shape[-2:]
    shorter = min(height, width)
    device = images.device
    rows, columns = (
        torch.arange(height, device=device).view(1, -1, 1),
        torch.arange(width, device=device).view(1, 1, -1),
    )
    inside = torch.ones(batch, height, width, dtype=torch.bool, device=device)
    for places, length in ((rows, height), (columns, width)):
        side = (shorter * log_uniform(batch, generator, extent)).clamp(2, length).long()
        first = (uniform(batch, generator) * (length - side + 1)).long()
        inside = inside & (places >= first) & (places < first + side)
    chosen = torch.randint(len(pool), (batch,), generator=generator, device=device)
    patch = at_shifted_places(pool, generator, mirrored=True, chosen=chosen)
    opacity = uniform(batch, generator, 0.5, 1.0) * _softened(inside)
    return torch.lerp(images, patch, opacity.unsqueeze(1)), inside


def altered_ellipse(
    images: torch.Tensor, pool: torch.Tensor, extent: tuple[float, float], generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Change the image inside a soft ellipse: brightness (half of them), contrast (a quarter) or sharpness."""
    del pool
    batch, size = len(images), (images.shape[-2], images.shape[-1])
    soft = soft_ellipses(batch, size, extent, generator).unsqueeze(1)
    which = uniform(batch, generator).unsqueeze(1)
    positive = uniform(batch, generator).unsqueeze(1) < _HALF
    amount = uniform(batch, generator, 0.08, 0.38).unsqueeze(1)
    shifted = images + torch.where(positive, amount, -amount)
    mean = (images * soft).sum((2, 3), keepdim=True) / soft.sum((2, 3), keepdim=True).clamp_min(1)
    contrasted = mean + (images - mean) * torch.where(positive, 1 + 3 * amount, 1 - 2 * amount)
    changed = torch.where(which < _HALF, shifted, torch.where(which < 1.5 * _HALF, contrasted, _blurred(images)))
    return torch.lerp(images, changed, soft).clamp(0, 1), soft[:, 0] > _INSIDE


def foreign_texture(
    images: torch.Tensor, pool: torch.Tensor, extent: tuple[float, float], generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cover an irregular patch by another image, inverted or with another gain, plus noise; opacity 0.15 to 0.8."""
    batch, size = len(images), (images.shape[-2], images.shape[-1])
    low, high = extent
    area = soft_ellipses(batch, size, (1.5 * low, min(1.5 * high, 1.2)), generator) > _HALF
    irregular = area & (smooth_fields(batch, size, generator) > 0)
    enough = irregular.flatten(1).sum(dim=1).view(-1, 1, 1) > _FEW_PIXELS
    inside = torch.where(enough, irregular, area)
    chosen = torch.randint(len(pool), (batch,), generator=generator, device=images.device)
    other = at_shifted_places(pool, generator, chosen=chosen)
    gain = uniform(batch, generator, 0.5, 1.5).unsqueeze(1)
    inverted = uniform(batch, generator).unsqueeze(1) < 0.4  # noqa: PLR2004 - two in five
    fill = torch.where(inverted, 1 - other, (gain * other).clamp(0, 1))
    fill = fill + 0.15 * smooth_fields(batch, size, generator, (16, 32, 64)).unsqueeze(1)
    opacity = uniform(batch, generator, 0.15, 0.8) * _softened(inside)
    return torch.lerp(images, fill, opacity.unsqueeze(1)).clamp(0, 1), inside


def _softened(inside: torch.Tensor) -> torch.Tensor:
    """(B, H, W) in [0, 1]: a mask averaged over 3 x 3 pixels."""
    return F.avg_pool2d(inside.float().unsqueeze(1), 3, stride=1, padding=1)[:, 0]


def _blurred(images: torch.Tensor) -> torch.Tensor:
    """Images averaged over squares of about an eighth of the shorter side, reflected at the border."""
    kernel = max(3, min(images.shape[-2:]) // 16 * 2 + 1)
    # Products of matrices: the time of a pooling over squares grows with the fourth power of the side. AxisMatrices, in
    # float64, takes 1.4 times as long as these, although it keeps its matrices.
    with torch.autocast(images.device.type, enabled=False):
        rows, columns = (_means(side, kernel, images) for side in images.shape[-2:])
        return rows @ images @ columns.mT


def _means(side: int, kernel: int, like: torch.Tensor) -> torch.Tensor:
    """(side, side) matrix whose row i averages the ``kernel`` samples around sample i."""
    samples = torch.eye(side, dtype=like.dtype, device=like.device).unsqueeze(0)
    padded = F.pad(samples, (kernel // 2, kernel // 2), mode="reflect")
    return F.avg_pool1d(padded, kernel, stride=1)[0].mT
