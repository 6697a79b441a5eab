"""TIFF pages of more than 8 bits, read by tifffile: Pillow misreads some of them and does not support others."""

__all__ = ["is_tiff", "list_pages", "read_page"]

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from anomalib_scrd.imaging.errors import UnreadableImageError, missing_package
from anomalib_scrd.imaging.orientation import from_exif
from anomalib_scrd.imaging.picture import Picture, PictureInfo, check_size

_MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_REDUCED = 1  # a smaller copy of another page
_EIGHT = 8


def is_tiff(path: Path) -> bool:
    """Whether a file starts with the mark of TIFF or BigTIFF.

    Args:
        path: The file.

    Returns:
        True for TIFF.
    """
    with path.open("rb") as file:
        return file.read(4) in _MARKS


def list_pages(path: Path) -> list[PictureInfo]:
    """List the full-sized pages.

    Args:
        path: A TIFF file.

    Returns:
        One entry per page.

    Raises:
        UnreadableImageError: If tifffile cannot read it.
    """
    with _open(path) as file:
        pages = list(file.pages)
        for page in pages:
            check_size(path, page.imagelength, page.imagewidth)
        return [
            PictureInfo(
                path,
                index,
                len(pages),
                eight_bit=page.dtype == np.uint8 and page.bitspersample <= _EIGHT,
                volume=str(path) if len(pages) > 1 else "",
            )
            for index, page in enumerate(pages)
            if not int(page.subfiletype) & _REDUCED
        ]


def read_page(info: PictureInfo) -> Picture:
    """Read a page.

    Args:
        info: An entry of ``list_pages``.

    Returns:
        The picture, turned by its orientation tag, and inverted if white is zero.

    Raises:
        UnreadableImageError: If it cannot be decoded.
    """
    with _open(info.path) as file:
        page = file.pages[info.index]
        pixels = page.asarray()
        axes, bits, photometric = page.axes, int(page.bitspersample), page.photometric
        value = int(page.tags.valueof(274, 1))
        resolution = [page.tags.valueof(tag, (1, 1)) for tag in (282, 283)]
    if axes.startswith("S"):
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.ndim == 3:  # noqa: PLR2004 - without alpha
        pixels = pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., 0]  # noqa: PLR2004
    if pixels.ndim not in {2, 3} or pixels.dtype.kind not in "uifb":
        raise UnreadableImageError.of(info.path, f"its page has {pixels.ndim} dimensions of {pixels.dtype}")
    if photometric is not None and int(photometric) == 0:  # white is zero
        pixels = (2**bits - 1) - pixels.astype(np.int64) if pixels.dtype.kind == "u" else -pixels.astype(np.float64)
    try:
        orientation = from_exif(value)
    except ValueError as error:
        raise UnreadableImageError.of(info.path, str(error)) from None
    across, down = (top / bottom if bottom else 0 for top, bottom in resolution)
    spacing = (1 / down, 1 / across) if across > 0 and down > 0 and across != down else (1.0, 1.0)
    return Picture(
        np.ascontiguousarray(orientation.apply(pixels), pixels.dtype.newbyteorder("=")),
        info,
        orientation=orientation,
        spacing=spacing[::-1] if orientation.transpose else spacing,
    )


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """The opened file, whose pages are read later; errors are raised as errors of the file."""
    try:
        import tifffile
    except ImportError:
        raise missing_package(path, "tifffile") from None
    try:
        with tifffile.TiffFile(path) as file:
            yield file
    except UnreadableImageError:
        raise
    except Exception as error:  # noqa: BLE001 - damaged files raise all kinds
        raise UnreadableImageError.of(path, f"it is damaged or of a rare kind ({error})") from None
