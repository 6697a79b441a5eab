"""Random rectangles, and the points inside them."""

__all__ = ["Points", "covered_points", "grid_points", "sample_rectangles"]

from typing import NamedTuple

import torch


class Points(NamedTuple):
    """Points of N fields, in any order.

    Attributes:
        field: (P,) int64, number of the field.
        row: (P,) int64.
        column: (P,) int64.
    """

    field: torch.Tensor
    row: torch.Tensor
    column: torch.Tensor


def grid_points(fields: int, height: int, width: int, device: torch.device) -> Points:
    """All points of N fields."""
    axes = [torch.arange(length, device=device) for length in (fields, height, width)]
    return Points(*(axis.flatten() for axis in torch.meshgrid(*axes, indexing="ij")))


def covered_points(covered: torch.Tensor) -> Points:
    """Select the covered points on an eager CPU, and all points elsewhere.

    On a GPU the host would have to wait for their number, and a compiled graph has a fixed number of points.

    Args:
        covered: (N, H, W) bool.

    Returns:
        At least the covered points of N fields.
    """
    if _count_is_known(covered.device):
        return Points(*covered.nonzero().unbind(dim=1))
    fields, height, width = covered.shape
    return grid_points(fields, height, width, covered.device)


def _count_is_known(device: torch.device) -> bool:
    return device.type == "cpu" and not torch.compiler.is_compiling()


def sample_rectangles(
    batch: int,
    image_size: tuple[int, int],
    heights: tuple[int, int],
    widths: tuple[int, int],
    generator: torch.Generator,
) -> torch.Tensor:
    """Draw rectangles that lie inside the image: height and width uniform, place uniform among those possible.

    Args:
        batch: Number of rectangles B.
        image_size: (H, W).
        heights: Smallest and largest height in pixels, both possible.
        widths: Smallest and largest width.
        generator: Source of randomness; the result is on its device.

    Returns:
        (B, 4) int64: top, left, height, width.
    """
    draw = torch.rand(4, batch, generator=generator, device=generator.device)
    height = heights[0] + (draw[0] * (heights[1] - heights[0] + 1)).long()
    width = widths[0] + (draw[1] * (widths[1] - widths[0] + 1)).long()
    rows, columns = image_size
    top = (draw[2] * (rows - height + 1)).long()
    left = (draw[3] * (columns - width + 1)).long()
    return torch.stack([top, left, height, width], dim=-1)
