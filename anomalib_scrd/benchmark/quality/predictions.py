"""Lightning callbacks of a run: one collects raw predictions, one tells how far a training is."""

__all__ = ["PredictionCollector", "TrainingProgress"]

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from anomalib.data import Batch
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from torch.nn import functional as F  # noqa: N812

from anomalib_scrd.benchmark.speed.timing import device_clock


class PredictionCollector(Callback):
    """Keeps the raw predictions of a prediction loop and times its batches.

    It stands before the model's pre-processor among the callbacks, so the time of a batch holds pre-processing and
    the model, not the loading of images.

    Args:
        keep_maps: Whether anomaly maps and masks are kept.
    """

    def __init__(self, *, keep_maps: bool = True) -> None:
        self.keep_maps = keep_maps
        self.reset()

    def reset(self) -> None:
        """Forget what was collected."""
        self._scores: list[torch.Tensor] = []
        self._labels: list[torch.Tensor] = []
        self._maps: list[torch.Tensor] = []
        self._masks: list[torch.Tensor] = []
        self._seconds: list[tuple[float, int]] = []
        self.paths: list[str] = []
        self._started = 0.0

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Start the clock."""
        del trainer, batch, batch_idx, dataloader_idx
        self._started = device_clock(pl_module.device)()

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop the clock and keep the raw outputs."""
        del trainer, batch, batch_idx, dataloader_idx
        elapsed = device_clock(pl_module.device)() - self._started
        self._seconds.append((elapsed, self.add(outputs)))

    def add(self, outputs: Any) -> int:
        """Keep the raw outputs of a batch in float32 on the CPU.

        Args:
            outputs: Batch with predictions.

        Returns:
            Number of its images.

        Raises:
            ValueError: If there is neither a score nor a map.
        """
        maps = None if outputs.anomaly_map is None else _drop_channel(outputs.anomaly_map.float())  # (B, H, W)
        if outputs.pred_score is not None:
            scores = outputs.pred_score.float().reshape(-1)
        elif maps is not None:
            scores = maps.amax(dim=(-2, -1))
        else:
            msg = "the model returns neither pred_score nor anomaly_map"
            raise ValueError(msg)
        self._scores.append(scores.cpu())
        self._labels.append(outputs.gt_label.reshape(-1).cpu())
        self.paths.extend(outputs.image_path)
        if not self.keep_maps or maps is None:
            return len(scores)
        if outputs.gt_mask is not None:
            mask = _drop_channel(outputs.gt_mask)
            if maps.shape[-2:] != mask.shape[-2:]:
                maps = F.interpolate(maps.unsqueeze(1), size=mask.shape[-2:], mode="bilinear").squeeze(1)
            self._masks.append((mask != 0).cpu())
        self._maps.append(maps.cpu())
        return len(scores)

    @property
    def scores(self) -> NDArray[np.float32]:
        """(N,) raw image scores."""
        return torch.cat(self._scores).numpy()

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,), 1 = anomalous."""
        return torch.cat(self._labels).to(torch.int64).numpy()

    @property
    def maps(self) -> NDArray[np.float32] | None:
        """(N, H, W) raw anomaly maps, None if the model makes none."""
        return torch.cat(self._maps).numpy() if self._maps else None

    @property
    def masks(self) -> NDArray[np.bool_] | None:
        """(N, H, W) ground truth at the size of the model's input, None if there is none."""
        return torch.cat(self._masks).numpy() if self._masks else None

    @property
    def milliseconds_per_image(self) -> float:
        """Median over the batches, the last smaller one and the first left out where others remain."""
        sizes = [size for _, size in self._seconds]
        full = [seconds / size for seconds, size in self._seconds if size == max(sizes)]
        return 1000 * float(np.median(full[1:] or full))


class TrainingProgress(Callback):
    """Counts training batches and reports now and then.

    Args:
        report: Called with (batches done, batches in all; 0 if that is unknown).
        every: Least number of seconds between two calls.
    """

    def __init__(self, report: Callable[[int, int], None] | None = None, every: float = 5.0) -> None:
        self.report = report
        self.every = every
        self.batches = 0
        self._next = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Count, and report if it is time."""
        del args, kwargs
        self.batches += 1
        now = time.monotonic()
        if self.report is not None and now >= self._next:
            self._next = now + self.every
            self.report(self.batches, _planned_batches(trainer))


def _planned_batches(trainer: Trainer) -> int:
    planned = []
    if trainer.max_steps > 0:
        planned.append(trainer.max_steps * trainer.accumulate_grad_batches)
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        planned.append(int(trainer.max_epochs * trainer.num_training_batches))
    return min(planned, default=0)


def _drop_channel(images: torch.Tensor) -> torch.Tensor:
    """(B, 1, H, W) or (B, H, W) as a plain (B, H, W)."""
    plain = images.as_subclass(torch.Tensor)
    return plain.squeeze(1) if plain.ndim == 4 else plain  # noqa: PLR2004
