"""Checks of image files before anomalib's reader opens them: broken files, and depths that it would reduce."""

__all__ = ["check_images", "files_for_anomalib", "undecodable"]

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image

from anomalib_scrd.data.unreadable_files import PILLOW_ERRORS, UnreadableImageError
from anomalib_scrd.imaging.pillow import bits_of, exif_orientation

logger = logging.getLogger(__name__)

_SHOWN = 5
_WORKERS = 8
_EIGHT = 8
# Modules of the data sets whose images anomalib's `read_image` reads. Subclasses that override `__getitem__` have their
# own readers.
_READ_BY_ANOMALIB = (
    "anomalib.data.datasets.base.image",
    "anomalib.data.datasets.base.depth",
    "anomalib.data.datasets.image.",
    "anomalib.data.predict",
    "anomalib.data.utils.synthetic",
)


def files_for_anomalib(datasets: Iterable[Any], columns: Iterable[str] = ("image_path", "mask_path")) -> list[str]:
    """List the files that anomalib's reader will open for some data sets.

    Args:
        datasets: Data sets of any kind; those with their own reader are skipped, because Pillow may be unable to open
            their files.
        columns: Columns of their tables: ``image_path`` and ``mask_path``.

    Returns:
        Each file once.
    """
    files: dict[str, None] = {}
    for dataset in datasets:
        reader = getattr(type(dataset), "__getitem__", None)
        if not getattr(reader, "__module__", "").startswith(_READ_BY_ANOMALIB):
            continue
        samples = getattr(dataset, "_samples", None)  # the public property raises if there are none
        paths = [] if samples is None else [samples[name] for name in columns if name in samples]
        for column in (*paths, getattr(dataset, "image_filenames", ())):
            files |= dict.fromkeys(str(path) for path in column if isinstance(path, (str, Path)) and str(path))
    return list(files)


def check_images(images: Iterable[str | Path], masks: Iterable[str | Path] = ()) -> None:
    """Open the header of every file, so that broken files are reported before the training.

    Pixels are not decoded: a truncated image passes, and is reported when it is read.

    Args:
        images: Image files that anomalib's ``read_image`` will read as 8-bit RGB.
        masks: Files of masks, which may have any depth.

    Raises:
        UnreadableImageError: If files cannot be opened as images, or have more than 8 bits per channel, which would be
            clipped or reduced; the message has their number and the first of them.
    """
    images = list(images)
    broken = _each([*images, *masks], _header_error)
    if broken:
        raise UnreadableImageError(_listed(f"{len(broken)} files cannot be read as images", broken))
    deep = _each(images, _depth)
    if deep:
        msg = _listed(f"{len(deep)} images have more than 8 bits per channel", deep)
        msg += (
            ". anomalib's reader reduces them to 8 bits, and most of their content to white or black: "
            "read them with MedicalFolder (--data MedicalFolder), which keeps their depth"
        )
        raise UnreadableImageError(msg)
    turned = _each(images, _orientation)
    if turned:
        logger.warning(
            "%s. anomalib's reader ignores it; MedicalFolder turns the images",
            _listed(f"{len(turned)} images have an EXIF orientation", turned),
        )


def undecodable(paths: Iterable[str | Path]) -> str | None:
    """Decode files to find the broken ones.

    Args:
        paths: Image files.

    Returns:
        A message with the number of broken files, and the first of them with the reasons; None if there are none.
    """
    broken = _each(paths, _decoding_error)
    return _listed(f"{len(broken)} files cannot be read as images", broken) if broken else None


def _each(paths: Iterable[str | Path], look: Callable[[str | Path], str | None]) -> list[str]:
    """Path and finding of each file for which ``look`` finds anything."""
    with ThreadPoolExecutor(_WORKERS) as pool:
        paths = list(paths)
        found = zip(paths, pool.map(look, paths), strict=True)
        return [f"{str(path)!r} ({finding})" for path, finding in found if finding]


def _listed(what: str, findings: list[str]) -> str:
    more = " ..." if len(findings) > _SHOWN else ""
    return f"{what}: {', '.join(findings[:_SHOWN])}{more}"


def _header_error(path: str | Path) -> str | None:
    try:
        with Image.open(path):
            return None
    except PILLOW_ERRORS as error:
        empty = Path(path).is_file() and Path(path).stat().st_size == 0
        return "empty file" if empty else type(error).__name__


def _decoding_error(path: str | Path) -> str | None:
    try:
        with Image.open(path) as image:
            image.load()
            return None
    except PILLOW_ERRORS as error:
        empty = Path(path).is_file() and Path(path).stat().st_size == 0
        return "empty file" if empty else str(error)


def _depth(path: str | Path) -> str | None:
    with Image.open(path) as image:
        return f"{bits_of(image)} bits, mode {image.mode}" if bits_of(image) > _EIGHT else None


def _orientation(path: str | Path) -> str | None:
    with Image.open(path) as image:
        value = exif_orientation(image)
        return None if value == 1 else f"orientation {value}"
