"""The same seed again."""

import pytest

from tests.trust.scripts import LINUX, script


@pytest.fixture(scope="module")
def rows() -> list[str]:
    """Both rows from one process: its imports take as long as they do."""
    return script("repeat", "--of", "repeated", "processes", minutes=16)


@LINUX
def test_same_seed_again(rows: list[str]) -> None:
    assert rows[0].startswith("| same seed again")
    assert "| 9 | 9 | 0 |" in rows[0]


@LINUX
def test_two_processes(rows: list[str]) -> None:
    assert rows[1].startswith("| two processes")
    assert "| 2 | 2 | 0 |" in rows[1]
