"""What can be said of the data before a training starts."""

__all__ = ["check_training_data", "normalisation_std"]

import math
from typing import Any

import torch
from anomalib.data import AnomalibDataModule
from lightning.pytorch import Trainer
from torch import nn
from torchvision import transforms as transforms_v1
from torchvision.transforms.v2 import Normalize

from anomalib_scrd.data.reading import check_images, image_files
from anomalib_scrd.data.validation import RepeatableDataModule


def check_training_data(trainer: Trainer) -> None:
    """Refuse data with which a training would fail later.

    Args:
        trainer: The trainer, while it sets up a fit.

    Raises:
        ValueError: If anomalib would fail at the data module for lack of validation images.
        UnreadableImageError: If files are no images.
    """
    datamodule = getattr(trainer, "datamodule", None)
    if (
        isinstance(datamodule, AnomalibDataModule)
        and not isinstance(datamodule, RepeatableDataModule)
        and not hasattr(datamodule, "val_data")
        and trainer.limit_val_batches
    ):
        msg = (
            f"{type(datamodule).__name__} has no validation images (val_split_mode "
            f"{str(datamodule.val_split_mode.value)!r}), and anomalib fails at that: give another val_split_mode, "
            "or trainer.limit_val_batches 0 for scores without threshold and normalisation"
        )
        raise ValueError(msg)
    check_images(image_files(trainer))


def normalisation_std(transform: Any) -> torch.Tensor | None:
    """Standard deviation by which a pre-processing divides images in [0, 1].

    Args:
        transform: Transform of a pre-processor, of torchvision's first or second version, possibly nested.

    Returns:
        (C,) or (1,) float32, the product over all Normalize steps; None where there is none.
    """
    if isinstance(transform, (Normalize, transforms_v1.Normalize)):
        return torch.as_tensor(transform.std, dtype=torch.float32).reshape(-1)
    # Compose keeps its steps in a plain list, out of reach of `modules()`
    steps = transform if isinstance(transform, nn.Sequential) else getattr(transform, "transforms", ())
    found = [std for std in map(normalisation_std, steps) if std is not None]
    return math.prod(found, start=torch.ones(1)) if found else None
