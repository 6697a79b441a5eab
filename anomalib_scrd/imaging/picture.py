"""One 2-D picture of a file in its native depth, and its attributes."""

__all__ = ["MAX_PIXELS", "Picture", "PictureInfo", "check_pixels", "check_size"]

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from anomalib_scrd.imaging.errors import UnreadableImageError
from anomalib_scrd.imaging.orientation import Orientation
from anomalib_scrd.imaging.voi import ValueOfInterest

MAX_PIXELS = 2**28
"""Largest number of pixels of a picture that is read, 16,384 x 16,384: headers with more are assumed to be damaged."""


@dataclass(frozen=True)
class PictureInfo:
    """Source of a picture, from the headers only.

    Args:
        path: The file.
        index: Number of the picture in the file: frame of a DICOM or TIFF file, slice of a volume.
        count: Number of pictures of the file, including skipped ones.
        eight_bit: Whether its values are ready for display: 8 bits, black at 0 and white at 255.
        patient: Identifier of the patient in the header, "" without one. It must not be written to outputs: see
            ``patients``.
        volume: Identifier of the series or volume, "" without one. It must not be written to outputs.
    """

    path: Path
    index: int = 0
    count: int = 1
    eight_bit: bool = True
    patient: str = field(default="", repr=False)
    volume: str = field(default="", repr=False)

    @property
    def name(self) -> str:
        """The file's path, with the number of the picture before the suffix if the file has several."""
        if self.count == 1:
            return str(self.path)
        stem, dot, suffix = self.path.name.partition(".")
        digits = max(4, len(str(self.count - 1)))
        return str(self.path.with_name(f"{stem}_{self.index:0{digits}d}{dot}{suffix}"))


@dataclass(frozen=True)
class Picture:
    """A picture in the display's order.

    Args:
        pixels: (H, W) or, in colour, (H, W, 3); integers or floats in the file's native depth, after DICOM's modality
            transformation, and with MONOCHROME1 inverted: larger values are brighter.
        info: Its source.
        valid: (H, W) bool, False at pixel padding; None without padding.
        orientation: Transformation from the file's order to the display's.
        spacing: Height and width of a pixel in any one unit; (1, 1) if the file has none.
        voi: Windows and tables that the file recommends for display, in the file's order.
        mirror: Sum of an inverted value and the stored one, for ``voi``; None if nothing was inverted.
    """

    pixels: np.ndarray
    info: PictureInfo
    valid: np.ndarray | None = None
    orientation: Orientation = field(default_factory=Orientation)
    spacing: tuple[float, float] = (1.0, 1.0)
    voi: tuple[ValueOfInterest, ...] = ()
    mirror: float | None = None

    @property
    def values(self) -> np.ndarray:
        """The pixels without padding, as a vector."""
        return self.pixels.reshape(-1) if self.valid is None else self.pixels[self.valid].reshape(-1)


def check_pixels(picture: Picture) -> Picture:
    """Refuse a picture without content.

    Args:
        picture: The picture.

    Returns:
        The same picture.

    Raises:
        UnreadableImageError: If it has no pixels, pixels that are not finite, or all pixels are equal.
    """
    path, values = picture.info.path, picture.values
    if values.size == 0:
        raise UnreadableImageError.of(path, "it has no pixels")
    if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
        share = 1 - np.isfinite(values).mean()
        raise UnreadableImageError.of(path, f"{share:.1%} of the pixels are NaN or infinite")
    if values.min() == values.max():
        raise UnreadableImageError.of(path, f"all pixels are equal ({values[0]})")
    return picture


def check_size(path: Path, height: int, width: int) -> None:
    """Refuse a size before the pixels are decoded.

    Args:
        path: The file.
        height: Height in pixels.
        width: Width in pixels.

    Raises:
        UnreadableImageError: If there are no pixels, or more than ``MAX_PIXELS``.
    """
    if height < 1 or width < 1:
        raise UnreadableImageError.of(path, f"it has no pixels ({height} x {width})")
    if height * width > MAX_PIXELS:
        reason = f"{height} x {width} pixels are more than the {MAX_PIXELS:,} that are read"
        raise UnreadableImageError.of(path, reason)
