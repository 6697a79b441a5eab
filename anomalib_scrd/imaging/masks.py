"""Masks of anomalous pictures, in the same formats as pictures."""

__all__ = ["read_mask"]

from dataclasses import replace
from pathlib import Path

import numpy as np

from anomalib_scrd.imaging import files
from anomalib_scrd.imaging.errors import UnreadableImageError, reading
from anomalib_scrd.imaging.orientation import Orientation
from anomalib_scrd.imaging.picture import PictureInfo
from anomalib_scrd.imaging.volumes import VolumeOptions, matching_slice


def read_mask(
    path: Path,
    info: PictureInfo,
    options: VolumeOptions | None = None,
    orientation: Orientation | None = None,
) -> np.ndarray:
    """Read the mask of a picture.

    Args:
        path: The mask's file. It has as many pictures as the image's file, in the same order; a volume whose axes have
            other directions than those of the image's volume is matched by the place of its slices.
        info: The picture.
        options: Options of volumes that the picture was listed with.
        orientation: The picture's orientation. A mask without its own orientation, such as a PNG, is in the order of
            the picture's file and is turned like the picture.

    Returns:
        (H, W) bool in the display's order, true where the mask is above 0.

    Raises:
        UnreadableImageError: If the mask cannot be read, or has another number of pictures than the image, or is a
            volume in another order and at another place.
    """
    everything = replace(options or VolumeOptions(), slices=(0.0, 1.0), skip_empty=False)
    infos = files.list_pictures(path, everything)
    if len(infos) != info.count:
        reason = f"this mask has {len(infos)} pictures, its image {str(info.path)!r} has {info.count}"
        raise UnreadableImageError.of(path, reason)
    index = info.index
    if files.is_volume(path) and files.is_volume(info.path):
        with reading(path):
            index = matching_slice(path, info, everything.plane)
    picture = files.read_unchecked(infos[index], everything)
    pixels = picture.pixels if picture.pixels.ndim == 2 else picture.pixels.max(axis=-1)  # noqa: PLR2004
    if orientation is not None and not files.has_geometry(path):
        pixels = orientation.apply(picture.orientation.undo(pixels))
    return pixels > 0
