"""Checkpoints that appear under their name only when they are complete."""

__all__ = ["AtomicCheckpointIO", "write_atomically"]

from typing import Any

import torch
from anomalib.engine.plugins import AnomalibCheckpointIO
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch import Trainer

from anomalib_scrd.atomic_files import replacing
from anomalib_scrd.training.checkpoint_damage import explained_damage


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


def write_atomically(trainer: Trainer) -> None:
    """Make a trainer use :class:`AtomicCheckpointIO`, unless the user chose a checkpoint plugin.

    Args:
        trainer: Trainer whose strategy has been chosen.
    """
    present = trainer.strategy.checkpoint_io
    if type(present) not in {AnomalibCheckpointIO, TorchCheckpointIO}:
        return
    trainer.strategy.checkpoint_io = AtomicCheckpointIO(getattr(present, "extra_safe_globals", None))
