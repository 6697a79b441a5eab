"""The same seed again."""

from tests.trust.scripts import LINUX, script


@LINUX
def test_same_seed_again() -> None:
    assert "| 9 | 9 | 0 |" in script("repeat", "--of", "repeated")


@LINUX
def test_two_processes() -> None:
    assert "| 2 | 2 | 0 |" in script("repeat", "--of", "processes")
