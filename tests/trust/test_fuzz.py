"""Some damaged files of each kind; `python -m tests.trust.fuzz` does any number of them."""

import pytest

from tests.trust.scripts import LINUX, script


@LINUX
@pytest.mark.parametrize(("kind", "times"), [("images", 100), ("weights", 50), ("exports", 60), ("settings", 20)])
def test_damaged_files(kind: str, times: int) -> None:
    assert f"| {times} | {times} | 0 |" in script("fuzz", "--times", str(times), "--of", kind)
