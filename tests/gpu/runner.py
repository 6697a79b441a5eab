"""Runs the parts in turn, each in a separate process, until the time is over; the report is always up to date."""

__all__ = ["run_gpu"]

import contextlib
import os
import signal
import subprocess
import time
from datetime import datetime, timezone
from pathlib import Path

from anomalib_scrd.benchmark.files import write_text
from anomalib_scrd.benchmark.machine import describe, resolve_device
from tests.gpu.config import GpuConfig
from tests.gpu.parts import PARTS

_ROOT = Path(__file__).resolve().parents[2]
_POLL = 1.0  # seconds between two checks of a part
_WORTH_STARTING = 10.0  # seconds


def run_gpu(config: GpuConfig, command: str = "") -> bool:
    """Measure.

    Returns:
        Whether no part failed. A part that was stopped at the end of its time is not a failure.
    """
    end = time.monotonic() + 60 * config.minutes
    device = "cpu" if config.device == "cpu" or resolve_device("auto").type == "cpu" else "cuda"
    states = dict.fromkeys(config.parts, "not begun: no time was left")
    head = _head(config, command, device)
    seconds = dict.fromkeys(config.parts, 0.0)
    # The parts run in separate folders and need this package on their path.
    paths = os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths}
    if "ANOMALIB_SCRD_DATA" in environment:
        environment["ANOMALIB_SCRD_DATA"] = str(Path(environment["ANOMALIB_SCRD_DATA"]).resolve())

    def report() -> None:
        lines = ["| part | what | result | state | seconds |", "|---|---|---|---|---|"]
        for name in config.parts:
            result = PARTS[name].result(config.output / name) or "-"
            lines.append(f"| {name} | {PARTS[name].title} | {result} | {states[name]} | {seconds[name]:.0f} |")
        write_text(config.output / "report.md", "\n".join([*head, *lines, ""]))

    for name in config.parts:
        left = end - time.monotonic()
        if left < min(_WORTH_STARTING, 6 * config.minutes):
            break
        lacks = PARTS[name].lacks(tiny=config.tiny)
        if lacks:
            states[name] = f"not begun: {lacks}"
            continue
        folder = config.output / name
        folder.mkdir(parents=True, exist_ok=True)
        words = PARTS[name].command(folder.resolve(), device=device, tiny=config.tiny, seed=config.seed)
        start, most = time.monotonic(), min(left, 60 * config.minutes * PARTS[name].share)
        with (folder / "log.txt").open("ab") as log:
            process = subprocess.Popen(
                words, stdout=log, stderr=subprocess.STDOUT, cwd=folder, env=environment, start_new_session=True
            )
            try:
                while process.poll() is None and time.monotonic() - start < most:
                    states[name], seconds[name] = "running", time.monotonic() - start
                    report()
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(_POLL)
                stopped = process.poll() is None
            finally:
                _stop(process)
        seconds[name] = time.monotonic() - start
        status = "ended" if not process.returncode else f"FAILED, exit status {process.returncode}, see log.txt"
        states[name] = "its time was over" if stopped else status
        report()
        print(f"{name}: {states[name]}; {PARTS[name].result(folder) or 'nothing measured'}", flush=True)
    report()
    print(f"wrote {config.output / 'report.md'}")
    return not any(state.startswith("FAILED") for state in states.values())


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End a process and those that it has started: workers of a loader would keep the GPU."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    elif process.poll() is None:
        process.kill()
    process.wait()


def _head(config: GpuConfig, command: str, device: str) -> list[str]:
    """Markdown lines on top: command and machine."""
    facts = {"date": datetime.now(timezone.utc).isoformat(timespec="seconds"), "seed": config.seed}
    facts |= describe(resolve_device(device))
    machine = "; ".join(f"{name} {value}" for name, value in facts.items())
    sizes = "TINY SIZES: nothing here is a measurement. " if config.tiny else ""
    note = (
        f"{sizes}Trainings are those of `anomalib train` on drawn images, with random weights of the teacher, on which "
        "the speed does not depend. Seconds of a training count from its first step."
    )
    return [
        "# GPU",
        "",
        "```",
        command,
        "```",
        "",
        note,
        "",
        f"Machine: {machine}.",
        "",
    ]
