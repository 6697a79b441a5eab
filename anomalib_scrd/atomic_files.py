"""Files that appear under their name only when they are complete."""

__all__ = ["NO_SPACE", "replacing", "unwritten"]

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Error numbers of a full disk, an exceeded quota and a file above the size limit."""


@contextmanager
def replacing(path: str | Path, what: str = "file") -> Iterator[Path]:
    """Write a file under a temporary name in its folder and rename it when it is complete.

    An existing file of that name is unchanged until then, and stays if writing fails.

    Args:
        path: Path of the file; missing parent folders are created.
        what: Kind of file, for error messages.

    Yields:
        The temporary path to write to.

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
    """Build the error for a file that could not be written: the reason, and whether an earlier file remains.

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
    """Find the system's error in the chain of causes: torch wraps it in a RuntimeError of its own."""
    while error is not None:
        if isinstance(error, OSError):
            return error
        error = error.__cause__ or (error.__context__ if isinstance(error, RuntimeError) else None)
    return None
