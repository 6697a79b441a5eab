"""Groups of files that appear under their names only when all are complete."""

__all__ = ["completed_files"]

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from anomalib_scrd.atomic_files import NO_SPACE, unwritten

_DISK_ERRORS = NO_SPACE | {errno.EIO}
_PROBE_BYTES = 2**20


@contextmanager
def completed_files(path: Path) -> Iterator[Path]:
    """Write a file, and the files that it refers to, under their final names only when all are complete.

    They are written to a hidden folder next to the final path, flushed to the disk and renamed. If this fails, an
    earlier file is unchanged. The file itself is renamed last. If it refers to others, an earlier file of its name is
    removed first: otherwise a reader between the renames, or after a kill at that moment, would combine it with wrong
    weights.

    Args:
        path: The file; missing parent folders are created.

    Yields:
        The hidden folder; every file directly in it is moved, subfolders are dropped.

    Raises:
        OSError: If the disk is full or fails; the message names ``path``. Other errors are unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as name:
        scratch = Path(name)
        try:
            yield scratch
            files = [file for file in scratch.iterdir() if file.is_file()]
            files.sort(key=lambda file: file.name == path.name)
            for file in files:
                _flush(file)
            if len(files) > 1:
                path.unlink(missing_ok=True)
            for file in files:
                file.replace(path.parent / file.name)
            _flush(path.parent)
        except (OSError, RuntimeError) as error:
            cause = error if isinstance(error, OSError) else _disk_error(scratch)
            if cause is None or cause.errno not in _DISK_ERRORS:
                raise
            raise unwritten(path, "export", cause) from error


def _flush(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    if os.name != "posix":  # Windows cannot flush folders, or files opened for reading
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _disk_error(folder: Path) -> OSError | None:
    """Error of a new file on a full or broken disk; None if a file can be written.

    torch and OpenVINO raise a RuntimeError without the reason.
    """
    try:
        with (folder / "probe").open("wb") as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as found:
        return found
    return None
