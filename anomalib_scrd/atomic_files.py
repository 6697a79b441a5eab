"""Files that appear under their name only when they are complete."""

__all__ = ["NO_SPACE", "replacing", "unwritten"]

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Error numbers that mean that there is no room for a file."""


@contextmanager
def replacing(path: str | Path, what: str = "file") -> Iterator[Path]:
    """Write a file beside its place and move it there when it is complete.

    A file that exists under the name stays as it is until then, and for good if the writing fails.

    Args:
        path: Name of the file. Its folder is made.
        what: Kind of the file, for the message of an error.

    Yields:
        Where to write, in the same folder.

    Raises:
        OSError: If the file cannot be written; the message names it, the reason, and whether an earlier file is still
            there.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.replace(path)
    except BaseException as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        cause = _os_error(error)
        if cause is None:
            raise
        raise unwritten(path, what, cause) from error


def unwritten(path: Path, what: str, cause: OSError) -> OSError:
    """The error that says why a file could not be written, and whether an earlier one is still there.

    Args:
        path: Name of the file.
        what: Kind of the file.
        cause: The system's error.

    Returns:
        The error, to be raised.
    """
    reason = "no space is left" if cause.errno in NO_SPACE else cause.strerror or str(cause)
    kept = "the earlier file of this name is unchanged" if path.exists() else "there is no file of this name"
    return OSError(cause.errno, f"the {what} {str(path)!r} could not be written: {reason}; {kept}")


def _os_error(error: BaseException | None) -> OSError | None:
    """The system's error behind an error: torch wraps it in one of its own."""
    while error is not None:
        if isinstance(error, OSError):
            return error
        error = error.__cause__ or error.__context__
    return None
