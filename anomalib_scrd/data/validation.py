"""Validation images from normal training images: anomalib's synthetic anomalies, repeatable by a seed."""

__all__ = ["RepeatableDataModule", "SyntheticValidation", "seeded", "synthetic_split"]

import os
import random
import shutil
import weakref
from abc import ABC
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from anomalib.data import AnomalibDataModule, AnomalibDataset
from anomalib.data.utils import ValSplitMode, read_image
from anomalib.data.utils.split import random_split
from anomalib.data.utils.synthetic import SyntheticAnomalyDataset
from lightning.pytorch.utilities.types import EVAL_DATALOADERS

from anomalib_scrd.data.unreadable_files import FileNamingDataset, naming_unreadable_files


class RepeatableDataModule(AnomalibDataModule, ABC):
    """Base class of this package's data modules: repeatable synthetic validation, and training without validation."""

    def val_dataloader(self) -> EVAL_DATALOADERS:
        """Get the validation loader.

        Returns:
            The loader, or an empty list without validation images: Lightning then skips the validation, while
            anomalib's own modules fail.
        """
        return super().val_dataloader() if hasattr(self, "val_data") else []

    def _create_val_split(self) -> None:
        if self.val_split_mode == ValSplitMode.SYNTHETIC:
            self.train_data, self.val_data = synthetic_split(self.train_data, self.val_split_ratio, self.seed)
        else:
            super()._create_val_split()


class SyntheticValidation(FileNamingDataset, SyntheticAnomalyDataset):
    """Normal images, half of them with anomalies of anomalib's Perlin generator.

    anomalib's own class draws from the global random state and deletes its files when any copy of it is deleted, such
    as one in a loader's worker process. This class is repeatable, and its files are deleted with the data set of the
    process that wrote them.

    Args:
        normal: Normal images.
        seed: Seed of the choice of images and of their anomalies; None for the global random state.
    """

    def __init__(self, normal: AnomalibDataset, seed: int | None) -> None:
        try:
            with seeded(seed):
                super().__init__(normal.augmentations, normal.samples, normal.name)
        except (OSError, SyntaxError):
            if hasattr(self, "root"):
                shutil.rmtree(self.root, ignore_errors=True)
            for path in normal.samples.image_path:  # Pillow does not always name the file
                with naming_unreadable_files(path):
                    read_image(path)
            raise
        self._cleanup = False
        weakref.finalize(self, _remove, self.root, os.getpid())

    def __del__(self) -> None:
        """Leave the files to the finaliser."""


def synthetic_split(
    train: AnomalibDataset,
    ratio: float,
    seed: int | None,
) -> tuple[AnomalibDataset, SyntheticValidation]:
    """Hold out some normal training images and add anomalies to half of them.

    No test image is used, so thresholds and normalisation from these images do not depend on the test set.

    Args:
        train: Normal training images.
        ratio: Share of them to hold out, in (0, 1).
        seed: Seed of the split and of the anomalies; None for another result each time.

    Returns:
        The remaining training images, and the validation images.

    Raises:
        ValueError: If ratio is out of range, or leaves fewer than two images for validation or none for training.
    """
    if not 0 < ratio < 1:
        msg = f"val_split_ratio must be between 0 and 1, got {ratio}"
        raise ValueError(msg)
    rest, held_out = random_split(train, float(ratio), seed=seed)
    if len(held_out) < 2 or len(rest) == 0:  # noqa: PLR2004
        msg = (
            f"val_split_ratio {ratio} of {len(train)} training images holds out {len(held_out)}; synthetic validation "
            "needs at least 2, and 1 left for training"
        )
        raise ValueError(msg)
    return rest, SyntheticValidation(held_out, seed)


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Seed Python, NumPy and torch, and restore their states afterwards."""
    if seed is None:
        yield
        return
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - pandas draws from this state
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        torch.random.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
