"""Fitting of the scale weights on the held-out images of a training."""

__all__ = ["ScaleWeights"]

import math
from collections.abc import Iterator
from typing import Any, cast

import torch
from torchvision.transforms.v2.functional import resize

from anomalib_scrd.integration.mixin_base import ModelMixin
from anomalib_scrd.noise import Normalisation
from anomalib_scrd.scoring.fitting import FEWEST_IMAGES, fit_prototypes, fit_weights
from anomalib_scrd.training.held_out import HeldOut
from anomalib_scrd.training.pre_processing import normalisation

# Bytes of the held-out images to which the weights are fitted, 500 of 256 x 256 pixels; and the fewest of larger ones.
_MEMORY = 2**29
_FEWEST_LARGE = 20
# Images whose range is looked at at a time.
_AT_ONCE = 16


class ScaleWeights(ModelMixin):
    """Fits prototypes and weights of the scales before thresholds are found."""

    held_out: HeldOut
    _seed: int | None

    @torch.no_grad()
    def before_thresholds(self) -> None:
        """Fit prototypes, and weights of the scales to the present student, before thresholds are found in a fit.

        With fewer than two held-out images (no data module, ``scoring.held_out`` 0) both are unchanged.
        """
        if len(self.held_out) < FEWEST_IMAGES:
            return
        model: Any = self.model
        images, normalised, seed = self._fitted_on()
        for some in images.split(_AT_ONCE):
            cast("Any", self).note_range(some if normalised is None else normalised.undo(some))
        self._fit_prototypes()
        scores = fit_weights(model, images, normalised, seed, self._trained_on())
        # With tiles these are scores of tiles, not of images.
        self.held_out.left_out_scores = scores if model.tiling is None else None

    def normalisation(self) -> Normalisation | None:
        """Mean and standard deviation by which the pre-processor normalises, on the model's device."""
        found = normalisation(getattr(self.pre_processor, "transform", None))
        return None if found is None else Normalisation(*(values.to(self.device) for values in found))

    def _fit_prototypes(self) -> None:
        """Find the prototypes, each time anew: standardised features change in the first steps."""
        fit_prototypes(cast("Any", self.model), self._trained_on(), self._seed or 0)

    def _trained_on(self) -> Iterator[torch.Tensor]:
        """Images, or tiles, that the student is trained on, in batches."""
        return map(cast("Any", self.model).tiles, self.held_out.images(self, trained=True))

    def _fitted_on(self) -> tuple[torch.Tensor, Normalisation | None, int]:
        """Held-out images, or their tiles, their normalisation, and the seed of their anomalies."""
        model: Any = self.model
        images = model.tiles(self._held_out_images())
        if model.tiling is not None:  # only the first get anomalies: mix tiles of all places
            order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
            images = images[order.to(images.device)]
        return images, self.normalisation(), self._seed or 0

    def _held_out_images(self) -> torch.Tensor:
        """Held-out images as one batch: of several sizes enlarged to the largest, as anomalib's batches are.

        If they need more than 512 MiB, every n-th is taken, but at least 20.
        """
        parts: list[torch.Tensor] = []
        seen = step = 0
        for batch in self.held_out.images(self):
            step = step or math.ceil(len(self.held_out) / max(_FEWEST_LARGE, _MEMORY // batch[0].nbytes))
            taken = batch[-seen % step :: step]
            seen += len(batch)
            if len(taken):
                parts.append(taken.clone())  # a slice would keep all of its batch
        largest = [max(part.shape[axis] for part in parts) for axis in (2, 3)]
        return torch.cat([part if list(part.shape[2:]) == largest else resize(part, largest) for part in parts])
