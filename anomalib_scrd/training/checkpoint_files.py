"""Checkpoints that appear under their name only when they are complete."""

__all__ = ["AtomicCheckpointIO", "write_atomically"]

from typing import Any

import torch
from anomalib.engine.plugins import AnomalibCheckpointIO
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch import Trainer

from anomalib_scrd.atomic_files import replacing


class AtomicCheckpointIO(AnomalibCheckpointIO):
    """anomalib's checkpoint files, written beside their place and moved there.

    Lightning writes them into the system's folder for temporary files and moves them from there: where that is on
    another disk the move is a copy, and a full disk leaves half a file under the name of the earlier one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None) -> None:
        """Save a checkpoint.

        Args:
            checkpoint: Content.
            path: File; remote ones are left to Lightning.
            storage_options: Refused, as by Lightning.

        Raises:
            OSError: If the file cannot be written; the message says so, and an earlier file is unchanged.
        """
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with replacing(str(path), "checkpoint") as part, part.open("wb") as file:
            torch.save(checkpoint, file)


def write_atomically(trainer: Trainer) -> None:
    """Have a trainer write its checkpoints so, unless it was given another way to write them.

    Args:
        trainer: Trainer whose strategy has been chosen.
    """
    present = trainer.strategy.checkpoint_io
    if type(present) not in {AnomalibCheckpointIO, TorchCheckpointIO}:
        return
    trainer.strategy.checkpoint_io = AtomicCheckpointIO(getattr(present, "extra_safe_globals", None))
