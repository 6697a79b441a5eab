"""Models that train in an instant, fail on demand and write a line when they are built."""

__all__ = ["StubModel"]

import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from anomalib import LearningType
from anomalib.data import Batch, InferenceBatch
from anomalib.models.components import AnomalibModule
from torch import nn


class _Brightness(nn.Module):
    """Anomaly map: squared distance of the brightness from a learned mean, plus an offset."""

    def __init__(self, offset: float) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.rand(1))
        self.frozen = nn.Parameter(torch.zeros(3), requires_grad=False)
        self.offset = offset

    def forward(self, images: torch.Tensor) -> InferenceBatch | torch.Tensor:
        distance = (images.mean(dim=1, keepdim=True) - self.mean) ** 2
        if self.training:
            return distance.mean()
        return InferenceBatch(
            pred_score=distance.amax(dim=(-3, -2, -1)) + self.offset, anomaly_map=distance + self.offset
        )


class StubModel(AnomalibModule):
    """A stub.

    Args:
        offset: Added to all scores.
        journal: File that gets a line for every model built, and one for the images of the training.
        misbehaviour: ``raise`` in training, ``die`` by a signal, ``nan`` scores, or ``sleep`` while STUB_SLEEP is set.
    """

    def __init__(self, offset: float = 0.0, journal: str | None = None, misbehaviour: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.journal = journal
        self.misbehaviour = misbehaviour
        self.model = _Brightness(float("nan") if misbehaviour == "nan" else offset)
        self._note(f"built with mean {self.model.mean.item():.6f}")

    def _note(self, line: str) -> None:
        if self.journal:
            with Path(self.journal).open("a", encoding="utf-8") as file:
                file.write(f"{os.getpid()} {line}\n")

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        if batch_idx == 0:
            module = self.trainer.datamodule  # type: ignore[attr-defined]
            self._note(f"saw test {hasattr(module, 'test_data')} val {hasattr(module, 'val_data')}")
        if self.misbehaviour == "raise":
            msg = "as requested"
            raise RuntimeError(msg)
        if self.misbehaviour == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.misbehaviour == "sleep" and "STUB_SLEEP" in os.environ:
            time.sleep(120)
        return self.model(batch.image)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.model.parameters(), lr=0.5)

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        return {}

    @property
    def learning_type(self) -> LearningType:
        return LearningType.ONE_CLASS
