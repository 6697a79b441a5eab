"""A few kills of each kind; `python -m tests.trust.kill` does any number of them."""

import pytest

from tests.trust.scripts import LINUX, script


@pytest.fixture(scope="module")
def rows() -> list[str]:
    """Both rows from one process: its imports take as long as one of them."""
    return script("kill", "--of", "training", "benchmark", "--times", "4", "2", "--setups", "features kept", minutes=16)


@LINUX
def test_killed_trainings(rows: list[str]) -> None:
    """One of each moment: at a random time, in a step, in a validation, while a checkpoint is written."""
    assert rows[0].startswith("| training")
    assert "| 4 | 4 | 0 |" in rows[0]


@LINUX
def test_killed_benchmarks(rows: list[str]) -> None:
    assert rows[1].startswith("| benchmark")
    assert "| 2 | 2 | 0 |" in rows[1]
