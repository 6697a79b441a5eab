"""Files of maps and overlays: each appears under its name only when it is complete."""

__all__ = ["MAP_KINDS", "read_map", "write_map", "write_overlay"]

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from anomalib_scrd.imaging import Orientation
from anomalib_scrd.imaging.orientation import from_exif

MAP_KINDS = ("tiff", "npz")
_ORIENTATION = 274
_EXIF_VALUES = {from_exif(value): value for value in range(1, 9)}
_QUALITY = 90


def write_map(path: Path, partial: Path, anomaly_map: np.ndarray, orientation: Orientation) -> None:
    """Write an anomaly map: a TIFF file of float32, or an NPZ file with ``anomaly_map``.

    Args:
        path: The file; its suffix, .tiff or .npz, is the format.
        partial: Temporary path in the same file system.
        anomaly_map: (H, W) float32 in the file's order of rows and columns.
        orientation: Orientation for display, for TIFF's tag.

    Raises:
        OSError: If it cannot be written.
    """
    if path.suffix == ".npz":
        _write(path, partial, lambda file: np.savez(file, anomaly_map=anomaly_map))
    else:
        picture = Image.fromarray(np.ascontiguousarray(anomaly_map, np.float32))
        tags = {_ORIENTATION: _EXIF_VALUES[orientation]}
        _write(path, partial, lambda file: picture.save(file, "TIFF", tiffinfo=tags))


def read_map(path: Path) -> np.ndarray:
    """Read a map.

    Args:
        path: A file written by :func:`write_map`.

    Returns:
        (H, W) float32 in the file's order of rows and columns.

    Raises:
        OSError: If it cannot be read.
    """
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return np.asarray(arrays["anomaly_map"], np.float32)
    with Image.open(path) as picture:
        orientation = from_exif(picture.getexif().get(_ORIENTATION, 1))
        return np.asarray(orientation.undo(np.asarray(picture, np.float32)))  # Pillow applies the orientation


def write_overlay(path: Path, partial: Path, overlay: np.ndarray, orientation: Orientation) -> None:
    """Write a picture with its map as JPEG, with an EXIF tag for its orientation.

    Args:
        path: The file.
        partial: Temporary path in the same file system.
        overlay: (H, W, 3) uint8 in the file's order of rows and columns.
        orientation: Orientation for display, for the EXIF tag.

    Raises:
        OSError: If it cannot be written.
    """
    exif = Image.Exif()
    exif[_ORIENTATION] = _EXIF_VALUES[orientation]
    picture = Image.fromarray(np.ascontiguousarray(overlay))
    _write(path, partial, lambda file: picture.save(file, "JPEG", quality=_QUALITY, exif=exif))


def _write(path: Path, partial: Path, write: Callable[..., object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("wb") as file:
        write(file)
    partial.replace(path)
