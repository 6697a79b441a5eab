"""The soak test detects growth."""

import os

from tests.trust.scripts import LINUX
from tests.trust.soak import soak


@LINUX
def test_a_leak_is_noticed_and_steadiness_is_not() -> None:
    kept: list[bytearray] = []
    assert "memory grows" in str(soak(lambda: kept.append(bytearray(10_000)), 3000).fault())
    kept.clear()
    files: list[int] = []
    assert "files grow" in str(soak(lambda: files.append(os.open(__file__, os.O_RDONLY)), 60).fault())
    for file in files:
        os.close(file)
    assert soak(lambda: sum(range(100)), 3000).fault() is None
