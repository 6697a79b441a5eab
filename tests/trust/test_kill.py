"""A few kills of each kind; `python -m tests.trust.kill` does any number of them."""

from tests.trust.scripts import LINUX, script


@LINUX
def test_killed_trainings() -> None:
    """One of each moment: at a random time, in a step, in a validation, while a checkpoint is written."""
    assert "| 4 | 4 | 0 |" in script("kill", "--times", "4", "--setups", "features kept")


@LINUX
def test_killed_benchmarks() -> None:
    assert "| 2 | 2 | 0 |" in script("kill", "--of", "benchmark", "--times", "2")
