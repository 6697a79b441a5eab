"""Files that Pillow opens (PNG, JPEG, BMP, TIFF, ...), in their own depth."""

__all__ = ["bits_of", "exif_orientation", "list_images", "read_image", "read_single"]

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from anomalib_scrd.imaging import tiff
from anomalib_scrd.imaging.errors import UnreadableImageError
from anomalib_scrd.imaging.orientation import from_exif
from anomalib_scrd.imaging.picture import Picture, PictureInfo, check_size

_ORIENTATION, _BITS, _SUBFILE, _FORMAT = 274, 258, 254, 339
_REDUCED = 1  # a smaller copy of another page
_GREY_MODES = {"1", "L", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"}
_EIGHT = 8
_LARGEST = 255  # of 8 bits
_JPEG2000 = "JPEG2000"
_SIZ = b"\xff\x4f\xff\x51"  # begins the code stream, with its sizes and depths
_HEAD = 2**20
_UNKNOWN = "it is not an image file of a known format"
# Errors of Pillow for a file that is not an image, is truncated or damaged.
_ERRORS = (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, OverflowError, MemoryError)


def list_images(path: Path) -> list[PictureInfo]:
    """List the pictures of a file: one, or the full-sized pages of a TIFF file.

    Args:
        path: The file.

    Returns:
        One entry per picture.

    Raises:
        UnreadableImageError: If it is not an image.
    """
    try:
        with _open(path) as image:
            if image.format != "TIFF":
                return [PictureInfo(path, eight_bit=bits_of(image) <= _EIGHT)]
            infos = []
            tiff.check_planes(path, image.n_frames, image.tag_v2.get)
            for index in range(image.n_frames):
                image.seek(index)
                if not image.tag_v2.get(_SUBFILE, 0) & _REDUCED:
                    volume = str(path) if image.n_frames > 1 else ""
                    # Pillow reads signed numbers of 8 bits as unsigned ones.
                    eight_bit = bits_of(image) <= _EIGHT and not tiff.is_signed(image.tag_v2.get(_FORMAT))
                    infos.append(PictureInfo(path, index, image.n_frames, eight_bit, volume=volume))
            return infos
    except UnreadableImageError:
        if path.is_file() and tiff.is_tiff(path):  # a kind that Pillow does not support
            return tiff.list_pages(path)
        raise


def read_image(info: PictureInfo) -> Picture:
    """Read one picture, turned by its EXIF or TIFF orientation.

    Args:
        info: An entry of ``list_images``.

    Returns:
        The picture.

    Raises:
        UnreadableImageError: If it cannot be decoded.
    """
    if not info.eight_bit and tiff.is_tiff(info.path):
        return tiff.read_page(info)
    with _open(info.path) as image:
        image.seek(info.index)
        return _decoded(image, info)


def read_single(path: Path) -> Picture:
    """Read the picture of a file other than TIFF in one pass over the file.

    Args:
        path: The file.

    Returns:
        Same as :func:`read_image` for the one entry of :func:`list_images`.

    Raises:
        UnreadableImageError: If it is not an image or cannot be decoded.
    """
    with _open(path) as image:
        return _decoded(image, PictureInfo(path, eight_bit=bits_of(image) <= _EIGHT))


def _decoded(image: Any, info: PictureInfo) -> Picture:
    """The picture of an opened image at its current page."""
    # Before the pixels are decoded: decoding drops the file's own depth and turns TIFF files.
    bits = bits_of(image)
    is_tiff = image.format == "TIFF"
    orientation = from_exif(exif_orientation(image)) if is_tiff else None
    spacing = _spacing(image)
    if bits > _EIGHT and image.mode not in _GREY_MODES:
        pixels = _deep_colour(info.path, image)
    elif image.mode in _GREY_MODES - {"1"}:
        largest = _largest(image)
        shift = _stretching(info.path, image) if image.format == _JPEG2000 else 0
        pixels = np.asarray(image) >> shift if shift else np.asarray(image)
        if largest is not None and largest > _LARGEST:  # Pillow stretches all numbers to 16 bits
            pixels = np.rint(pixels * (largest / 65535)).astype(np.int32)
    else:
        pixels = np.asarray(image.convert("L" if image.mode in {"1", "LA", "La"} else "RGB"))
    if orientation is None:
        orientation = from_exif(int(image.getexif().get(_ORIENTATION, 1) or 1))
        pixels = orientation.apply(pixels)
    return Picture(
        np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("=")),
        info,
        orientation=orientation,
        spacing=spacing[::-1] if orientation.transpose else spacing,
    )


def exif_orientation(image: Any) -> int:
    """Look up the orientation by EXIF without decoding the pixels.

    Args:
        image: An opened image.

    Returns:
        Value of tag 274; 1, which is upright, if there is none, or if a PNG file has it after the pixels.
    """
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    return int(image.getexif().get(_ORIENTATION, 1) or 1)


