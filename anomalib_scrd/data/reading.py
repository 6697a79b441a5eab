"""Errors that name the image file at fault."""

__all__ = ["NamesUnreadableFiles", "UnreadableImageError", "check_images", "naming_unreadable_files"]

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from anomalib.data import AnomalibDataset
from anomalib.data.dataclasses import DatasetItem
from PIL import Image

_SHOWN = 5
_WORKERS = 8
# What Pillow raises for a file that is no image, is cut short, is broken inside, or claims a monstrous size.
_PILLOW_ERRORS = (OSError, SyntaxError, Image.DecompressionBombError)


class UnreadableImageError(OSError):
    """An image file that cannot be read."""


@contextmanager
def naming_unreadable_files(*paths: str) -> Iterator[None]:
    """Turn Pillow's errors into one that names the files.

    Args:
        paths: The files that are read inside; empty ones are left out.

    Raises:
        UnreadableImageError: If one of them cannot be read.
    """
    try:
        yield
    except UnreadableImageError:
        raise
    except _PILLOW_ERRORS as error:
        where = " or ".join(repr(path) for path in paths if path)
        msg = f"cannot read {where}: {error}. Is the file damaged, or was its download cut short?"
        raise UnreadableImageError(msg) from error


class NamesUnreadableFiles(AnomalibDataset):
    """Dataset whose reading errors name the file: Pillow's name none when an image ends too early."""

    def __getitem__(self, index: int) -> DatasetItem:
        """Read an image, and its mask if it has one.

        Args:
            index: Which one.

        Returns:
            anomalib's item.

        Raises:
            UnreadableImageError: If a file cannot be read.
        """
        sample = self.samples.iloc[index]
        with naming_unreadable_files(sample.image_path, sample.mask_path):
            return super().__getitem__(index)


def check_images(paths: Iterable[str | Path]) -> None:
    """Open the header of every file, so that a broken folder is reported before the training and not during it.

    Pixels are not decoded: an image that is cut short passes, and is named when it is read.

    Args:
        paths: Image files.

    Raises:
        UnreadableImageError: If some are no images, with their number and the first of them.
    """
    with ThreadPoolExecutor(_WORKERS) as pool:
        broken = [path for path in pool.map(_header_error, paths) if path]
    if broken:
        msg = f"{len(broken)} files are no readable images: {', '.join(broken[:_SHOWN])}"
        raise UnreadableImageError(msg + (" ..." if len(broken) > _SHOWN else ""))


def _header_error(path: str | Path) -> str | None:
    """The path if Pillow cannot open the file, None if it can."""
    try:
        with Image.open(path):
            return None
    except _PILLOW_ERRORS as error:
        empty = Path(path).is_file() and Path(path).stat().st_size == 0
        reason = "empty file" if empty else type(error).__name__
        return f"{str(path)!r} ({reason})"
