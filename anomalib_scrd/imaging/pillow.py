"""Files that Pillow opens (PNG, JPEG, BMP, TIFF, ...), in their own depth."""

__all__ = ["bits_of", "exif_orientation", "list_images", "read_image"]

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anomalib_scrd.imaging.errors import UnreadableImageError, missing_package
from anomalib_scrd.imaging.orientation import from_exif
from anomalib_scrd.imaging.picture import Picture, PictureInfo, check_size

_ORIENTATION, _PHOTOMETRIC, _BITS, _SUBFILE = 274, 262, 258, 254
_GREY_MODES = {"1", "L", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"}
# What Pillow raises for a file that is no image, is cut short or broken inside.
_ERRORS = (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, OverflowError, MemoryError)


def list_images(path: Path) -> list[PictureInfo]:
    """List the pictures of a file: one, or the full-sized pages of a TIFF file.

    Args:
        path: The file.

    Returns:
        One entry per picture.

    Raises:
        UnreadableImageError: If it is no image.
    """
    with _open(path) as image:
        count = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
        infos = []
        for index in range(count):
            if count > 1:
                image.seek(index)
                if image.tag_v2.get(_SUBFILE, 0) & 1:  # a smaller copy of another page
                    continue
            infos.append(PictureInfo(path, index, count, _eight_bit(image)))
        return infos if len(infos) != 1 or count == 1 else [replace(infos[0], index=infos[0].index)]


def read_image(info: PictureInfo) -> Picture:
    """Read one picture, turned as EXIF or TIFF says.

    Args:
        info: An entry of ``list_images``.

    Returns:
        The picture.

    Raises:
        UnreadableImageError: If it cannot be decoded.
    """
    path = info.path
    with _open(path) as image:
        try:
            image.seek(info.index)
            tags = getattr(image, "tag_v2", {})
            try:
                orientation = from_exif(int(image.getexif().get(_ORIENTATION, 1) or 1))
            except ValueError as error:
                raise UnreadableImageError.of(path, str(error)) from None
            spacing = _spacing(image)
            bits = bits_of(image)
            grey = image.mode in _GREY_MODES
            turned = image.format == "TIFF"  # Pillow turns TIFF files when it decodes them, and no others
            if not grey and bits > 8:  # noqa: PLR2004 - Pillow would cut them to 8
                pixels, turned = _deep_colour(image, info), False
            elif image.format == "TIFF" and image.mode == "I;16" and bits not in {12, 16}:
                pixels, turned = _through_tifffile(info), False
            elif grey:
                pixels = np.asarray(image.convert("L") if image.mode == "1" else image)
            elif image.mode in {"LA", "La"}:
                pixels = np.asarray(image.convert("L"))
            else:
                pixels = np.asarray(image.convert("RGB"))
            white_is_zero = tags.get(_PHOTOMETRIC) == 0 and image.mode not in {"1", "L", "P"}
        except UnreadableImageError:
            raise
        except (*_ERRORS, Image.DecompressionBombError) as error:
            raise UnreadableImageError.of(path, _reason(error)) from None
    if pixels.dtype.byteorder == ">":
        pixels = pixels.astype(pixels.dtype.newbyteorder("="))
    if white_is_zero:
        pixels = (2**bits - 1) - pixels.astype(np.int64) if pixels.dtype.kind in "ui" else -pixels
    pixels = pixels if turned else orientation.apply(pixels)
    return Picture(
        np.ascontiguousarray(pixels),
        info,
        orientation=orientation,
        spacing=spacing[::-1] if orientation.transpose else spacing,
    )


def _open(path: Path) -> Any:
    """The opened file, whose size has been checked."""
    try:
        if path.stat().st_size == 0:
            raise UnreadableImageError.of(path, "the file is empty")
        image = Image.open(path)
    except UnreadableImageError:
        raise
    except FileNotFoundError:
        raise UnreadableImageError.of(path, "there is no such file") from None
    except Image.DecompressionBombError:
        raise UnreadableImageError.of(path, "its header claims more pixels than Pillow reads") from None
    except Image.UnidentifiedImageError:
        raise UnreadableImageError.of(path, "it is no image file of a known format") from None
    except _ERRORS as error:
        raise UnreadableImageError.of(path, _reason(error)) from None
    try:
        check_size(path, image.height, image.width)
    except UnreadableImageError:
        image.close()
        raise
    return image


def _reason(error: BaseException) -> str:
    return f"it is damaged ({error or type(error).__name__})"


def exif_orientation(image: Any) -> int:
    """Look up the orientation by EXIF without decoding the pixels.

    Args:
        image: An opened image.

    Returns:
        Value of tag 274; 1, which is upright, where there is none, or a PNG file has it behind the pixels.
    """
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    return int(image.getexif().get(_ORIENTATION, 1) or 1)


def bits_of(image: Any) -> int:
    """Look up the bits of a channel in the file, which Pillow's mode does not always tell.

    Args:
        image: An opened image.

    Returns:
        The number of bits.
    """
    tags = getattr(image, "tag_v2", None)
    if tags is not None:
        return max(tags.get(_BITS, (1,)))
    if image.mode in _GREY_MODES:
        return {"1": 1, "L": 8, "I": 32, "F": 32}.get(image.mode, 16)
    raw = image.tile[0][3] if getattr(image, "tile", None) else ""
    raw = raw[0] if isinstance(raw, tuple) else raw
    return 16 if isinstance(raw, str) and ";16" in raw else 8


def _eight_bit(image: Any) -> bool:
    return bits_of(image) <= 8 and image.mode not in {"I", "F"}  # noqa: PLR2004


def _deep_colour(image: Any, info: PictureInfo) -> np.ndarray:
    """(H, W, 3) of more than 8 bits."""
    if image.format == "TIFF":
        return _through_tifffile(info)
    if image.format != "PNG" or image.mode not in {"RGB", "RGBA"}:
        raise UnreadableImageError.of(info.path, f"{image.format} of mode {image.mode} and 16 bits: save it as TIFF")
    # Pillow gives one byte of each channel at a time, and says which by the raw mode.
    high, low = (_with_raw_mode(info.path, f"{image.mode};16{order}") for order in "BL")
    return (high.astype(np.uint16) << 8) | low


def _with_raw_mode(path: Path, raw_mode: str) -> np.ndarray:
    with Image.open(path) as image:
        image.tile = [tile._replace(args=raw_mode) for tile in image.tile]
        return np.asarray(image)[..., :3]


def _through_tifffile(info: PictureInfo) -> np.ndarray:
    try:
        import tifffile
    except ImportError:
        raise missing_package(info.path, "tifffile") from None
    try:
        with tifffile.TiffFile(info.path) as file:
            page = file.pages[info.index]
            pixels = page.asarray()
            planar = page.axes.startswith("S")
    except Exception as error:  # noqa: BLE001 - damaged files raise all kinds
        raise UnreadableImageError.of(info.path, f"tifffile cannot read it ({error})") from None
    pixels = np.moveaxis(pixels, 0, -1) if planar and pixels.ndim == 3 else pixels  # noqa: PLR2004
    if pixels.ndim == 3:  # noqa: PLR2004 - without alpha
        return pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., 0]  # noqa: PLR2004
    return pixels


def _spacing(image: Any) -> tuple[float, float]:
    """Height and width of a pixel, relative to each other."""
    resolution = image.info.get("dpi") or image.info.get("aspect")
    try:
        across, down = (float(value) for value in resolution)
    except (TypeError, ValueError):
        return 1.0, 1.0
    return (1 / down, 1 / across) if across > 0 and down > 0 and across != down else (1.0, 1.0)
