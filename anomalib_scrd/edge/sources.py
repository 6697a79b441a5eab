"""Sources of files: a folder is walked while it is scored."""

__all__ = ["Source", "SourceFile", "walk"]

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from anomalib_scrd.edge.records import Signature
from anomalib_scrd.imaging.files import may_hold_pictures


class SourceFile(NamedTuple):
    """A file that may hold pictures.

    Attributes:
        path: Path of the file.
        relative: Path below the folder of images; the file's name if one file was given.
        signature: Size and time when the file was found.
    """

    path: Path
    relative: PurePosixPath
    signature: Signature


Source = Iterator[SourceFile | None]
"""Files in the order of their discovery; None means that there is none at the moment."""


def walk(root: Path, exclude: Path | None = None) -> Iterator[SourceFile]:
    """Walk a folder recursively, sorted, listing one folder at a time.

    It yields the same files as :func:`anomalib_scrd.imaging.list_files`, in another order.

    Args:
        root: A folder, or one file, which may have any name.
        exclude: A folder that is left out: that of the results, which may be below the images.

    Yields:
        Files.

    Raises:
        FileNotFoundError: If there is no such path.
    """
    if root.is_file():
        yield SourceFile(root, PurePosixPath(root.name), signature(root))
        return
    if not root.is_dir():
        msg = f"IMAGES must be an existing folder or file, got {str(root)!r}"
        raise FileNotFoundError(msg)
    yield from _walk(root, PurePosixPath(), exclude.resolve() if exclude else None, {_identity(root)})


def signature(path: Path) -> Signature:
    """Present size and time of a file.

    Args:
        path: The file.

    Returns:
        Its signature.

    Raises:
        OSError: If the file was removed.
    """
    status = path.stat()
    return Signature(status.st_size, status.st_mtime_ns)


def _walk(
    folder: Path, relative: PurePosixPath, exclude: Path | None, above: set[tuple[int, int]]
) -> Iterator[SourceFile]:
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError:  # removed meanwhile, or unreadable
        if not relative.parts:
            raise
        return
    folders = []
    for entry in found:
        if entry.name.startswith("."):
            continue
        path = folder / entry.name
        try:
            if entry.is_dir():
                folders.append(path)
            elif may_hold_pictures(path):
                status = entry.stat()
                yield SourceFile(path, relative / entry.name, Signature(status.st_size, status.st_mtime_ns))
        except OSError:  # removed meanwhile
            continue
    del found
    for path in folders:
        identity = _identity(path)
        if identity not in above and (exclude is None or path.resolve() != exclude):  # a link may point to a parent
            yield from _walk(path, relative / path.name, exclude, above | {identity})


def _identity(folder: Path) -> tuple[int, int]:
    try:
        status = folder.stat()
    except OSError:
        return (0, 0)
    return status.st_dev, status.st_ino
