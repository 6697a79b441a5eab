"""Changes of a whole image that are no anomaly: a few degrees, brightness, contrast."""

__all__ = ["CHANGES", "moved", "turned"]

import math
from collections.abc import Callable
from functools import partial

import torch
from torch.nn import functional as F  # noqa: N812
from torchvision.transforms.v2 import functional as transforms

# Mirrored border around an image that is moved, relative to its longer side.
_BORDER = 1 / 8
# A rotation that is no anomaly.
_DEGREES = 3.0


def moved(images: torch.Tensor, degrees: float = 0.0, pixels: int = 0) -> torch.Tensor:
    """Rotate images about their centre and shift them to the right and down; the border is mirrored.

    Args:
        images: (B, C, H, W).
        degrees: Clockwise, at most 5 either way for images of up to eight times the width or height.
        pixels: At most a thirtieth of the longer side.

    Returns:
        (B, C, H, W).
    """
    border = math.ceil(_BORDER * max(images.shape[-2:]))
    height, width = (min(border, side - 1) for side in images.shape[-2:])  # more cannot be mirrored
    wide = F.pad(images, (width, width, height, height), mode="reflect")
    turned = transforms.affine(wide, degrees, [pixels, pixels], 1.0, [0.0], transforms.InterpolationMode.BILINEAR)
    return turned[..., height : turned.shape[-2] - height, width : turned.shape[-1] - width]


def turned(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Rotate each image by an angle of its own, uniform between -3 and 3 degrees; see :func:`moved`.

    Args:
        images: (B, C, H, W).
        generator: CPU generator of the angles.

    Returns:
        (B, C, H, W).
    """
    angles = _DEGREES * (2 * torch.rand(len(images), generator=generator) - 1)
    return torch.cat([moved(image[None], angle) for image, angle in zip(images, angles.tolist(), strict=True)])


CHANGES: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = (
    partial(moved, degrees=_DEGREES),
    partial(moved, degrees=-_DEGREES),
    partial(transforms.adjust_brightness, brightness_factor=0.9),
    partial(transforms.adjust_brightness, brightness_factor=1.1),
    partial(transforms.adjust_contrast, contrast_factor=0.85),
    partial(transforms.adjust_contrast, contrast_factor=1.15),
)
"""Each takes images (B, C, H, W) in [0, 1] and gives as many."""
