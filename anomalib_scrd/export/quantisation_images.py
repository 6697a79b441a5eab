"""Images that a quantisation may see: none of them is a test image."""

__all__ = ["calibration_images", "labelled_images"]

import logging
from typing import Any

from anomalib.data import AnomalibDataModule, ImageBatch
from anomalib.data.utils import LabelName
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset

logger = logging.getLogger(__name__)

_ENOUGH = 300  # as many as NNCF uses


def calibration_images(datamodule: AnomalibDataModule, batch_size: int = 1) -> DataLoader:
    """Up to 300 normal images by which a quantisation finds the ranges of activations.

    Validation images come first, which the student has not seen, then training images, evenly spaced. An image that is
    in the test set as well is left out: anomalib's ``Folder`` validates on the test set unless told otherwise.

    Args:
        datamodule: anomalib's; it is set up here.
        batch_size: Images of a batch; an incomplete last one is left out.

    Returns:
        Loader of batches without augmentations, images (B, 3, H, W) in [0, 1] at the size of their files.

    Raises:
        ValueError: If there are no such images.
    """
    datamodule.setup("fit")
    chosen: list[Dataset] = []
    counts: dict[str, int] = {}
    for part in ("val", "train"):
        dataset, rows = _outside_the_test(datamodule, part)
        normal = [row for row in rows if dataset.samples["label_index"].iloc[row] == LabelName.NORMAL]
        room = _ENOUGH - sum(counts.values())
        taken = normal[:: max(1, len(normal) // max(1, room))][:room]
        counts[part] = len(taken)
        if taken:
            chosen.append(Subset(dataset, taken))
    found = sum(counts.values())
    if found < batch_size:
        msg = (
            f"INT8 needs {batch_size} or more normal images that are not in the test set to calibrate, and "
            f"{type(datamodule).__name__} has {found} in validation and training"
        )
        raise ValueError(msg)
    logger.info(
        "INT8 is calibrated on %d normal images of validation and %d of training, none of the test",
        counts["val"],
        counts["train"],
    )
    return _loader(ConcatDataset(chosen), batch_size)


def labelled_images(datamodule: AnomalibDataModule, batch_size: int = 1) -> DataLoader:
    """Validation images, normal and anomalous, by which a quantisation measures what it loses.

    Args:
        datamodule: anomalib's, set up.
        batch_size: Images of a batch; an incomplete last one is left out.

    Returns:
        Loader of batches without augmentations.

    Raises:
        ValueError: If the validation images are those of the test, or lack normal or anomalous ones.
    """
    dataset, rows = _outside_the_test(datamodule, "val")
    labels = {int(dataset.samples["label_index"].iloc[row]) for row in rows}
    if not labels.issuperset({LabelName.NORMAL, LabelName.ABNORMAL}):
        msg = (
            "INT8_ACQ needs normal and anomalous validation images that are not in the test set, and "
            f"{type(datamodule).__name__} with val_split_mode {str(datamodule.val_split_mode.value)!r} lacks them: "
            "give val_split_mode from_test, or take INT8_PTQ, which needs normal images only"
        )
        raise ValueError(msg)
    return _loader(Subset(dataset, rows), batch_size)


def _outside_the_test(datamodule: AnomalibDataModule, part: str) -> tuple[Any, list[int]]:
    """Dataset of a part, None if there is none, and its rows whose files are not in the test set."""
    dataset = getattr(datamodule, f"{part}_data", None)
    if dataset is None:
        return None, []
    # A trainer's next setup brings the augmentations back.
    dataset.augmentations = None
    test = getattr(datamodule, "test_data", None)
    files = set() if test is None else set(test.samples["image_path"])
    return dataset, [row for row, path in enumerate(dataset.samples["image_path"]) if path not in files]


def _loader(images: Dataset, batch_size: int) -> DataLoader:
    return DataLoader(images, batch_size=batch_size, drop_last=True, collate_fn=ImageBatch.collate)
