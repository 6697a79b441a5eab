"""TIFF pages of more than 8 bits, read by tifffile: Pillow misreads some of them and does not support others."""

__all__ = ["check_planes", "is_signed", "is_tiff", "list_pages", "read_page"]

import json
import math
import re
from collections.abc import Callable, Iterator
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
_WIDTH, _LENGTH, _BITS, _COMPRESSION, _DESCRIPTION, _SAMPLES, _DEPTH = 256, 257, 258, 259, 270, 277, 32997
_SIGNED = 2
_GREY_AXES, _COLOUR_AXES = "YX", {"YXS", "SYX"}
_COLOUR = 3  # values per pixel
_RGB, _PALETTE, _YCBCR = 2, 3, 6


def is_tiff(path: Path) -> bool:
    """Whether a file starts with the mark of TIFF or BigTIFF.

    Args:
        path: The file.

    Returns:
        True for TIFF.
    """
    with path.open("rb") as file:
        return file.read(4) in _MARKS


def check_planes(path: Path, pages: int, tag: Callable[[int], Any]) -> None:
    """Refuse a file that stores a stack behind one page: ImageJ's large stacks, truncated ones of tifffile, 3-D tiles.

    Args:
        path: A TIFF file.
        pages: Number of its pages.
        tag: Looks up a value of the first page by the number of the tag; None if the page has no such tag.

    Raises:
        UnreadableImageError: If a page has a depth, or the description and the file's size tell of more pictures than
            pages.
    """
    planes = int(tag(_DEPTH) or 1)
    if planes == 1 and int(tag(_COMPRESSION) or 1) == 1:
        bits, samples = tag(_BITS), int(tag(_SAMPLES) or 1)
        values = int(tag(_WIDTH) or 0) * int(tag(_LENGTH) or 0) * samples
        described = _described(str(tag(_DESCRIPTION) or ""), values)
        size = values * int(max(bits) if isinstance(bits, tuple) else bits or 1) // 8
        # Other programs keep the description of a stack when they save one picture of it.
        planes = described if path.stat().st_size >= described * size else 1
    if planes > pages:
        reason = f"it has {planes} pictures and only {pages} pages for them: save every picture as a page"
        raise UnreadableImageError.of(path, reason)


def is_signed(sample_format: Any) -> bool:
    """Whether values are signed integers.

    Args:
        sample_format: Value of tag 339, None without.

    Returns:
        True for signed integers.
    """
    return _SIGNED in (sample_format if isinstance(sample_format, tuple) else (sample_format,))


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
        check_planes(path, len(pages), pages[0].tags.valueof)
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
    if axes not in {_GREY_AXES, *_COLOUR_AXES} or pixels.dtype.kind not in "uifb":
        raise UnreadableImageError.of(info.path, f"its page has the axes {axes} of {pixels.dtype} numbers")
    if axes in _COLOUR_AXES:  # without alpha
        pixels = np.moveaxis(pixels, 0, -1) if axes.startswith("S") else pixels
        values = pixels.shape[-1]
        if values > _COLOUR and photometric not in {_RGB, _YCBCR}:
            raise UnreadableImageError.of(info.path, f"its pixels have {values} values that are not RGB")
        pixels = pixels[..., :_COLOUR] if values >= _COLOUR else pixels[..., 0]
    if photometric == _PALETTE:
        raise UnreadableImageError.of(info.path, f"its {bits} bits are places in a palette: save its colours")
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


def _described(description: str, values: int) -> int:
    """Number of pictures by the description of ImageJ or tifffile; 1 by others."""
    if description.startswith("ImageJ="):
        found = re.search(r"^images=(\d+)", description, re.MULTILINE)
        return int(found[1]) if found else 1
    try:
        shape = json.loads(description)["shape"] if description.startswith('{"shape"') else ()
        return max(1, math.prod(int(side) for side in shape) // values)
    except (ValueError, TypeError, KeyError, ZeroDivisionError):
        return 1


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
