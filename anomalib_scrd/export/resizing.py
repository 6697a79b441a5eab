"""The pre-processor's transform in operations that every exporter and runtime computes exactly.

torchvision resizes with anti-aliasing. OpenVINO 2026.4 ignores ``antialias=1`` of ONNX's ``Resize`` and interpolates
between two neighbours, which changed pixels in [0, 1] by up to 0.6. A resize is linear along each axis, so this module
writes it as two matrix products, whose matrices the graph computes from the size of its input.
"""

__all__ = ["axis_weights", "network_size", "resized", "resized_size", "transformed", "unsupported"]

from typing import Any

import torch
from anomalib.pre_processing.utils.transform import get_exportable_transform
from torch import nn
from torchvision import transforms as v1
from torchvision.transforms import v2

_RESIZE = (v1.Resize, v2.Resize)
# Values of torchvision and of Pillow.
_BILINEAR = ("bilinear", 2)
_COMPOSED = (v1.Compose, v2.Compose)
# A transform that resizes both to one size does so for all sizes.
_PROBES = ((61, 89), (89, 61))


def axis_weights(inputs: int, outputs: int, *, antialias: bool = True) -> torch.Tensor:
    """Weights of bilinear interpolation along an axis.

    The filter is a triangle around the centre of each output. Its radius is one input pixel or, with ``antialias``, one
    output pixel if that is larger. With integers instead of pixel coordinates the weights are exact until the last
    division, also on devices that compute in half precision.

    Args:
        inputs: Length of the axis, at least 1; may be symbolic while a graph is traced.
        outputs: Length of the result, at least 1.
        antialias: Whether to widen the filter when the axis shrinks.

    Returns:
        (outputs, inputs) float32 with rows that sum to 1.
    """
    reach = 2 * torch.sym_max(inputs, outputs) if antialias else 2 * outputs
    targets = 2 * torch.arange(outputs).unsqueeze(1) + 1
    sources = 2 * torch.arange(inputs).unsqueeze(0) + 1
    # between the two centres, in units of 1 / (2 * outputs) of an input pixel
    distances = (targets * inputs - sources * outputs).abs()
    weights = (-distances + reach).clamp_min(0).float()
    return weights / weights.sum(dim=1, keepdim=True)


def resized(images: torch.Tensor, size: tuple[int, int], *, antialias: bool = True) -> torch.Tensor:
    """Resize images like ``torchvision``'s bilinear resize.

    Args:
        images: (B, C, H, W) float32.
        size: Wanted (height, width).
        antialias: As in torchvision.

    Returns:
        (B, C, *size).
    """
    height, width = images.shape[-2:]
    if not _equal(width, size[1]):
        images = images @ axis_weights(width, size[1], antialias=antialias).to(images).mT
    if not _equal(height, size[0]):
        images = axis_weights(height, size[0], antialias=antialias).to(images) @ images
    return images


def transformed(transform: Any, images: torch.Tensor) -> torch.Tensor:
    """Apply a transform with operations that can be exported.

    Args:
        transform: Transform of a pre-processor, of torchvision's first or second version, possibly nested.
        images: (B, C, H, W) in [0, 1].

    Returns:
        The result of ``transform(images)``, up to the rounding of float32.
    """
    if isinstance(transform, _RESIZE):
        size = resized_size(transform, images.shape[-2], images.shape[-1])
        return resized(images, size, antialias=bool(transform.antialias))
    steps = _steps(transform)
    if not steps:
        exportable: Any = get_exportable_transform(transform)
        return exportable(images)
    for step in steps:
        images = transformed(step, images)
    return images


def resized_size(resize: Any, height: int, width: int) -> tuple[int, int]:
    """Size of an image after a Resize.

    Args:
        resize: torchvision's ``Resize`` of either version. With one number it keeps the aspect ratio: the shorter side
            gets that length, unless the longer one would exceed ``max_size``.
        height: Height of the image.
        width: Width of the image.

    Returns:
        (height, width).
    """
    sides = [resize.size] if isinstance(resize.size, int) else resize.size
    if sides is not None and len(sides) == 2:  # noqa: PLR2004
        return int(sides[0]), int(sides[1])
    short, long = sorted((height, width))
    limit = resize.max_size
    if sides is None:  # only the longer side is given
        new_short, new_long = int(limit * short / long), limit
    else:
        new_short, new_long = sides[0], int(sides[0] * long / short)
        if limit is not None and new_long > limit:
            new_short, new_long = int(limit * new_short / new_long), limit
    return (new_short, new_long) if height <= width else (new_long, new_short)


def network_size(transform: Any) -> tuple[int, int] | None:
    """Size of the output of a transform for images of any size.

    Args:
        transform: Of a pre-processor, or None.

    Returns:
        (height, width), or None if it depends on the size of the image.
    """
    if transform is None:
        return None
    first, second = (tuple(transform(torch.zeros(1, 3, *size)).shape[-2:]) for size in _PROBES)
    return first if first == second else None


def unsupported(transform: Any) -> str | None:
    """Find the part of a transform that cannot be exported exactly.

    Args:
        transform: Of a pre-processor, or None.

    Returns:
        Name of the interpolation of the first Resize that is not bilinear; None if there is none.
    """
    if isinstance(transform, _RESIZE):
        name = getattr(transform.interpolation, "value", transform.interpolation)
        return None if name in _BILINEAR else str(name)
    return next(filter(None, map(unsupported, _steps(transform))), None)


def _steps(transform: Any) -> list[Any]:
    """Parts of a composed transform; none for any other."""
    if isinstance(transform, _COMPOSED):
        return list(transform.transforms)
    return list(transform) if isinstance(transform, nn.Sequential) else []


def _equal(length: Any, wanted: int) -> bool:
    """Whether a length is known and equal; a comparison with a symbolic length would fix it in the graph."""
    return isinstance(length, int) and length == wanted
