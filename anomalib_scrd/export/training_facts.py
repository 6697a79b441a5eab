"""Facts about the training in checkpoints and exports: number and hash of the images, number of steps."""

__all__ = ["TRAINING_FACTS", "facts_of_images", "file_list_hash"]

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

TRAINING_FACTS = "anomalib_scrd_training"
"""Key of the facts in a checkpoint."""


def facts_of_images(trainer: Trainer) -> dict[str, Any]:
    """Count the training images of a trainer, and hash the list of their files.

    Args:
        trainer: Trainer during a training.

    Returns:
        ``images``, and ``files_sha256`` (see :func:`file_list_hash`) if the images are files.
    """
    datamodule: Any = getattr(trainer, "datamodule", None)
    dataset: Any = getattr(datamodule, "train_data", None)
    if dataset is None:
        dataset = getattr(trainer.train_dataloader, "dataset", None)
    facts: dict[str, Any] = {}
    if hasattr(dataset, "__len__"):
        facts["images"] = len(dataset)
    samples = getattr(dataset, "_samples", None)  # the public property raises if there are none
    if samples is not None and "image_path" in samples:
        facts["files_sha256"] = file_list_hash(map(str, samples["image_path"]))
    return facts


def file_list_hash(paths: Iterable[str]) -> str:
    """Hash a list of files by their names and sizes; reading their contents would take an epoch.

    Args:
        paths: The files. Folders common to all of them are ignored, so that a copy of the data has the same hash.

    Returns:
        SHA-256, hexadecimal, from which names cannot be read.
    """
    files = sorted({Path(path).absolute() for path in paths})
    if not files:
        return hashlib.sha256().hexdigest()
    root = os.path.commonpath([file.parent for file in files])
    lines = (f"{file.relative_to(root).as_posix()}\t{file.stat().st_size if file.is_file() else 0}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
