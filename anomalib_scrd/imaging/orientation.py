"""Orientation of a picture: transposition and flips from the file's order to the display's."""

__all__ = ["Orientation", "from_directions", "from_exif", "from_letters"]

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Orientation:
    """A transposition, followed by flips.

    Args:
        transpose: Whether rows become columns.
        flip_rows: Whether the rows are then reversed, top to bottom.
        flip_columns: Whether the columns are then reversed, left to right.
    """

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    def apply(self, array: np.ndarray) -> np.ndarray:
        """Turn an array from the file's order to the display's.

        Args:
            array: (H, W) or (H, W, C).

        Returns:
            A view, (H, W, ...) or (W, H, ...).
        """
        array = array.swapaxes(0, 1) if self.transpose else array
        return array[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]

    def undo(self, array: np.ndarray) -> np.ndarray:
        """Turn an array, such as an anomaly map, from the display's order back to the file's.

        Args:
            array: (H, W) or (H, W, C).

        Returns:
            A view.
        """
        array = array[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]
        return array.swapaxes(0, 1) if self.transpose else array


# The eight values of EXIF's tag 274, TIFF 6.0 section 8.
_EXIF = {
    1: Orientation(),
    2: Orientation(flip_columns=True),
    3: Orientation(flip_rows=True, flip_columns=True),
    4: Orientation(flip_rows=True),
    5: Orientation(transpose=True),
    6: Orientation(transpose=True, flip_columns=True),
    7: Orientation(transpose=True, flip_rows=True, flip_columns=True),
    8: Orientation(transpose=True, flip_rows=True),
}


def from_exif(value: int) -> Orientation:
    """Look up an orientation of EXIF or TIFF.

    Args:
        value: Value of tag 274.

    Returns:
        The orientation.

    Raises:
        ValueError: If the value is not in 1 to 8.
    """
    if value not in _EXIF:
        msg = f"orientation {value} is not one of EXIF's 1 to 8"
        raise ValueError(msg)
    return _EXIF[value]


def from_directions(right: Sequence[float], down: Sequence[float]) -> Orientation:
    """Find the orientation that turns a slice through a patient to radiological order.

    Axial slices are shown with the patient's left on the right and the back below, coronal ones with the left on the
    right and the feet below, sagittal ones with the back on the right and the feet below. An oblique slice takes the
    nearest of them.

    Args:
        right: Direction in which the column index grows, in DICOM's patient axes (left, posterior, superior).
        down: Direction in which the row index grows, in the same axes.

    Returns:
        The orientation.

    Raises:
        ValueError: If the directions are not finite or along one axis.
    """
    vectors = np.array([right, down], float)
    if vectors.shape != (2, 3) or not np.isfinite(vectors).all():
        msg = "the directions of rows and columns are not six finite numbers"
        raise ValueError(msg)
    across = int(np.abs(vectors[0]).argmax())
    # The second axis differs from the first, even if both directions are nearest to the same one.
    others = [axis for axis in range(3) if axis != across]
    along = max(others, key=lambda axis: abs(vectors[1, axis]))
    if vectors[0, across] == 0 or vectors[1, along] == 0:
        msg = "the directions of rows and columns are along one axis"
        raise ValueError(msg)
    # On the display, columns go to the left (axis 0) or, in a sagittal slice, to the back (1); rows to the back or
    # feet.
    transpose = across > along
    signs = {across: np.sign(vectors[0, across]), along: np.sign(vectors[1, along])}
    wanted = {0: 1, 1: 1, 2: -1}  # to the left, to the back, to the feet
    columns, rows = sorted((across, along))
    return Orientation(transpose, bool(signs[rows] != wanted[rows]), bool(signs[columns] != wanted[columns]))


def from_letters(right: str, down: str) -> Orientation:
    """Find the orientation of a projection, such as a radiograph: upright, a frontal one with the left on the right.

    Args:
        right: DICOM's letters of the direction in which the column index grows, such as L, R, A, P, H, F or PF.
        down: Letters of the direction in which the row index grows.

    Returns:
        The orientation; the identity for directions neither along nor across the body, such as a mammogram's.
    """
    right, down = right[:1].upper(), down[:1].upper()
    transpose = right in {"H", "F"} and down in {"L", "R", "A", "P"}
    if transpose:
        right, down = down, right
    if down not in {"H", "F"} or right not in {"L", "R", "A", "P"}:
        return Orientation()
    return Orientation(transpose, down == "H", right == "R")
