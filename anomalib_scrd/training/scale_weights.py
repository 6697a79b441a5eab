"""The weights of the scales are fitted on the images that a training holds out."""

__all__ = ["ScaleWeights"]

from typing import Any, cast

import torch

from anomalib_scrd.integration.mixin_base import ModelMixin
from anomalib_scrd.noise import Normalisation
from anomalib_scrd.scoring.fitting import FEWEST_IMAGES, fit_weights
from anomalib_scrd.training.held_out import HeldOut
from anomalib_scrd.training.pre_processing import normalisation


class ScaleWeights(ModelMixin):
    """Fits the weights of :class:`~anomalib_scrd.lightning_model.ScaleAwareCRD` before thresholds are found."""

    held_out: HeldOut
    _seed: int | None

    @torch.no_grad()
    def before_thresholds(self) -> None:
        """Fit the weights of the scales to the student as it is now; called before thresholds are found in a fit.

        With fewer than two held-out images (no data module, ``scoring.held_out`` 0) the weights stay as they are.
        """
        if len(self.held_out) < FEWEST_IMAGES:
            return
        model: Any = self.model
        images = model.tiles(torch.cat(list(self.held_out.images(self))))
        normalised = self.normalisation()
        cast("Any", self).note_range(images if normalised is None else normalised.undo(images))
        if model.tiling is not None:  # the first images get anomalies: tiles of different places
            order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
            images = images[order.to(images.device)]
        scores = fit_weights(model, images, normalised, self._seed or 0)
        # With tiles they are those of tiles, and no image's.
        self.held_out.left_out_scores = scores if model.tiling is None else None

    def normalisation(self) -> Normalisation | None:
        """Mean and standard deviation by which the pre-processor normalises, on the model's device."""
        found = normalisation(getattr(self.pre_processor, "transform", None))
        return None if found is None else Normalisation(*(values.to(self.device) for values in found))
