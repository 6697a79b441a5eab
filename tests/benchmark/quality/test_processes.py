"""Worker processes: two at a time, one of them killed, then the benchmark itself killed and started again."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anomalib_scrd.benchmark.quality.results import RunStore
from anomalib_scrd.benchmark.quality.runner import run_benchmark

REPOSITORY = Path(__file__).parents[3]


def _wait(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.1)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{process}/status")
    return not (status.exists() and "State:\tZ" in status.read_text())


@pytest.mark.skipif(sys.platform == "win32", reason="uses signals")
def test_killed_runs_and_a_killed_benchmark(
    benchmark_of: Callable[..., Any], stub: Callable[..., Any], tmp_path: Path
) -> None:
    models = {"Dies": stub(misbehaviour="die"), "Quick": stub(), "Sleeps": stub(misbehaviour="sleep")}
    config = benchmark_of(models, workers=2)
    store = RunStore(config.output)
    dies, quick, sleeps = config.runs()
    file = tmp_path / "benchmark.yaml"
    settings = {
        "models": models,
        "data": config.data,
        "output": str(config.output),
        "image_size": list(config.image_size),
        "holdout": config.holdout,
        "accelerator": "cpu",
        "workers": 2,
        "cases": config.cases,
    }
    file.write_text(json.dumps(settings))  # JSON is YAML
    paths = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"STUB_SLEEP": "1", "PYTHONPATH": paths}
    command = [sys.executable, "-m", "anomalib_scrd.benchmark", "--config", str(file)]
    benchmark = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    try:
        _wait(lambda: store.is_finished(quick) and store.load(dies) is not None, "two of three runs")
        journal = tmp_path / "journal.txt"
        _wait(lambda: journal.read_text().count("saw") == 3, "the third training")
        report = config.output / "report.md"
        _wait(lambda: report.exists() and "Quick" in report.read_text(), "the report")
    finally:
        benchmark.kill()
        output, _ = benchmark.communicate(timeout=60)  # until the fork server has ended as well

    failed = store.load(dies)
    assert failed is not None
    assert failed["status"] == "failed"
    assert f"signal {int(signal.SIGKILL)}" in failed["error"]
    assert "/3] tiny Dies seed 0: FAILED, the process ended by signal" in output
    worker = int([line for line in journal.read_text().splitlines() if "saw" in line][-1].split()[0])
    _wait(lambda: not _is_alive(worker), "the orphaned worker to end")
    assert store.load(sleeps) is None

    config.retry_failed = False  # "Dies" would kill this very process
    assert not run_benchmark(config, say=lambda _: None)
    results = store.all(config)
    assert {result["model"]: result["status"] for result in results} == {
        "Dies": "failed",
        "Quick": "ok",
        "Sleeps": "ok",
    }
    assert journal.read_text().count("built") == 4  # three at first, then "Sleeps" alone
    concurrent = store.load(quick)
    assert concurrent is not None
    assert concurrent["concurrent"] == 2