def bits_of(image: Any) -> int:
    """Look up the bits per channel in the file, which Pillow's mode does not always show.

    Args:
        image: An opened image whose pixels have not been decoded.

    Returns:
        The number of bits.
    """
    tags = getattr(image, "tag_v2", None)
    if tags is not None:
        return int(max(tags.get(_BITS, (1,))))
    if image.format == _JPEG2000:
        return max((bits for bits, _ in _components(image)), default=_EIGHT)
    if image.mode in _GREY_MODES:
        return {"1": 1, "L": 8, "I": 32, "F": 32}.get(image.mode, 16)
    return 16 if ";16" in _raw_mode(image) or (_largest(image) or 0) > _LARGEST else 8


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """The opened file, after a check of its size; errors are raised as errors of the file."""
    try:
        if path.stat().st_size == 0:
            raise UnreadableImageError.of(path, "the file is empty")
        # From a path, Pillow maps some TIFF files into memory, and scrambles those with an orientation.
        with path.open("rb") as file, Image.open(file) as image:
            if isinstance(image, ImageFile.StubImageFile):  # HDF5, GRIB, BUFR: Pillow has a mark of theirs, no reader
                raise UnreadableImageError.of(path, _UNKNOWN)
            check_size(path, image.height, image.width)
            yield image
    except UnreadableImageError:
        raise
    except FileNotFoundError:
        raise UnreadableImageError.of(path, "there is no such file") from None
    except Image.DecompressionBombError:
        raise UnreadableImageError.of(path, "its header declares more pixels than Pillow reads") from None
    except Image.UnidentifiedImageError:
        raise UnreadableImageError.of(path, _UNKNOWN) from None
    except _ERRORS as error:
        raise UnreadableImageError.of(path, f"it is damaged ({error or type(error).__name__})") from None


def _deep_colour(path: Path, image: Any) -> np.ndarray:
    """(H, W, 3) of 16 bits."""
    raw = _raw_mode(image)
    if image.format != "PNG" or raw not in {"RGB;16B", "RGBA;16B"}:
        layout = raw if image.format == "PNG" else image.mode
        reason = f"{image.format} of {bits_of(image)} bits in the layout {layout}: save it as TIFF"
        raise UnreadableImageError.of(path, reason)
    # Pillow reads one byte of each channel at a time, chosen by the raw mode.
    high, low = (_with_raw_mode(path, raw[:-1] + order) for order in "BL")
    return (high.astype(np.uint16) << 8) | low


def _raw_mode(image: Any) -> str:
    """Layout of the pixels in the file, "" once they are decoded."""
    raw = image.tile[0][3] if getattr(image, "tile", None) else ""
    raw = raw[0] if isinstance(raw, tuple) and raw else raw
    return raw if isinstance(raw, str) else ""


def _largest(image: Any) -> int | None:
    """The number of white in the header of a PGM or PPM file, if Pillow stretches its numbers; otherwise None."""
    args: Any = image.tile[0][3] if image.format == "PPM" and getattr(image, "tile", None) else None
    stretched = isinstance(args, tuple) and len(args) == 2 and isinstance(args[1], int)  # noqa: PLR2004
    return int(args[1]) if stretched else None


def _components(image: Any) -> list[tuple[int, bool]]:
    """Bits of each component of a JPEG 2000 file, and whether its numbers are signed; Pillow keeps neither."""
    place = image.fp.tell()
    image.fp.seek(0)
    head = image.fp.read(_HEAD)
    image.fp.seek(place)
    start = head.find(_SIZ) + len(_SIZ)
    if start < len(_SIZ):
        return []
    count = int.from_bytes(head[start + 36 : start + 38], "big")
    depths = head[start + 38 : start + 38 + 3 * count : 3]
    return [((depth & 0x7F) + 1, depth > 0x7F) for depth in depths]  # noqa: PLR2004


def _stretching(path: Path, image: Any) -> int:
    """Bits by which Pillow shifts the numbers of a grey JPEG 2000 file, to fill 16 bits."""
    bits, signed = next(iter(_components(image)), (_EIGHT, False))
    if signed or bits > 2 * _EIGHT:
        kind = "signed" if signed else "unsigned"
        raise UnreadableImageError.of(path, f"JPEG 2000 of {kind} numbers of {bits} bits: save it as TIFF")
    return 2 * _EIGHT - bits if bits > _EIGHT else 0


def _with_raw_mode(path: Path, raw_mode: str) -> np.ndarray:
    with Image.open(path) as image:
        image.tile = [tile._replace(args=raw_mode) for tile in image.tile]
        return np.asarray(image)[..., :3]


def _spacing(image: Any) -> tuple[float, float]:
    """Height and width of a pixel, relative to each other."""
    resolution = image.info.get("dpi") or image.info.get("aspect")
    try:
        across, down = (float(value) for value in resolution)
    except (TypeError, ValueError):
        return 1.0, 1.0
    return (1 / down, 1 / across) if across > 0 and down > 0 and across != down else (1.0, 1.0)
