"""A training that takes seconds, and its data."""

__all__ = ["SETUPS", "Setup", "data", "data_arguments", "fit", "quiet", "write_images"]

import logging
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomalib.callbacks import ModelCheckpoint
from anomalib.data import Folder
from lightning.pytorch import Callback
from PIL import Image

from anomalib_scrd import ScaleAwareCRD
from tests.models import build_engine, build_model


def quiet() -> None:
    """No messages but errors."""
    warnings.filterwarnings("ignore")
    for name in ("", *list(logging.root.manager.loggerDict)):
        logging.getLogger(name).setLevel(logging.ERROR)


def write_images(root: Path, side: int = 64) -> Path:
    """12 training images, of which 3 are held out: epochs of 3 batches, the last one not full; 2 and 2 test images."""
    rng = np.random.default_rng(0)
    grid = np.linspace(0, 6, side)
    for part, count in (("train/good", 12), ("test/good", 2), ("test/spot", 2)):
        (root / part).mkdir(parents=True)
        for index in range(count):
            image = 110 + 60 * np.sin(grid[:, None] + rng.uniform(0, 1)) * np.cos(grid) + rng.normal(0, 6, (side, side))
            if part == "test/spot":
                image[20:40, 20:40] = rng.uniform(0, 255, (20, 20))
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / part / f"{index:03d}.png")
    return root


def data_arguments(root: Path) -> dict[str, Any]:
    """Arguments of ``Folder`` for the images, plain enough for JSON."""
    return {
        "name": "tiny",
        "root": str(root),
        "normal_dir": "train/good",
        "normal_test_dir": "test/good",
        "abnormal_dir": "test/spot",
        "train_batch_size": 4,
        "eval_batch_size": 4,
        "num_workers": 0,
        "val_split_mode": "same_as_test",
    }


def data(root: Path, **arguments: Any) -> Folder:
    """The images as a data module."""
    return Folder(**(data_arguments(root) | arguments))


@dataclass
class Setup:
    """A training.

    Args:
        model: Arguments of the model.
        trainer: Arguments of the trainer.
        every_step: Whether a checkpoint is written after every step, within epochs too, in place of the model's plan.
    """

    model: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=lambda: {"max_steps": 8})
    every_step: bool = False


PLAIN = {"restore": 0.0, "contrast": 0.0}
SETUPS = {
    "default": Setup(),
    "no anomalies": Setup({"loss": PLAIN}),
    "features kept": Setup({"feature_cache": 1.0}),
    "no anomalies, features kept": Setup({"loss": PLAIN, "feature_cache": 1.0}),
    "accumulated gradients": Setup(trainer={"max_epochs": 3, "accumulate_grad_batches": 2}),
    "a checkpoint per step": Setup(every_step=True),
    "compiled": Setup({"compile_model": True}),
}


def fit(
    root: Path, output: Path, setup: Setup, checkpoint: Path | None = None, callbacks: list[Callback] | None = None
) -> ScaleAwareCRD:
    """Train, from the start or from a checkpoint, with any global random state."""
    own = list(callbacks or [])
    if setup.every_step:
        own.append(ModelCheckpoint(filename="{step:03d}", save_top_k=-1, every_n_train_steps=1))
    model = build_model(**({"seed": 3, "layers": ["layer1", "layer2"]} | setup.model))
    torch.manual_seed(torch.seed() % 2**63)
    engine = build_engine(output, callbacks=own, logger=False, enable_model_summary=False, **setup.trainer)
    engine.fit(model, datamodule=data(root), ckpt_path=checkpoint)
    return model
