"""Weights of levels and extents in the image score, and the AUROC of each alone.

    python examples/scale_weights.py weights.png brain=brain.ckpt=path/to/brain magnetic=magnetic.ckpt=path/to/magnetic

Each folder has ``test/good`` and one ``test/<kind>`` or more. The test images are used only after the training. Needs
``pip install ".[benchmark]"``.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from anomalib.data import Folder
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score

from anomalib_scrd import ScaleAwareCRD
from anomalib_scrd.scoring.evidence import EXTENTS


class Scales(NamedTuple):
    """One data set: rows are plain, then damped distances, finest level first; columns are extents."""

    name: str
    rows: list[str]
    weights: np.ndarray
    alone: np.ndarray
    together: float


@torch.no_grad()
def scales(name: str, checkpoint: Path, folder: Path) -> Scales:
    """Weights of a checkpoint, and the image AUROC of each piece of its evidence on test images.

    Args:
        name: Name of the data set.
        checkpoint: Checkpoint of a training with ``scoring.scale_adaptation: fitted``.
        folder: Folder with ``test/good`` and ``test/<kind>``.

    Returns:
        The two tables, (2 M, 6), and the AUROC of the score.
    """
    model = ScaleAwareCRD.load_from_checkpoint(checkpoint, pre_trained=False, map_location="cpu").eval()
    if model.hparams["scoring"]["scale_adaptation"] != "fitted":
        msg = f"{checkpoint} must be of a training with scoring.scale_adaptation fitted, got {model.hparams['scoring']}"
        raise SystemExit(msg)
    kinds = sorted(path.name for path in (folder / "test").iterdir() if path.is_dir() and path.name != "good")
    data = Folder(
        name=name,
        root=folder,
        normal_dir="test/good",
        normal_test_dir="test/good",
        abnormal_dir=[f"test/{kind}" for kind in kinds],
        val_split_mode="none",
        num_workers=0,
    )
    data.setup()
    evidence, labels = [], []
    for item in data.test_data:
        images = model.pre_processor.transform(item.image.unsqueeze(0))
        evidence.append(model.model.evidence(images)[0])
        labels.append(bool(item.gt_label))
    features = torch.cat(evidence)
    fitted = model.model.map_and_score.score_weights
    alone = [roc_auc_score(labels, features[:, index]) for index in range(features.shape[1])]
    shape = (-1, len(EXTENTS))
    together = float(roc_auc_score(labels, fitted(features)))
    rows = [f"{kind} {distance}" for kind in ("plain", "damped") for distance in model.model.distance_names]
    return Scales(name, rows, fitted.weight.numpy().reshape(shape), np.array(alone).reshape(shape), together)


def draw(found: list[Scales], path: Path) -> None:
    """Draw two tables for each data set.

    Args:
        found: Data sets.
        path: Picture to write.
    """
    figure = Figure(figsize=(14, 3.6 * len(found)), layout="constrained")
    rows = figure.subplots(len(found), 2, squeeze=False)
    for (left, right), one in zip(rows, found, strict=True):
        most = np.abs(one.weights).max()
        for axes, table, title, limits in (
            (left, one.weights, f"{one.name}: weight", (-most, most)),
            (right, one.alone, f"{one.name}: image AUROC of each alone; of the score {one.together:.3f}", (0, 1)),
        ):
            image = axes.imshow(table, cmap="RdBu_r", vmin=limits[0], vmax=limits[1], aspect="auto")
            axes.set_title(title, fontsize=9)
            axes.set_xticks(range(len(EXTENTS)), EXTENTS, fontsize=7)
            axes.set_yticks(range(len(one.rows)), one.rows, fontsize=7)
            for (row, column), value in np.ndenumerate(table):
                colour = "white" if abs(image.norm(value) - 0.5) > 0.35 else "black"
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)
    figure.savefig(path, dpi=75)


def main() -> None:
    """Read the command line, draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path, help="picture to write, .png")
    parser.add_argument("sets", nargs="+", metavar="NAME=CHECKPOINT=FOLDER")
    arguments = parser.parse_args()
    parts = [text.split("=") for text in arguments.sets]
    for text, part in zip(arguments.sets, parts, strict=True):
        if len(part) != 3:
            parser.error(f"a set is NAME=CHECKPOINT=FOLDER, got {text!r}")
        if not (Path(part[1]).is_file() and Path(part[2], "test", "good").is_dir()):
            parser.error(f"a set needs a file and a folder with test/good, got {text!r}")
    draw([scales(name, Path(checkpoint), Path(folder)) for name, checkpoint, folder in parts], arguments.picture)


if __name__ == "__main__":
    main()
