"""Few rounds of each of the scripts beside this file, and that each of them notices what it is there for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trust.children import Row, in_child
from tests.trust.next_versions import broken, commands
from tests.trust.soak import soak

ROOT = Path(__file__).resolve().parents[2]
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="forks, and reads /proc")


def script(name: str, *words: str, minutes: float = 8) -> str:
    """What a script prints; it must end with status 0."""
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", f"tests.trust.{name}", *words],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=60 * minutes,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    return done.stdout.strip().splitlines()[-1]


@LINUX
def test_killed_trainings() -> None:
    """One of each moment: at a random time, in a step, in a validation, while a checkpoint is written."""
    assert "| 4 | 4 | 0 |" in script("kill", "--times", "4", "--setups", "features kept")


@LINUX
def test_killed_benchmarks() -> None:
    assert "| 2 | 2 | 0 |" in script("kill", "--of", "benchmark", "--times", "2")


@LINUX
def test_same_seed_again() -> None:
    assert "| 0 |" in script("repeat")


@LINUX
@pytest.mark.parametrize(("kind", "times"), [("images", 190), ("weights", 50), ("exports", 60), ("settings", 20)])
def test_damaged_files(kind: str, times: int) -> None:
    assert f"| {times} | {times} | 0 |" in script("fuzz", "--times", str(times), "--of", kind)


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


@LINUX
def test_what_becomes_of_a_child(tmp_path: Path) -> None:
    """Or a script would count a crash as a survival."""
    import signal
    import time

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


def test_the_hook_that_broke_is_named() -> None:
    output = """
FAILED tests/integration/test_hooks.py::test_h2_models_are_direct_subclasses - AssertionError: H2: list_models
FAILED tests/integration/test_hooks.py::test_h11_decisions_of_all_processes[DDPStrategy] - TypeError: x
ERROR tests/integration/test_hooks.py - ImportError: cannot import name 'AnomalibModule'
3 failed, 20 passed
"""
    assert broken(output) == {
        "H2": "AssertionError: H2: list_models",
        "H11": "TypeError: x",
        "the import of the contract tests": "ImportError: cannot import name 'AnomalibModule'",
    }
    assert broken("24 passed in 3 s") == {}


def test_the_newest_versions_are_asked_for() -> None:
    project, anomalib, others = commands("python", "git+https://host/anomalib", pre=True)
    assert project[-1] == f"{ROOT}[test,offline]"
    assert anomalib[-4:] == ["--upgrade", "--pre", "--no-deps", "git+https://host/anomalib"]
    assert {"lightning", "timm", "openvino"} <= set(others)
