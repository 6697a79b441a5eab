"""What all tests share: where the real data is, and what they leave alone."""

import os
from functools import cache
from pathlib import Path

import openvino
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent

# Processes of pytest-xdist share the cores, and so do the programs that tests start.
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if _WORKERS > 1:
    _THREADS = max(1, (os.cpu_count() or 1) // _WORKERS)
    torch.set_num_threads(_THREADS)
    os.environ["OMP_NUM_THREADS"] = str(_THREADS)

# One for all tests, those of anomalib's inferencer included: several would leave this process with a signal stack that
# is gone, see `anomalib_scrd.benchmark.speed.engines.openvino_core`.
openvino.Core = cache(openvino.Core)


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """anomalib writes results and caches into the working directory: a directory of the test's own."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with the real images, from ANOMALIB_SCRD_DATA or beside the repository."""
    folder = Path(os.environ.get("ANOMALIB_SCRD_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "magnetic_tile" / "train" / "good").is_dir():
        pytest.skip(f"no real images: {folder} has no magnetic_tile/train/good; set ANOMALIB_SCRD_DATA")
    return folder
