"""Where synthetic anomalies lie: rectangles of random size and place."""

__all__ = ["Points", "covered_points", "grid_points", "sample_rectangles", "where_allowed"]

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
    """The points at which something is to be drawn, where their number is at hand; else all points.

    A GPU would have to tell it to the host, which would wait, and a compiled graph is made for one number of points.

    Args:
        covered: (N, H, W) bool, where something is to be drawn.

    Returns:
        At least the covered points of N fields.
    """
    if _number_is_at_hand(covered.device):
        return Points(*covered.nonzero().unbind(dim=1))
    fields, height, width = covered.shape
    return grid_points(fields, height, width, covered.device)


def _number_is_at_hand(device: torch.device) -> bool:
    return device.type == "cpu" and not torch.compiler.is_compiling()


def sample_rectangles(
    batch: int,
    count: int,
    image_size: tuple[int, int],
    heights: tuple[int, int],
    widths: tuple[int, int],
    generator: torch.Generator,
    foreground: torch.Tensor | None = None,
) -> torch.Tensor:
    """Draw rectangles that lie inside the image: height and width uniform, place uniform among those possible.

    Args:
        batch: Number of images B.
        count: Rectangles per image N.
        image_size: (H, W).
        heights: Smallest and largest height in pixels, both possible.
        widths: Smallest and largest width.
        generator: Source of randomness; the result lies on its device.
        foreground: (B, 1, H, W), above 0 where the centre of a rectangle may lie; the rectangle is then moved inside
            the image. Anywhere in an image without foreground.

    Returns:
        (B, N, 4) int64: top, left, height, width.
    """
    device = generator.device
    draw = torch.rand(4, batch, count, generator=generator, device=device)
    height = heights[0] + (draw[0] * (heights[1] - heights[0] + 1)).long()
    width = widths[0] + (draw[1] * (widths[1] - widths[0] + 1)).long()
    rows, columns = image_size
    if foreground is None:
        top = (draw[2] * (rows - height + 1)).long()
        left = (draw[3] * (columns - width + 1)).long()
    else:
        allowed = where_allowed(foreground).flatten(1).float()  # (B, H * W)
        # The largest of independent uniform numbers is equally likely at every allowed pixel.
        lottery = torch.rand(batch, count, rows * columns, generator=generator, device=device)
        centre = (lottery * allowed.unsqueeze(1)).argmax(dim=-1)
        top = torch.minimum((centre // columns - height // 2).clamp_min(0), rows - height)
        left = torch.minimum((centre % columns - width // 2).clamp_min(0), columns - width)
    return torch.stack([top, left, height, width], dim=-1)


def where_allowed(foreground: torch.Tensor) -> torch.Tensor:
    """Where anomalies may lie.

    Args:
        foreground: (B, 1, H, W), above 0 in the foreground.

    Returns:
        (B, 1, H, W) bool: the foreground, or everywhere in an image without one.
    """
    inside = foreground > 0
    return inside | ~inside.flatten(1).any(dim=1).view(-1, 1, 1, 1)
