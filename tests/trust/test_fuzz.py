"""Some damaged files of each kind; `python -m tests.trust.fuzz` does any number of them."""

import pytest

from tests.trust.scripts import LINUX, script

TIMES = {"images": 100, "exports": 60, "weights": 50, "settings": 20}


@pytest.fixture(scope="module")
def rows() -> dict[str, str]:
    """The row of each kind, from one process: its imports take longer than the files."""
    found = script("fuzz", "--times", *map(str, TIMES.values()), "--of", *TIMES, minutes=16)
    return dict(zip(TIMES, found, strict=True))


@LINUX
@pytest.mark.parametrize(("kind", "times"), TIMES.items())
def test_damaged_files(kind: str, times: int, rows: dict[str, str]) -> None:
    assert rows[kind].startswith(f"| damaged {kind} | {times} | {times} | 0 |")
