"""Scores of patients and volumes from the scores of their images, as a function and as a callback of a test."""

__all__ = ["PatientScores", "patient_scores"]

import logging
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from pandas import DataFrame
from torchmetrics.functional.classification import binary_auroc

from anomalib_scrd.atomic_files import replacing
from anomalib_scrd.data.items import MedicalBatch

logger = logging.getLogger(__name__)

_ALONE = "anomalib_scrd_alone"


def patient_scores(
    frame: DataFrame,
    by: Literal["patient", "volume"] = "patient",
    top: int = 3,
    score: str = "pred_score",
    label: str = "gt_label",
) -> DataFrame:
    """Score patients, or volumes, by the mean of their highest image scores.

    A lesion appears in a few slices: the mean over all slices would dilute it, and the single highest score is noisy.

    Args:
        frame: A row per image with the columns ``by`` and ``score``, and ``label`` if the truth is known.
        by: Column of the pseudonyms. An image without one ("" or missing) forms its own group, by its image_path.
        top: Number of the highest scores that are averaged, 1 or more (default 3); all scores if there are fewer.
        score: Column of the image scores, larger for anomalous images.
        label: Column of the truth, 0 or 1; a patient is anomalous if one image is.

    Returns:
        A row per patient or volume, the highest score first: ``by``, images (their number), ``score``, and ``label`` if
        the frame has it.

    Raises:
        ValueError: If a column is missing, or top is below 1.
    """
    missing = [column for column in (by, score) if column not in frame]
    if missing:
        msg = f"the table of scores lacks the columns {missing}; it has {list(frame.columns)}"
        raise ValueError(msg)
    if top < 1:
        msg = f"top must be at least 1, got {top}"
        raise ValueError(msg)
    names = frame[by].fillna("").astype(str)
    alone = frame["image_path"] if "image_path" in frame else pd.Series(frame.index, frame.index)
    # Two images may have one name: page 1 of a.tif and the file a_0001.tif.
    number = pd.Series(range(len(frame)), frame.index).where(names == "", -1)
    named = frame.assign(**{by: names.where(names != "", alone.astype(str)), _ALONE: number})
    groups = named.groupby([by, _ALONE], sort=False)
    columns = {
        "images": groups.size(),
        score: groups[score].apply(lambda values: float(values.nlargest(top).mean())),
    }
    if label in frame:
        columns[label] = groups[label].max().astype(int)
    table = DataFrame(columns).reset_index().drop(columns=_ALONE)
    return table.sort_values(score, ascending=False, ignore_index=True)


class PatientScores(Callback):
    """Scores of patients and volumes in a test or prediction.

    Batches of ``MedicalFolder`` and ``MedicalPredictDataset`` have the patient and the volume of each image. If several
    images share one, the scores are written to ``patient_scores.csv`` and ``volume_scores.csv`` in the run's folder,
    and a test with normal and anomalous images logs ``patient_AUROC`` and ``volume_AUROC``.
    """

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop the scores of an earlier run."""
        del trainer, pl_module
        self._rows = []

    on_predict_epoch_start = on_test_epoch_start

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the scores of a batch."""
        del trainer, pl_module, batch, batch_idx
        if not isinstance(outputs, MedicalBatch) or outputs.pred_score is None:
            return
        count = outputs.batch_size
        labels = [None] * count if outputs.gt_label is None else outputs.gt_label.int().tolist()
        samples = outputs.image_path if outputs.sample is None else outputs.sample.tolist()
        samples = [(dataloader_idx, sample) for sample in samples or range(len(self._rows), len(self._rows) + count)]
        scores = outputs.pred_score.float().tolist()
        columns = (samples, outputs.image_path, outputs.patient, outputs.volume, scores, labels)
        names = ("sample", "image_path", "patient", "volume", "pred_score", "gt_label")
        values = [column or [""] * count for column in columns]
        self._rows += [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]

    on_predict_batch_end = on_test_batch_end

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the tables, and log the metrics of a test."""
        frame = self._table()
        for by in ("patient", "volume"):
            if frame.empty or frame[by][frame[by] != ""].is_unique:
                continue
            known = frame.drop(columns="gt_label") if frame.gt_label.isna().any() else frame
            table = patient_scores(known, by)
            if trainer.is_global_zero:
                path = Path(trainer.default_root_dir) / f"{by}_scores.csv"
                with replacing(path, "table") as part:
                    table.to_csv(part, index=False)
                logger.info("scores of %d %ss: %s", len(table), by, path)
            if trainer.testing and "gt_label" in table and {0, 1} <= set(table.gt_label):
                # Ranks instead of scores: torchmetrics would apply a sigmoid to scores above 1.
                ranks = torch.tensor(table.pred_score.rank(pct=True).to_numpy())
                pl_module.log(f"{by}_AUROC", binary_auroc(ranks, torch.tensor(table.gt_label.to_numpy())))

    on_predict_epoch_end = on_test_epoch_end

    def _table(self) -> DataFrame:
        """Rows of all processes."""
        rows = self._rows
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            parts: list[Any] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(parts, rows)
            rows = [row for part in parts for row in part]
        # The sampler repeats images so that all processes get the same number.
        return DataFrame(rows).drop_duplicates("sample") if rows else DataFrame(rows)
