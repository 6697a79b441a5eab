"""A tiny data set on disk."""

__all__ = ["folder_arguments", "write_data"]

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

_SIDE = 24


def _image(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(100, 120, (_SIDE, _SIDE, 3)).astype(np.uint8)


def write_data(root: Path, *, contrast: int = 120, seed: int = 0) -> Path:
    """20 normal images for training; 6 normal and 6 with a bright patch of given contrast, and masks, for testing."""
    rng = np.random.default_rng(0)
    folders = {name: root / name for name in ("train/good", "test/good", "test/spot", "ground_truth/spot")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    for index in range(20):
        Image.fromarray(_image(rng)).save(folders["train/good"] / f"{index:02}.png")
    rng = np.random.default_rng(seed + 1)
    for index in range(6):
        Image.fromarray(_image(rng)).save(folders["test/good"] / f"{index:02}.png")
        anomalous, mask = _image(rng), np.zeros((_SIDE, _SIDE), dtype=np.uint8)
        row, column = rng.integers(0, _SIDE - 8, 2)
        patch = (slice(row, row + 8), slice(column, column + 8))
        anomalous[patch] += np.uint8(contrast)
        mask[patch] = 255
        Image.fromarray(anomalous).save(folders["test/spot"] / f"{index:02}.png")
        Image.fromarray(mask).save(folders["ground_truth/spot"] / f"{index:02}.png")
    return root


def folder_arguments(root: str) -> dict[str, Any]:
    return {
        "class_path": "Folder",
        "init_args": {
            "name": "tiny",
            "root": root,
            "normal_dir": "train/good",
            "normal_test_dir": "test/good",
            "abnormal_dir": "test/spot",
            "mask_dir": "ground_truth/spot",
            "train_batch_size": 4,
            "eval_batch_size": 5,
            "num_workers": 0,
        },
    }
