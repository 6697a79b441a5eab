"""The soak test detects growth."""

import mmap
import os

from tests.trust.scripts import LINUX
from tests.trust.soak import soak


@LINUX
def test_a_leak_is_noticed_and_steadiness_is_not() -> None:
    kept: list[mmap.mmap] = []

    def leak() -> None:
        """New pages: what the heap gives may be memory of earlier tests."""
        kept.append(mmap.mmap(-1, 16_384))
        kept[-1].write(b"1" * 16_384)

    assert "memory grows" in str(soak(leak, 3000).fault())
    kept.clear()
    files: list[int] = []
    assert "files grow" in str(soak(lambda: files.append(os.open(__file__, os.O_RDONLY)), 60).fault())
    for file in files:
        os.close(file)
    assert soak(lambda: sum(range(100)), 3000).fault() is None
