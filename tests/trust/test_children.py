"""What becomes of a child is told, or a script would count a crash as a survival."""

import os
import signal
import time
from pathlib import Path

from tests.trust.children import Row, in_child
from tests.trust.scripts import LINUX


@LINUX
def test_what_becomes_of_a_child(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert in_child(lambda: None, log) == "done"
    assert in_child(lambda: 1 / 0, log) == "failed"
    assert "ZeroDivisionError" in log.read_text()
    assert in_child(lambda: time.sleep(60), log, kill_after=0.05) == "killed"
    assert in_child(lambda: time.sleep(60), log, limit=0.05) == "hung"
    assert in_child(lambda: os.kill(os.getpid(), signal.SIGSEGV), log) == "crashed"


def test_a_row_counts() -> None:
    row = Row("fault")
    for fault in (None, None, "why"):
        row.count(fault)
    assert str(row) == "| fault | 3 | 2 | 1 |"
