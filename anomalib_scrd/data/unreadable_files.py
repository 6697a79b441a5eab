"""Errors that name the unreadable image file; Pillow does not name truncated files."""

__all__ = ["PILLOW_ERRORS", "FileNamingDataset", "UnreadableImageError", "naming_unreadable_files"]

from collections.abc import Iterator
from contextlib import contextmanager

from anomalib.data import AnomalibDataset
from anomalib.data.dataclasses import DatasetItem
from PIL import Image

from anomalib_scrd.imaging import UnreadableImageError

PILLOW_ERRORS = (OSError, SyntaxError, Image.DecompressionBombError)
"""Errors of Pillow for a file that is not an image, is truncated, is damaged, or declares an excessive size."""


@contextmanager
def naming_unreadable_files(*paths: str) -> Iterator[None]:
    """Turn Pillow's errors into one that names the files.

    Args:
        paths: The files that are read; empty strings are ignored.

    Raises:
        UnreadableImageError: If one of them cannot be read.
    """
    try:
        yield
    except UnreadableImageError:
        raise
    except PILLOW_ERRORS as error:
        where = " or ".join(repr(path) for path in paths if path)
        msg = f"cannot read {where}: {error}. Is the file damaged, or its download incomplete?"
        raise UnreadableImageError(msg) from error


class FileNamingDataset(AnomalibDataset):
    """anomalib's data set with errors that name the file."""

    def __getitem__(self, index: int) -> DatasetItem:
        """Read an image, and its mask if it has one.

        Args:
            index: Index of the image.

        Returns:
            anomalib's item.

        Raises:
            UnreadableImageError: If a file cannot be read.
        """
        sample = self.samples.iloc[index]
        with naming_unreadable_files(sample.image_path, sample.mask_path):
            return super().__getitem__(index)
