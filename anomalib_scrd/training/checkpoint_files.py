"""Checkpoints that appear under their name only when they are complete, and clear errors for damaged ones."""

__all__ = ["AtomicCheckpointIO", "explained_damage", "write_atomically"]

import errno
import pickle
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from anomalib.engine.plugins import AnomalibCheckpointIO
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch import Trainer

from anomalib_scrd.atomic_files import replacing

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


class AtomicCheckpointIO(AnomalibCheckpointIO):
    """anomalib's checkpoint files, written under a temporary name in their folder and renamed.

    Lightning writes to the system's temporary folder and moves the file: between disks the move is a copy, and a full
    disk leaves half a file under the name of the earlier one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None) -> None:
        """Save a checkpoint.

        Args:
            checkpoint: Content.
            path: File; Lightning writes remote ones.
            storage_options: Refused, as by Lightning.

        Raises:
            OSError: If the file cannot be written; the message names it, and an earlier file is unchanged.
        """
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with replacing(str(path), "checkpoint") as part, part.open("wb") as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: _PATH, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a checkpoint; arguments as Lightning's.

        Raises:
            ValueError: If the file is not a complete checkpoint; the message names it.
        """
        with explained_damage(path):
            return super().load_checkpoint(path, *args, **kwargs)


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


def write_atomically(trainer: Trainer) -> None:
    """Make a trainer use :class:`AtomicCheckpointIO`, unless the user chose a checkpoint plugin.

    Args:
        trainer: Trainer whose strategy has been chosen.
    """
    present = trainer.strategy.checkpoint_io
    if type(present) not in {AnomalibCheckpointIO, TorchCheckpointIO}:
        return
    trainer.strategy.checkpoint_io = AtomicCheckpointIO(getattr(present, "extra_safe_globals", None))
