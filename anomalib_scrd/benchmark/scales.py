"""What the scales of a trained model do on normal images that it was not trained on."""

__all__ = ["PullRecorder", "held_out_scales", "scale_report", "weight_entropy"]

import math
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from anomalib_scrd.benchmark.comparison import compare
from anomalib_scrd.lightning_model import ScaleAwareCRD
from anomalib_scrd.loss import scale_distances

_PULL = "pull/"


class PullRecorder(Callback):
    """Keeps the first and the last pull of each scale that a training logs, finest first; empty where it logs none."""

    def __init__(self) -> None:
        self.first: list[float] = []
        self.last: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Take the values of the first row, once; other models have none, and reading metrics waits for the device."""
        del pl_module, batch, batch_idx
        if not self.first and trainer.global_step == trainer.log_every_n_steps:  # type: ignore[attr-defined]
            self.first = _logged(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the last ones."""
        del pl_module
        self.last = _logged(trainer)


@torch.no_grad()
def held_out_scales(model: ScaleAwareCRD, batches: DataLoader) -> tuple[torch.Tensor, torch.Tensor]:
    """Distance of the student to the teacher at each scale of each image, and the weight of the scale.

    Args:
        model: A trained model.
        batches: Normal images.

    Returns:
        (N, K) distances in [0, 2] and (N, K) weights whose rows sum to K, on the CPU.
    """
    distances, weights = [], []
    for comparison in compare(model, batches):
        distances.append(scale_distances(comparison.teacher, comparison.student).cpu())
        weights.append(comparison.weights.cpu())
    return torch.cat(distances), torch.cat(weights)


def weight_entropy(weights: torch.Tensor) -> float:
    """Mean over images of the entropy of the weights, as a share of the largest there is, in [0, 1].

    1 where all scales weigh the same, 0 where one has all the weight.

    Args:
        weights: (N, K), at least 0, rows sum to K.
    """
    share = weights.double() / weights.shape[1]
    return (-torch.special.xlogy(share, share).sum(dim=1).mean() / math.log(weights.shape[1])).item()


def scale_report(
    model: ScaleAwareCRD, batches: DataLoader, pull: PullRecorder
) -> dict[str, list[str] | list[float] | float]:
    """Whether the weights collapsed, whether they differ between images, and whether every scale has learned.

    Args:
        model: A trained model.
        batches: Held-out normal images.
        pull: What its training logged.

    Returns:
        ``layers``, finest first; for each of them ``weights``, mean over the images, ``weight_spreads``, standard
        deviations between images, ``pull_first`` and ``pull_last``; and ``entropy``, see :func:`weight_entropy`.
    """
    _, weights = held_out_scales(model, batches)
    return {
        "layers": list(model.model.teacher.layers),
        "entropy": weight_entropy(weights),
        "weights": weights.mean(dim=0).tolist(),
        "weight_spreads": weights.std(dim=0, correction=0).tolist(),
        "pull_first": pull.first,
        "pull_last": pull.last,
    }


def _logged(trainer: Trainer) -> list[float]:
    return [value.item() for name, value in trainer.callback_metrics.items() if name.startswith(_PULL)]
