"""Clear errors for damaged checkpoints."""

__all__ = ["explained_damage"]

import errno
import pickle
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.fabric.utilities.types import _PATH

# Errors of torch, pickle and zip for damaged files, and of a constructor for damaged arguments.
_DAMAGE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    struct.error,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    OverflowError,
    MemoryError,
    ImportError,
)

_MISMATCH = "Error(s) in loading state_dict"


@contextmanager
def explained_damage(path: _PATH) -> Iterator[None]:
    """Name the file in errors of a damaged checkpoint: torch does not, and suggests running the code in it.

    Args:
        path: The file.

    Raises:
        ValueError: In place of the errors of torch, pickle and zip, and of damaged arguments.
        RuntimeError: If the weights are those of another model.
    """
    try:
        yield
    except OSError as error:
        if error.errno != errno.EINVAL or error.filename is not None:
            raise
        # a zip archive that points to a position before its start
        raise _damaged(path, error) from error
    except _DAMAGE as error:
        if _MISMATCH in str(error):  # a complete file of another model; torch lists the names
            msg = f"checkpoint {str(path)!r} does not fit this model: {error}"
            raise RuntimeError(msg) from error
        raise _damaged(path, error) from error


def _damaged(path: _PATH, error: Exception) -> ValueError:
    text = str(error).strip() if isinstance(error, ValueError) else str(error).strip().partition(". ")[0]
    reason = "" if isinstance(error, pickle.UnpicklingError) else f": {text}"
    msg = (
        f"checkpoint {str(path)!r} is damaged or not a checkpoint of this version of this model, and is not loaded "
        f"({type(error).__name__}{reason})"
    )
    return ValueError(msg)
