"""A folder of tiny images for the tests that train."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import Folder
from anomalib.engine import Engine
from PIL import Image

from anomalib_scrd import ScaleAwareCRD


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 normal training images, 6 normal and 6 defective test images with masks, 64 x 64."""
    root = tmp_path_factory.mktemp("tiny")
    rng = np.random.default_rng(0)
    grid = np.linspace(0, 6, 64)
    for part, count in (("train/good", 12), ("test/good", 6), ("test/spot", 6)):
        (root / part).mkdir(parents=True)
        for index in range(count):
            image = 110 + 60 * np.sin(grid[:, None] + rng.uniform(0, 1)) * np.cos(grid) + rng.normal(0, 6, (64, 64))
            if part == "test/spot":
                top, left = rng.integers(8, 40, 2)
                image[top : top + 12, left : left + 12] = rng.uniform(0, 255, (12, 12))
                mask = np.zeros((64, 64), np.uint8)
                mask[top : top + 12, left : left + 12] = 255
                (root / "ground_truth/spot").mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(root / f"ground_truth/spot/{index:03d}.png")
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / part / f"{index:03d}.png")
    return root


@pytest.fixture
def tiny_data(tiny_folder: Path) -> Callable[..., Folder]:
    """Build a data module over the tiny folder; validation is the test set, for the post-processor's sake alone."""

    def build(**arguments: object) -> Folder:
        defaults: dict = {
            "name": "tiny",
            "root": tiny_folder,
            "normal_dir": "train/good",
            "normal_test_dir": "test/good",
            "abnormal_dir": "test/spot",
            "mask_dir": "ground_truth/spot",
            "train_batch_size": 4,
            "eval_batch_size": 4,
            "num_workers": 0,
            "val_split_mode": "same_as_test",
        }
        return Folder(**(defaults | arguments))

    return build


def build_model(**arguments: object) -> ScaleAwareCRD:
    """A small model with random weights that a seed fixes."""
    torch.manual_seed(0)
    defaults: dict = {
        "backbone": "resnet18",
        "pre_trained": False,
        "student_depth": 1,
        "visualizer": False,
        "pre_processor": ScaleAwareCRD.configure_pre_processor((64, 64)),
    }
    return ScaleAwareCRD(**(defaults | arguments))


def build_engine(root: Path, **arguments: object) -> Engine:
    """An engine on the CPU without a progress bar."""
    defaults: dict = {"default_root_dir": root, "accelerator": "cpu", "devices": 1, "enable_progress_bar": False}
    return Engine(**(defaults | arguments))
