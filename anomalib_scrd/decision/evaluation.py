"""anomalib's test metrics, NaN where they are undefined, and a summary of the labels of a test."""

__all__ = ["AUROC", "DecisionEvaluator", "F1Score"]

from typing import Any

import torch
from anomalib import metrics
from anomalib.metrics import Evaluator
from lightning.pytorch import LightningModule, Trainer
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from anomalib_scrd.decision.thresholds import share_interval
from anomalib_scrd.training.console import say


class AUROC(metrics.AUROC):
    """anomalib's AUROC, but NaN instead of 0 if there is only one class."""

    def compute(self) -> torch.Tensor:  # type: ignore[override]  # as anomalib's
        """The area, () in [0, 1], or NaN; None without images."""
        if not self.update_called:
            return super().compute()
        target = dim_zero_cat(self.target)
        if target.min() == target.max():
            return torch.tensor(float("nan"), device=target.device)
        return super().compute()


class F1Score(metrics.F1Score):
    """anomalib's F1 score, but NaN instead of 0 if nothing is anomalous."""

    def compute(self) -> torch.Tensor:
        """The score, () in [0, 1], or NaN; None without images."""
        anomalous = torch.as_tensor(self.tp) + torch.as_tensor(self.fn)
        if self.update_called and not anomalous.any():
            return torch.tensor(float("nan"), device=anomalous.device)
        return super().compute()


class _Counts(Metric):
    """Numbers of images by ground truth (rows: normal, anomalous) and label (columns)."""

    full_state_update = False
    counts: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("counts", default=torch.zeros(2, 2, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, truth: torch.Tensor, labels: torch.Tensor) -> None:
        """Count a batch of (B,) each."""
        places = 2 * truth.reshape(-1).long() + labels.reshape(-1).long()
        self.counts += torch.bincount(places, minlength=4).reshape(2, 2).to(self.counts.device)

    def compute(self) -> torch.Tensor:
        """(2, 2)."""
        return self.counts


class DecisionEvaluator(Evaluator):
    """AUROC and F1 of images and pixels, and a summary of the predicted labels.

    Metrics that the test images do not define (AUROC without normal or without anomalous images, F1 without anomalous
    ones) are NaN, and a message gives the reason. The summary has the share of normal images that are called anomalous
    and of anomalous images that are found, with Clopper-Pearson intervals.
    """

    def __init__(self) -> None:
        super().__init__(
            test_metrics=[
                AUROC(fields=["pred_score", "gt_label"], prefix="image_"),
                F1Score(fields=["pred_label", "gt_label"], prefix="image_", strict=False),
                AUROC(fields=["anomaly_map", "gt_mask"], prefix="pixel_", strict=False),
                F1Score(fields=["pred_mask", "gt_mask"], prefix="pixel_", strict=False),
            ]
        )
        self._counts = _Counts()

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Update the metrics and the counts with a batch."""
        super().on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        if batch.pred_label is not None and batch.gt_label is not None:
            self._counts.update(batch.gt_label, batch.pred_label)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the metrics and the summary of the labels."""
        super().on_test_epoch_end(trainer, pl_module)
        if not self._counts.update_called:
            return
        counts = self._counts.compute().cpu()
        self._counts.reset()
        if trainer.is_global_zero:
            for line in describe_counts(counts.tolist()):
                say(line)


def describe_counts(counts: list[list[int]]) -> list[str]:
    """Summary of the labels of a test.

    Args:
        counts: Numbers of images by ground truth (normal, anomalous) and label (normal, anomalous).

    Returns:
        One line, and a second one if metrics are undefined.
    """
    parts = []
    texts = ("normal images are called anomalous", "anomalous images are found")
    for (missed, called), text in zip(counts, texts, strict=True):
        total = missed + called
        if total:
            low, high = share_interval(called, total)
            parts.append(f"{called} of {total} {text} ({called / total:.1%}, 95 % interval {low:.1%} to {high:.1%})")
    lines = [f"labels: {'; '.join(parts)}"] if parts else []
    if not sum(counts[1]):
        lines.append("AUROC and F1 are undefined (nan): the test images are all normal.")
    elif not sum(counts[0]):
        lines.append("AUROC is undefined (nan): the test images are all anomalous.")
    return lines
