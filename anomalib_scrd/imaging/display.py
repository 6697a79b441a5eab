"""A picture for display, 8 bits, through the model's window."""

__all__ = ["display_image", "find_picture"]

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from anomalib_scrd.imaging.errors import UnreadableImageError
from anomalib_scrd.imaging.files import list_pictures, read_picture
from anomalib_scrd.imaging.picture import PictureInfo
from anomalib_scrd.imaging.preparation import Preparation
from anomalib_scrd.imaging.volumes import VolumeOptions
from anomalib_scrd.imaging.window import Window

_NUMBERED = re.compile(r"^(?P<stem>[^.]*)_(?P<index>\d{4,})(?P<suffix>\..*|)$")


def find_picture(name: str | Path, options: VolumeOptions | None = None) -> PictureInfo:
    """Find a picture by its name.

    Args:
        name: ``PictureInfo.name``: a path, with a number before the suffix if the file has several pictures.
        options: Options of volumes, for the plane; the defaults if None.

    Returns:
        The description of the picture.

    Raises:
        UnreadableImageError: If there is no such picture.
    """
    path = Path(name)
    everything = replace(options or VolumeOptions(), slices=(0.0, 1.0), skip_empty=False)
    match = None if path.is_file() else _NUMBERED.match(path.name)
    if match is None:
        return list_pictures(path, everything)[0]
    index = int(match["index"])
    for info in list_pictures(path.with_name(match["stem"] + match["suffix"]), everything):
        if info.index == index:
            return info
    raise UnreadableImageError.of(path, f"its file has no picture number {index}")


def display_image(name: str | Path, preparation: Preparation | None = None) -> np.ndarray:
    """Read a picture for display.

    Args:
        name: ``PictureInfo.name``.
        preparation: The model's preparation; None scales each picture from its smallest to its largest value, and
            leaves 8-bit ones unchanged.

    Returns:
        (H, W, 3), uint8, in the display's order, with the padding of ``preparation``, so that it has the extent of an
        anomaly map.

    Raises:
        UnreadableImageError: If the picture cannot be read.
    """
    options = None if preparation is None else preparation.volumes
    picture = read_picture(find_picture(name, options), options)
    if preparation is None:
        whole = picture.info.eight_bit
        preparation = Preparation(
            Window("values", eight_bit=(0.0, 255.0)) if whole else Window("each", percentiles=(0.0, 100.0))
        )
    return (preparation(picture).channels * 255).round().astype(np.uint8)
