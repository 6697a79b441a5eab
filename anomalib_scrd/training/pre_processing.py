"""The pre-processing of training images, and facts about it that a model needs."""

__all__ = ["TrainingPreProcessor", "normalisation"]

import copy
from typing import Any

import torch
from anomalib.data import Batch
from anomalib.data.transforms.utils import extract_transforms_by_type
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torchvision import transforms as transforms_v1
from torchvision.transforms.v2 import Normalize, Transform

from anomalib_scrd.noise import Normalisation


class TrainingPreProcessor(PreProcessor):
    """anomalib's pre-processor; in training steps its mean and standard deviation are on the device already.

    torchvision makes tensors of them in every call, and the host waits until a GPU has done all that is in its queue.
    """

    def __init__(self, transform: Transform | None = None) -> None:
        super().__init__(transform)
        self._copies: list[Transform] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copy the transform; its own numbers stay in lists, which checkpoints need."""
        del trainer
        self._copies = [copy.deepcopy(self.transform)] if self.transform else []
        steps: list[Any] = [step for copied in self._copies for step in extract_transforms_by_type(copied, Normalize)]
        for step in steps:
            step.mean, step.std = (torch.as_tensor(values, device=pl_module.device) for values in (step.mean, step.std))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        """Transform a batch."""
        if not self._copies:
            super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        for transform in self._copies:
            batch.image, batch.gt_mask = transform(batch.image, batch.gt_mask)

    def on_train_end(self, *_: Any) -> None:
        """Drop the copy."""
        self._copies = []

    on_exception = on_train_end  # type: ignore[assignment]


def normalisation(transform: Any) -> Normalisation | None:
    """Find the mean and the standard deviation by which a pre-processing normalises images in [0, 1].

    Args:
        transform: Transform of a pre-processor, of torchvision's first or second version, possibly nested.

    Returns:
        Mean and standard deviation of all its Normalize steps combined; None if there are none.
    """
    if isinstance(transform, (Normalize, transforms_v1.Normalize)):
        mean, std = (
            torch.as_tensor(value, dtype=torch.float32).reshape(-1) for value in (transform.mean, transform.std)
        )
        return Normalisation(mean, std)
    # Compose keeps its steps in a plain list, which `modules()` does not visit.
    steps = transform if isinstance(transform, nn.Sequential) else getattr(transform, "transforms", ())
    result: Normalisation | None = None
    for step in filter(None, map(normalisation, steps)):
        # ((x - m1) / s1 - m2) / s2 = (x - (m1 + s1 m2)) / (s1 s2)
        result = step if result is None else Normalisation(result.mean + result.std * step.mean, result.std * step.std)
    return result
