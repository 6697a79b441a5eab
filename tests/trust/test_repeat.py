"""The same seed again."""

from tests.trust.scripts import LINUX, script


@LINUX
def test_same_seed_again() -> None:
    assert "| 0 |" in script("repeat")
