"""The order of the training images, fixed by the model's seed, also in a resumed training."""

__all__ = ["ImageOrder"]

from typing import cast

import torch
from anomalib.data import Batch

from anomalib_scrd.integration.mixin_base import ModelMixin
from anomalib_scrd.training.full_batches import FullBatches
from anomalib_scrd.training.resuming import loader_starts_again
from anomalib_scrd.training.seeding import seed_epoch


class ImageOrder(ModelMixin):
    """Seeds every epoch of :class:`~anomalib_scrd.lightning_model.ScaleAwareCRD` and counts its batches."""

    _batches_seen: int
    _epoch_began: int
    _full_batches: FullBatches

    def on_train_epoch_start(self) -> None:
        """Fix the order of the images if the model has a seed."""
        if loader_starts_again(self.trainer):
            self._epoch_began = self._batches_seen
            self.seed_order()

    def seed_order(self) -> None:
        """Seed the order of the present epoch's images; nothing without a seed."""
        seed = self.hparams["seed"]
        if seed is not None:
            seed_epoch(seed, self._epoch_began, self.global_rank)

    @property
    def batches_of_epoch(self) -> int | None:
        """Training batches of the present epoch, whose order the seed fixes; None without a seed."""
        return None if self.hparams["seed"] is None else self._batches_seen - self._epoch_began

    def saw(self, batch: Batch) -> None:
        """Remember a training batch, on the model's device, as the previous one."""
        transform = getattr(self.pre_processor, "transform", None)
        images = cast("torch.Tensor", batch.image if transform is None else transform(batch.image))
        self._full_batches(images, getattr(batch, "image_path", None))
