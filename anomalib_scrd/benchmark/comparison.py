"""What a trained model compares, batch by batch: for whatever a benchmark asks beside the predictions themselves."""

__all__ = ["Comparison", "compare"]

from collections.abc import Iterator
from typing import NamedTuple

import torch
from anomalib.data import Batch
from torch.utils.data import DataLoader

from anomalib_scrd.lightning_model import ScaleAwareCRD


class Comparison(NamedTuple):
    """A batch as teacher and student see it; lists hold K tensors (B, C_k, H_k, W_k), finest scale first.

    Attributes:
        batch: The batch as it was loaded.
        size: (H, W) of the images that the model saw.
        teacher: The teacher's features.
        student: The student's features.
        weights: (B, K) weights of the scales, whose rows sum to K.
    """

    batch: Batch
    size: torch.Size
    teacher: list[torch.Tensor]
    student: list[torch.Tensor]
    weights: torch.Tensor


@torch.no_grad()
def compare(model: ScaleAwareCRD, batches: DataLoader) -> Iterator[Comparison]:
    """Compare teacher and student on images, in evaluation mode.

    Args:
        model: A trained model.
        batches: Images.

    Yields:
        A :class:`Comparison` per batch, on the model's device.
    """
    was_training = model.training
    model.eval()
    for batch in batches:
        images = batch.image.to(model.device)
        if model.pre_processor is not None:
            images = model.pre_processor(images)
        yield Comparison(batch, images.shape[-2:], *model.model.compared(images))
    model.train(was_training)
