"""Common fixtures: the real data, a folder of tiny images, and protection of the working directory."""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from anomalib.data import Folder
from PIL import Image

pytest_plugins = ("tests.order",)

ROOT = Path(__file__).resolve().parent.parent

# Processes of pytest-xdist share the cores, and so do the programs that tests start.
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if _WORKERS > 1:
    _THREADS = max(1, (os.cpu_count() or 1) // _WORKERS)
    torch.set_num_threads(_THREADS)
    os.environ["OMP_NUM_THREADS"] = str(_THREADS)

# One for all tests, those of anomalib's inferencer and of NNCF included: several would leave this process with a freed
# signal stack, see `anomalib_scrd.export.openvino_core`.
openvino.Core = openvino._ov_api.Core = cache(openvino.Core)  # openvino.compile_model makes its own


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """anomalib writes results and caches into the working directory: a directory of the test's own."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with the real images, from ANOMALIB_SCRD_DATA or next to the repository."""
    folder = Path(os.environ.get("ANOMALIB_SCRD_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "magnetic_tile" / "train" / "good").is_dir():
        pytest.skip(f"no real images: {folder} has no magnetic_tile/train/good; set ANOMALIB_SCRD_DATA")
    return folder


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
