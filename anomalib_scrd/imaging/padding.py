"""Padding to a square, so that the picture keeps its aspect ratio when it is resized."""

__all__ = ["Padding", "square"]

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Padding:
    """Rows and columns added around a picture.

    Args:
        top: Rows above.
        bottom: Rows below.
        left: Columns on the left.
        right: Columns on the right.
    """

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0

    def apply(self, array: np.ndarray) -> np.ndarray:
        """Pad with zeros.

        Args:
            array: (H, W) or (H, W, C).

        Returns:
            (top + H + bottom, left + W + right, ...); the same array without padding.
        """
        if not any((self.top, self.bottom, self.left, self.right)):
            return array
        sides = ((self.top, self.bottom), (self.left, self.right)) + ((0, 0),) * (array.ndim - 2)
        return np.pad(array, sides)

    def undo(self, array: np.ndarray) -> np.ndarray:
        """Cut the padding off an array of the padded size.

        Args:
            array: (top + H + bottom, left + W + right, ...).

        Returns:
            A view, (H, W, ...).
        """
        height, width = array.shape[:2]
        return array[self.top : height - self.bottom, self.left : width - self.right]


def square(height: int, width: int, spacing: tuple[float, float] = (1.0, 1.0)) -> Padding:
    """Compute the padding on all sides to a square in millimetres, not in pixels.

    A picture whose pixels are not square may need no padding: 100 rows of 2 mm and 200 columns of 1 mm are a square.

    Args:
        height: Rows H.
        width: Columns W.
        spacing: Height and width of a pixel, in mm or relative to each other.

    Returns:
        The padding.
    """
    side = max(height * spacing[0], width * spacing[1])
    rows = max(0, round(side / spacing[0]) - height)
    columns = max(0, round(side / spacing[1]) - width)
    return Padding(rows // 2, math.ceil(rows / 2), columns // 2, math.ceil(columns / 2))
