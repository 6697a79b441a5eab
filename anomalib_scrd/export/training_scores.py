"""Scores of a checkpoint, as the training computes them, for the report of its exports.

``python -m anomalib_scrd.export.training_scores CHECKPOINT IMAGES --output FOLDER`` writes the folder for
``python -m anomalib_scrd.edge report ... --training FOLDER``, which compares an export with it. It needs torch and
anomalib; the report does not.
"""

__all__ = ["main", "write_training_scores"]

import argparse
import sys
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from anomalib.engine import Engine
from lightning.pytorch import Callback

from anomalib_scrd.atomic_files import replacing
from anomalib_scrd.data import MedicalPredictDataset
from anomalib_scrd.edge.journal import Journal
from anomalib_scrd.edge.names import Names
from anomalib_scrd.edge.records import Record
from anomalib_scrd.imaging import PictureInfo
from anomalib_scrd.lightning_model import ScaleAwareCRD
from anomalib_scrd.scoring.anomaly_map import compared_with_image

_MOST = 8.0  # standard deviations to which the model clips its evidence


class _Writer(Callback):
    """Writes predictions batch by batch."""

    def __init__(self, journal: Journal, root: Path, pictures: list[PictureInfo], names: Names) -> None:
        self._journal = journal
        self._names = names
        self._root = root
        self._pictures = iter(pictures)
        self._group: list[Record] = []
        self._total = Counter(info.path for info in pictures)
        self._noted: Any = None
        self.levels: list[np.ndarray] = []

    def keep_levels(self, module: Any, arguments: Any, output: Any) -> None:
        """Keep the maps of the scales, (B, M, h, w), from the output of the module with this forward hook."""
        del module, arguments
        self.levels += list(compared_with_image(output.detach()).cpu().numpy())

    def on_predict_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
        """Keep a batch; the post-processor, a later callback, changes it afterwards."""
        del trainer, pl_module
        self._noted = outputs

    def on_predict_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Write the previous batch."""
        del trainer
        self._write(pl_module)

    def on_predict_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Write the last batch."""
        del trainer
        self._write(pl_module)

    def _write(self, model: ScaleAwareCRD) -> None:
        """Write the scores of a batch, and the maps of its scales."""
        outputs, self._noted = self._noted, None
        if outputs is None:
            return
        scores = outputs.pred_score.flatten().tolist()
        labels = [None] * len(scores) if outputs.pred_label is None else outputs.pred_label.flatten().tolist()
        for score, label in zip(scores, labels, strict=True):
            info = next(self._pictures)
            relative = info.path.name if self._root.is_file() else info.path.relative_to(self._root)
            name = self._names(PurePosixPath(relative))
            if self.levels:
                self._write_scales(f"{name}.{info.index:04d}.npz", self.levels.pop(0), model)
            stat = info.path.stat()
            self._group.append(
                Record(
                    name,
                    picture=info.index,
                    pictures=self._total[info.path],
                    score=score,
                    anomalous=None if label is None else bool(label),
                    size=stat.st_size,
                    mtime_ns=stat.st_mtime_ns,
                    patient=self._names.patient(info),
                    volume=self._names.volume(info, name),
                )
            )
            if len(self._group) == self._total[info.path]:
                self._journal.append(self._group)
                self._group = []

    def _write_scales(self, name: str, levels: np.ndarray, model: ScaleAwareCRD) -> None:
        weights = model.model.map_and_score.map_weights
        mean, spread, weight = (
            value.cpu().numpy()[:, None, None] for value in (weights.mean, weights.spread, weights.weight)
        )
        path = self._journal.folder / "scales" / name
        standardised = np.clip((levels - mean) / spread, -_MOST, _MOST).astype(np.float16)
        with replacing(path) as part, part.open("wb") as file:
            np.savez(file, maps=standardised, weights=weight.ravel(), layers=np.array(model.model.distance_names))


def write_training_scores(checkpoint: Path, images: Path, output: Path, salt: Path | None = None) -> None:
    """Predict images with a checkpoint and anomalib's engine, and write the scores.

    Args:
        checkpoint: Checkpoint of a :class:`~anomalib_scrd.ScaleAwareCRD`.
        images: Folder or file; see :class:`~anomalib_scrd.data.MedicalPredictDataset`. Files that cannot be read are
            left out.
        output: New folder of the results: ``scores.jsonl``, ``scores.csv``, and the maps of the scales in ``scales``.
        salt: File with the salt for names, if those of the export are hashed; None keeps the names.

    Raises:
        ValueError: If the folder already has results.
        FileNotFoundError: If there are no images.
    """
    if (output / "scores.jsonl").exists():
        msg = f"output {str(output)!r} already has results: give another folder"
        raise ValueError(msg)
    model = ScaleAwareCRD.load_from_checkpoint(checkpoint, map_location="cpu")
    dataset = MedicalPredictDataset(images, model, on_error="skip")
    names = Names(salt)
    journal = Journal(output, {"format": 1, "engine": "training"})
    writer = _Writer(journal, images, dataset.pictures, names)
    scoring = model.model.map_and_score
    hook = None
    if not scoring.published and model.model.tiling is None:  # the maps of tiles are not those of an image
        hook = scoring.smooth_maps.register_forward_hook(writer.keep_levels)
    try:
        engine = Engine(callbacks=[writer], logger=False, default_root_dir=output)
        engine.predict(model=model, dataset=dataset, return_predictions=False)
    finally:
        journal.close()
        if hook is not None:
            hook.remove()


def main(words: list[str] | None = None) -> int:
    """Run the command.

    Args:
        words: Arguments of the command line; by default those of this process.

    Returns:
        Exit status.
    """
    parser = argparse.ArgumentParser(prog="python -m anomalib_scrd.export.training_scores", description=__doc__)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path)
    parser.add_argument("images", metavar="IMAGES", type=Path)
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--salt", type=Path, metavar="FILE", help="hash names with this salt, as the report does")
    arguments = parser.parse_args(words)
    write_training_scores(arguments.checkpoint, arguments.images, arguments.output, arguments.salt)
    return 0


if __name__ == "__main__":
    sys.exit(main())
