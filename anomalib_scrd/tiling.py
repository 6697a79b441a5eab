"""Tiles of large images: cut with an overlap, predicted one by one, and joined without seams."""

__all__ = ["Tiling"]

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import pad


@dataclass(frozen=True)
class Tiling:
    """Sizes of the tiles of an image.

    Tiles are evenly spaced from border to border, without padding. Where they overlap, their maps are averaged with
    weights that fall off linearly towards a tile's border, so the joined map has no seams.

    Args:
        size: Height and width of a tile, in pixels.
        stride: Largest distance from one tile to the next in pixels, down and across; below the size for an overlap.

    Raises:
        ValueError: If a number is below 1, or the stride exceeds the size.
    """

    size: tuple[int, int]
    stride: tuple[int, int]

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not all(1 <= stride <= size for size, stride in zip(self.size, self.stride, strict=True)):
            msg = f"tiles need 1 <= stride <= tile_size, got stride {self.stride} and tile_size {self.size}"
            raise ValueError(msg)

    @classmethod
    def of(cls, tiler: Any) -> "Tiling":
        """Take over the sizes of anomalib's ``Tiler``.

        Args:
            tiler: anomalib's tiler.

        Returns:
            The tiling.

        Raises:
            ValueError: If it removes borders, which would leave parts of an image without a map.
        """
        if tiler.remove_border_count:
            msg = f"the tiler's remove_border_count must be 0, got {tiler.remove_border_count}"
            raise ValueError(msg)
        return cls((tiler.tile_size_h, tiler.tile_size_w), (tiler.stride_h, tiler.stride_w))

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> "Tiling":
        """Rebuild it from :meth:`to_dict`."""
        height, width = state["size"]
        down, across = state["stride"]
        return cls((int(height), int(width)), (int(down), int(across)))

    def to_dict(self) -> dict[str, list[int]]:
        """Put it into plain lists, for checkpoints."""
        return {"size": list(self.size), "stride": list(self.stride)}

    def places(self, height: int, width: int) -> list[tuple[int, int]]:
        """Find the tiles of an image.

        Args:
            height: Of the image.
            width: Of the image.

        Returns:
            Row and column of each tile's first pixel, row by row.
        """
        rows, columns = (
            _starts(length, size, stride)
            for length, size, stride in zip((height, width), self.size, self.stride, strict=True)
        )
        return [(row, column) for row in rows for column in columns]

    def cut(self, images: torch.Tensor) -> torch.Tensor:
        """Cut images into tiles.

        Args:
            images: (B, C, H, W).

        Returns:
            (B * N, C, h, w), all N tiles of the first image first; h and w are the size of a tile, or of the image
            where that is smaller.
        """
        height, width = images.shape[-2:]
        tiles = [
            images[..., row : row + self.size[0], column : column + self.size[1]]
            for row, column in self.places(height, width)
        ]
        return torch.stack(tiles, dim=1).flatten(0, 1)

    def join(self, maps: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Join the maps of tiles.

        Args:
            maps: (B * N, C, h, w), as :meth:`cut` orders them.
            height: Of the image.
            width: Of the image.

        Returns:
            (B, C, H, W).
        """
        places = self.places(height, width)
        tiles = maps.unflatten(0, (-1, len(places)))  # (B, N, C, h, w)
        rows, columns = maps.shape[-2:]
        weight = _hat(rows, maps)[:, None] * _hat(columns, maps)
        sides = [(column, width - column - columns, row, height - row - rows) for row, column in places]
        total = torch.stack([pad(tiles[:, index] * weight, side) for index, side in enumerate(sides)]).sum(0)
        return total / torch.stack([pad(weight, side) for side in sides]).sum(0)


def _starts(length: int, size: int, stride: int) -> list[int]:
    """First pixels of tiles along one axis."""
    if length <= size:
        return [0]
    gaps = math.ceil((length - size) / stride)
    return [round(index * (length - size) / gaps) for index in range(gaps + 1)]


def _hat(length: int, like: torch.Tensor) -> torch.Tensor:
    """(length,) weights that fall off linearly from the middle, above 0 everywhere."""
    places = torch.arange(length, dtype=like.dtype, device=like.device)
    return torch.minimum(places + 1, length - places) / ((length + 1) / 2)
