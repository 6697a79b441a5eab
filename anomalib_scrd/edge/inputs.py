"""Reads files and prepares them for the model by the metadata of the export."""

__all__ = ["Inputs", "preparation_of"]

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from anomalib_scrd.edge.facts import ModelFacts
from anomalib_scrd.edge.resizing import resize
from anomalib_scrd.imaging import (
    Orientation,
    PictureInfo,
    Preparation,
    Prepared,
    UnreadableImageError,
    VolumeOptions,
    Window,
    list_pictures,
    pictures_of,
    read_picture,
)


class Inputs:
    """Reads files for a model.

    Args:
        facts: Metadata of the model.
        size: (height, width) of the model's input, None for any.

    Raises:
        ValueError: If a newer version wrote the metadata.
    """

    def __init__(self, facts: ModelFacts, size: tuple[int, int] | None) -> None:
        self._preparation = preparation_of(facts)
        self._size = size

    def pictures(self, path: Path) -> list[PictureInfo]:
        """List the pictures of a file.

        Args:
            path: The file.

        Returns:
            One entry per picture.

        Raises:
            UnreadableImageError: If it cannot be read.
        """
        with _named(path):
            return list_pictures(path, self._preparation.volumes)

    def read(self, info: PictureInfo) -> Prepared:
        """Read a picture.

        Args:
            info: An entry of :meth:`pictures`.

        Returns:
            The picture, windowed and padded.

        Raises:
            UnreadableImageError: If it cannot be read, or the training had no pictures of its depth.
        """
        with _named(info.path):
            return self._preparation(read_picture(info, self._preparation.volumes))

    def all_of(self, path: Path) -> Iterator[tuple[PictureInfo, int, Prepared]]:
        """Read the pictures of a file, one after the other; a file with one picture is parsed once.

        Args:
            path: The file.

        Yields:
            Entry of the picture, number of pictures of the file, and the picture, windowed and padded.

        Raises:
            UnreadableImageError: See :meth:`read`.
        """
        with _named(path):
            for picture, count in pictures_of(path, self._preparation.volumes):
                yield picture.info, count, self._preparation(picture)

    @property
    def volumes(self) -> VolumeOptions:
        """Slices that are taken from a volume."""
        return self._preparation.volumes

    def shown(self, info: PictureInfo) -> tuple[np.ndarray, Orientation]:
        """Read a picture for display: windowed, without padding.

        Args:
            info: An entry of :meth:`pictures`.

        Returns:
            (H, W) or (H, W, 3) float32 in [0, 1] in the display's order, and its orientation.

        Raises:
            UnreadableImageError: See :meth:`read`.
        """
        with _named(info.path):
            picture = read_picture(info, self._preparation.volumes)
            return self._preparation.window.apply(picture), picture.orientation

    def fitted(self, prepared: Prepared) -> np.ndarray:
        """Resize a picture to the model's input.

        Args:
            prepared: Picture of :meth:`read`.

        Returns:
            (H, W) or (H, W, 3) float32 in [0, 1].
        """
        return prepared.image if self._size is None else resize(prepared.image, self._size)


def preparation_of(facts: ModelFacts) -> Preparation:
    """Preparation of files for a model.

    Args:
        facts: Metadata of the model.

    Returns:
        The preparation; without one in the metadata, 8-bit pictures are used unchanged and deeper ones are refused.

    Raises:
        ValueError: If a newer version wrote it, or it is damaged.
    """
    if facts.window is None:
        return Preparation(Window("values", eight_bit=(0.0, 255.0)))
    try:
        return Preparation.from_dict(facts.window)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        msg = f"the window in the model's metadata is damaged ({type(error).__name__}): {facts.window!r}"
        raise ValueError(msg) from None


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Name the file in a reader's errors, with only the type of the error, whose text may quote the file."""
    try:
        yield
    except UnreadableImageError:
        raise
    except Exception as error:  # noqa: BLE001 - one file of thousands must not end the run
        raise UnreadableImageError.of(path, f"its reader fails ({type(error).__name__})") from None
