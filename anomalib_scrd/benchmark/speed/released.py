"""The released method's schedule of work, rendered with the parts of this project."""

__all__ = ["ReleasedSchedule"]

from typing import cast

import torch
from anomalib.data import Batch
from torch import nn

from anomalib_scrd.lightning_model import ScaleAwareCRD
from anomalib_scrd.loss import contrastive_ratio
from anomalib_scrd.noise import step_generator


class ReleasedSchedule(nn.Module):
    """Two full passes: clean and noisy image each through teacher, bottleneck and student, one after the other.

    What the student makes of the noisy image is thrown away; it costs a forward pass, and the memory of its graph, and
    moves the statistics of batch norm. The released code draws the noise in its data loader, so the step does not pay
    for it here either. Only the order of work, the precision and the layout are the released ones: networks, loss and
    optimiser are this project's.

    Args:
        form: A ScaleAwareCRD of the published form.
    """

    def __init__(self, form: ScaleAwareCRD) -> None:
        super().__init__()
        self.model = form.model.to(memory_format=torch.contiguous_format)
        self.form = form
        self._anomalies = form.synthetic_anomalies
        self._noisy: torch.Tensor | None = None

    def configure_optimizers(self) -> object:
        """The optimiser of the published form."""
        return self.form.configure_optimizers()

    def training_step(self, batch: Batch) -> torch.Tensor:
        """The loss of a step."""
        images = cast("torch.Tensor", batch.image)
        if self._noisy is None:
            self._noisy, _ = self._anomalies(images, generator=step_generator(0, 0, device=images.device))
        clean, noisy = self._teacher(images), self._teacher(self._noisy)
        student = self._student(clean)
        self._student(noisy)
        return contrastive_ratio(clean, noisy, student)

    @torch.no_grad()
    def _teacher(self, images: torch.Tensor) -> list[torch.Tensor]:
        # past this project's teacher, which chooses a layout
        return self.model.teacher.backbone(images)

    def _student(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        return self.model.student(self.model.bottleneck(features), [feature.shape[-2:] for feature in features])
