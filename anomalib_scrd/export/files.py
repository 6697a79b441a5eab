"""Files that appear under their names only when they are complete."""

__all__ = ["completed_files"]

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# What a write reports when there is no room, or the medium fails.
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
_PROBE_BYTES = 2**20


@contextmanager
def completed_files(path: Path) -> Iterator[Path]:
    """Write a file, and those that belong to it, under their final names only when all are complete.

    They are written into a hidden folder beside the final place, flushed to the disk and renamed. Whatever happens
    before, an earlier file keeps its name and content. The file itself is renamed last: where it appears, those that it
    refers to are there.

    Args:
        path: The file. Its folder is made if it does not exist.

    Yields:
        The hidden folder; every file directly in it is moved, subfolders are dropped.

    Raises:
        OSError: If the disk is full or fails; the message names ``path`` and the free space.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as name:
        scratch = Path(name)
        try:
            yield scratch
            files = sorted(
                (file for file in scratch.iterdir() if file.is_file()), key=lambda file: file.name == path.name
            )
            for file in files:
                _flush(file)
            for file in files:
                file.replace(path.parent / file.name)
            _flush(path.parent)
        except (OSError, RuntimeError) as error:
            number = _disk_error(error, scratch)
            if number is None:
                raise
            free = shutil.disk_usage(path.parent).free / 2**20
            msg = (
                f"could not write {path}: {os.strerror(number)} ({free:.0f} MiB free). Nothing of it is left, and an "
                "earlier file of that name is unchanged"
            )
            raise OSError(number, msg) from error


def _flush(path: Path) -> None:
    """Have the operating system write a file, or the names in a folder, to the disk."""
    if os.name != "posix":  # Windows flushes no folders, and no files that are open for reading
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _disk_error(error: BaseException, folder: Path) -> int | None:
    """Number of the disk's error behind another one; None if the disk takes a file."""
    if isinstance(error, OSError):
        return error.errno if error.errno in _DISK_ERRORS else None
    # torch's and OpenVINO's writers raise a RuntimeError that does not say why.
    try:
        with (folder / "probe").open("wb") as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as found:
        return found.errno
    return None
