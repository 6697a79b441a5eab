"""Position of an anomaly map on the image on disk."""

__all__ = ["Frame", "map_frame"]

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from anomalib.data.transforms import ExportableCenterCrop, SquarePad
from torch import nn
from torchvision import transforms as v1
from torchvision.transforms import v2

_MOVES_PIXELS = (
    ExportableCenterCrop,
    SquarePad,
    v1.CenterCrop,
    v1.Pad,
    v1.Resize,
    v2.CenterCrop,
    v2.Pad,
    v2.Resize,
)

_BLURRED = 3  # pixels


class Frame(NamedTuple):
    """Edges of the map in pixels of the original image, inside it (crops) or outside (pads)."""

    left: float
    top: float
    right: float
    bottom: float


def map_frame(transforms: Sequence[Any], image_size: tuple[int, int], map_size: tuple[int, int] | None = None) -> Frame:
    """Find the part of an image that its anomaly map covers.

    An image of coordinates is transformed, and the edges are read from the result. Resize, CenterCrop and Pad of
    torchvision, and ExportableCenterCrop and SquarePad of anomalib are supported; all other transforms are assumed to
    leave pixels in place.

    Args:
        transforms: Transforms of the image, in order; each may be nested, or None.
        image_size: (H, W) of the original image.
        map_size: (H, W) of the map.

    Returns:
        The frame; the complete image if the transforms do not produce ``map_size``.
    """
    height, width = image_size
    whole = Frame(0.0, 0.0, float(width), float(height))
    columns = torch.arange(width, dtype=torch.float32).add(0.5).expand(height, width)
    rows = torch.arange(height, dtype=torch.float32).add(0.5).view(-1, 1).expand(height, width)
    places = torch.stack([columns, rows])  # (2, H, W)
    for step in _steps(transforms):
        places = step(places)
    new_height, new_width = places.shape[-2:]
    if map_size is not None and (new_height, new_width) != tuple(map_size):
        return whole
    left, right = _edges(places[0, new_height // 2])
    top, bottom = _edges(places[1, :, new_width // 2])
    return Frame(left, top, right, bottom)


def _edges(line: torch.Tensor) -> tuple[float, float]:
    """Extrapolate coordinates to both ends of a line, from the linear part around its middle, which is not padding."""
    count = len(line)
    steps = (line[1:] - line[:-1]).tolist()
    middle = count // 2
    around = sorted(steps[max(middle - 3, 0) : middle + 2])
    usual = around[len(around) // 2] if around else 0.0
    first = last = middle
    while first > 0 and abs(steps[first - 1] - usual) < usual / 2:
        first -= 1
    while last < count - 1 and abs(steps[last] - usual) < usual / 2:
        last += 1
    if last - first > 4 * _BLURRED:  # a resize repeats the last pixels at the borders of an image
        first, last = first + _BLURRED, last - _BLURRED
    if first == last:
        return float(line[middle]) - 0.5, float(line[middle]) + 0.5
    slope = float(line[last] - line[first]) / (last - first)
    start = float(line[first]) - slope * (first + 0.5)
    return start, start + slope * count


def _steps(transforms: Sequence[Any]) -> Iterator[Any]:
    for transform in transforms:
        if isinstance(transform, nn.Sequential):
            yield from _steps(list(transform))
        elif isinstance(transform, (v1.Compose, v2.Compose)):
            yield from _steps(transform.transforms)
        elif isinstance(transform, _MOVES_PIXELS):
            yield transform
