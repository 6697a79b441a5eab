"""Images for a quantisation, never test images."""

__all__ = ["calibration_images", "labelled_images"]

import logging
from typing import Any

import numpy as np
from anomalib.data import AnomalibDataModule
from anomalib.data.utils import LabelName
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset

from anomalib_scrd.training.held_out import HeldOut

logger = logging.getLogger(__name__)

_ENOUGH = 300  # as many as NNCF uses
_DRAWN = {"from_train", "from_test", "synthetic"}  # values of val_split_mode


def calibration_images(datamodule: AnomalibDataModule, held_out: HeldOut | None = None) -> DataLoader:
    """Up to 300 normal images for the ranges of activations in a quantisation.

    Validation images come first, then those that the training holds out from the student, then other training images,
    evenly spaced. Images that are also in the test set are excluded: anomalib's ``Folder`` validates on the test set by
    default. A warning is logged if the data module splits its images at random without a seed: its test set is then
    not the training's.

    Args:
        datamodule: anomalib's data module; its ``setup`` is called here.
        held_out: The training's held-out images, or None.

    Returns:
        Loader of batches of one image without augmentations, (1, 3, H, W) in [0, 1] at the size of its file.

    Raises:
        ValueError: If there are no normal images outside of the test set.
    """
    datamodule.setup("fit")
    if _splits_differ(datamodule):
        logger.warning(
            "%s splits its images at random and has no seed: INT8 may be calibrated on images that the training tested "
            "on. Give the data module the same seed in training and export.",
            type(datamodule).__name__,
        )
    validation: Any = getattr(datamodule, "val_data", None)
    train: Any = getattr(datamodule, "train_data", None)
    held_back = _held_out_files(datamodule, held_out)
    trained = _normal_rows(datamodule, train)
    unseen = [row for row in trained if train.samples["image_path"].iloc[row] in held_back]
    seen = sorted(set(trained) - set(unseen))
    chosen: list[Dataset] = []
    counts: list[int] = []
    for dataset, rows in ((validation, _normal_rows(datamodule, validation)), (train, unseen), (train, seen)):
        room = _ENOUGH - sum(counts)
        spaced = np.linspace(0, len(rows) - 1, min(room, len(rows))).round().astype(int)
        taken = [rows[index] for index in spaced]
        counts.append(len(taken))
        if taken:
            chosen.append(Subset(dataset, taken))
    if not chosen:
        msg = (
            "INT8 needs normal images that are not in the test set to find the ranges of activations, and "
            f"{type(datamodule).__name__} has none in validation and training"
        )
        raise ValueError(msg)
    logger.info("INT8 is calibrated on %d normal images of validation, %d held out and %d trained on", *counts)
    return _loader(ConcatDataset(chosen), train)


def labelled_images(datamodule: AnomalibDataModule) -> DataLoader:
    """Validation images, normal and anomalous, to measure the accuracy of a quantised model.

    Args:
        datamodule: anomalib's data module, after its ``setup``.

    Returns:
        Loader of batches of one image without augmentations.

    Raises:
        ValueError: If the validation images are those of the test, or lack normal or anomalous ones, or are drawn at
            random without a seed and therefore may be the training's test images.
    """
    if _splits_differ(datamodule):
        msg = (
            f"INT8_ACQ chooses by validation images, and {type(datamodule).__name__} draws them at random without a "
            "seed: they may be images that the training tested on. Give the same seed in training and export "
            "(data.init_args.seed)"
        )
        raise ValueError(msg)
    dataset: Any = getattr(datamodule, "val_data", None)
    rows = _rows(datamodule, dataset)
    labels = {int(dataset.samples["label_index"].iloc[row]) for row in rows}
    if not labels.issuperset({LabelName.NORMAL, LabelName.ABNORMAL}):
        msg = (
            "INT8_ACQ needs normal and anomalous validation images that are not in the test set, and "
            f"{type(datamodule).__name__} with val_split_mode {str(datamodule.val_split_mode.value)!r} lacks them: "
            "give val_split_mode from_test, or use INT8_PTQ, which needs normal images only"
        )
        raise ValueError(msg)
    return _loader(Subset(dataset, rows), dataset)


def _splits_differ(datamodule: Any) -> bool:
    """Whether each set-up of a data module may have another split."""
    drawn = getattr(datamodule.val_split_mode, "value", None) in _DRAWN
    test_from_train = getattr(datamodule, "normal_test_dir", "") is None
    return datamodule.seed is None and (drawn or test_from_train)


def _rows(datamodule: AnomalibDataModule, dataset: Any) -> list[int]:
    """Rows of a dataset, which may be None, whose files are not in the test set; its augmentations are removed."""
    if dataset is None:
        return []
    dataset.augmentations = None  # restored by the data module's next setup
    test = getattr(datamodule, "test_data", None)
    files = set() if test is None else set(test.samples["image_path"])
    return [row for row, path in enumerate(dataset.samples["image_path"]) if path not in files]


def _normal_rows(datamodule: AnomalibDataModule, dataset: Any) -> list[int]:
    return [row for row in _rows(datamodule, dataset) if dataset.samples["label_index"].iloc[row] == LabelName.NORMAL]


def _held_out_files(datamodule: AnomalibDataModule, held_out: HeldOut | None) -> set[str]:
    """Files that a training on this data module holds out."""
    if held_out is None:
        return set()
    again = HeldOut(held_out.share, held_out.seed)
    again.take(datamodule, validate=False)
    again.give_back()
    return set() if again.dataset is None else set(again.dataset.samples["image_path"])


def _loader(images: Dataset, dataset: Any) -> DataLoader:
    return DataLoader(images, batch_size=1, collate_fn=dataset.collate_fn)
