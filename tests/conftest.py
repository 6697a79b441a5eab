"""What all tests share: where the real data is, and what they leave alone."""

import os
from functools import cache
from pathlib import Path

import openvino
import pytest

ROOT = Path(__file__).resolve().parent.parent

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
