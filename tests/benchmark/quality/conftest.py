"""A tiny data set on disk and a benchmark on it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anomalib_scrd.benchmark.quality.config import BenchmarkConfig
from tests.benchmark.quality.tiny import folder_arguments, write_data


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture(autouse=True)
def _data_root(tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANOMALIB_SCRD_DATA", str(tiny_data.parent))


@pytest.fixture
def stub(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def make(max_steps: int | None = 3, **init_args: Any) -> dict[str, Any]:
        length = {} if max_steps is None else {"max_steps": max_steps}
        journal = str(tmp_path / "journal.txt")
        return {
            "class_path": "tests.benchmark.quality.stubs.StubModel",
            "init_args": {"journal": journal, **init_args},
            **length,
        }

    return make


@pytest.fixture
def benchmark_of(tmp_path: Path) -> Callable[..., BenchmarkConfig]:
    def make(models: dict[str, Any], **kwargs: Any) -> BenchmarkConfig:
        settings: dict[str, Any] = {
            "data": {"tiny": folder_arguments("${oc.env:ANOMALIB_SCRD_DATA}/tiny")},
            "output": tmp_path / "out",
            "image_size": (24, 24),
            "holdout": 0.2,
            "accelerator": "cpu",
            "isolate": False,
            "cases": 1,
        }
        return BenchmarkConfig(models=models, **(settings | kwargs))

    return make
