"""The outcome of a child is reported; otherwise a script would count a crash as a survival."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.trust.children import Journal, Row, in_child
from tests.trust.kill import kills
from tests.trust.scripts import LINUX


def spin() -> None:
    """Some hundredths of a second of the processor, within one call that holds the interpreter's lock."""
    sum(range(20_000_000))


@LINUX
def test_what_becomes_of_a_child(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert in_child(lambda: None, log) == "done"
    assert in_child(lambda: 1 / 0, log) == "failed"
    assert "ZeroDivisionError" in log.read_text()
    assert in_child(spin, log, kill_after=0.05) == "killed"
    assert in_child(spin, log) == "done"
    read, write = os.pipe()  # its end comes when nobody can write into it any more

    def fork_and_wait() -> None:
        os.fork()
        time.sleep(60)

    assert in_child(fork_and_wait, log, limit=1) == "hung"
    os.close(write)
    assert os.read(read, 1) == b""
    os.close(read)
    assert in_child(lambda: os.kill(os.getpid(), signal.SIGSEGV), log) == "crashed"


def test_a_row_counts() -> None:
    row = Row("fault")
    for fault in (None, None, "why"):
        row.count(fault)
    assert str(row) == "| fault | 3 | 2 | 1 |"


def test_a_journal_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "journal.jsonl"
    first = Journal(path, {"seed": 1})
    first.add(0, fault=None)
    first.add(1, fault="why")
    path.write_text(path.read_text() + '{"number": 2, "fau')  # killed while it wrote
    again = Journal(path, {"seed": 1})
    assert again.tries == {0: {"fault": None}, 1: {"fault": "why"}}
    again.add(2, fault=None)
    assert sorted(Journal(path, {"seed": 1}).tries) == [0, 1, 2]
    with pytest.raises(ValueError, match=r"is one of .*, expected"):
        Journal(path, {"seed": 2})


def test_kills_are_counted_and_what_had_ended_is_not(tmp_path: Path) -> None:
    """Numbers 0 and 3 had ended before their moment; after a stop only new numbers are tried."""
    tried = []

    def trial(number: int, draw: random.Random) -> tuple[str, str, str | None]:
        tried.append((number, draw.random()))
        return "killed" if number % 3 else "done", "somewhere", "half a file" if number == 4 else None

    for times, expected in ((2, [0, 1, 2]), (4, [3, 4, 5])):
        tried.clear()
        row = kills("x", times, 7, tmp_path / "journal.jsonl", trial)
        assert tried == [(number, random.Random(f"7:{number}").random()) for number in expected]
    assert row.survived == 3
    assert row.lost == ["4, somewhere: half a file"]
