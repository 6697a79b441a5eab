"""Going through all runs: one at a time or one per device, each in its own process, restartable at any point."""

__all__ = ["run_benchmark"]

import json
import math
import multiprocessing
import multiprocessing.connection
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.context import SpawnProcess
from typing import Any

from anomalib_scrd.benchmark.quality.config import BenchmarkConfig, RunSpec
from anomalib_scrd.benchmark.quality.report import write_figures, write_tables
from anomalib_scrd.benchmark.quality.store import RunStore

_POLL_SECONDS = 0.5


@dataclass
class _Worker:
    """A process at work."""

    run: RunSpec
    process: SpawnProcess
    started: float


def run_benchmark(
    config: BenchmarkConfig, *, command: str = "", say: Callable[[str], None] | None = None
) -> list[dict[str, Any]]:
    """Make every run that is not finished yet, then write table and figures.

    Args:
        config: What to run.
        command: Command line that started it, printed in the table.
        say: Takes the lines of progress; prints them by default.

    Returns:
        The results of all runs of this benchmark, failed ones included, in the order of ``config.runs()``.
    """
    say = say or _print
    store = RunStore(config.output)
    runs = config.runs()
    open_runs = [] if config.report_only else [run for run in runs if not _is_done(store, run, config)]
    say(f"{len(runs)} runs, {len(open_runs)} to be made; output {config.output}")
    try:
        if open_runs:
            (_run_isolated if config.isolate else _run_here)(open_runs, config, store, say, command)
    finally:
        write_tables(config, command)
    for path in write_figures(config):
        say(f"wrote {path}")
    say(f"wrote {config.output / 'table.md'} and {config.output / 'results.csv'}")
    return [result for run in runs if (result := store.load(run)) is not None]


def _is_done(store: RunStore, run: RunSpec, config: BenchmarkConfig) -> bool:
    return store.is_finished(run, failed_too=not config.retry_failed)


def _print(line: str) -> None:
    print(line, flush=True)


class _Progress:
    """One line per finished run, with the time that is left."""

    def __init__(self, runs: list[RunSpec], slots: int, say: Callable[[str], None]) -> None:
        self.left = list(runs)
        self.total = len(runs)
        self.slots = slots
        self.say = say
        self.started = time.monotonic()
        self.seconds: dict[tuple[str, str], list[float]] = {}

    def finished(self, run: RunSpec, result: dict[str, Any]) -> None:
        """Tell about a run that ended."""
        self.left.remove(run)
        self.seconds.setdefault((run.data, run.model), []).append(result["seconds"])
        if result["status"] == "ok":
            outcome = f"image AUROC {result['metrics']['image_auroc']:.4f}"
        else:
            outcome = f"FAILED, {result['error'].splitlines()[0][:160]}"
        elapsed = timedelta(seconds=round(time.monotonic() - self.started))
        done = self.total - len(self.left)
        line = f"[{done}/{self.total}] {run.label}: {outcome} ({result['seconds']:.0f} s)"
        self.say(f"{line} | elapsed {elapsed}, about {self._estimate()} left")
        for note in result.get("notes", []):
            self.say(f"    WARNING: {note}")

    def _estimate(self) -> timedelta:
        """Each open run is taken to last as long as its like; one without its like as long as the mean."""
        known = [seconds for values in self.seconds.values() for seconds in values]
        mean = sum(known) / len(known)
        left = 0.0
        for run in self.left:
            alike = self.seconds.get((run.data, run.model)) or [
                seconds for (_, model), values in self.seconds.items() if model == run.model for seconds in values
            ]
            left += sum(alike) / len(alike) if alike else mean
        return timedelta(seconds=math.ceil(left / self.slots))


def _run_here(
    runs: list[RunSpec], config: BenchmarkConfig, store: RunStore, say: Callable[[str], None], command: str
) -> None:
    from anomalib_scrd.benchmark.quality.run import execute_and_store

    del store
    progress = _Progress(runs, 1, say)
    for run in runs:
        progress.finished(run, execute_and_store(run, config))
        write_tables(config, command)


def _run_isolated(
    runs: list[RunSpec], config: BenchmarkConfig, store: RunStore, say: Callable[[str], None], command: str
) -> None:
    slots = _slots(config)
    progress = _Progress(runs, len(slots), say)
    waiting = list(runs)
    free = list(slots)
    workers: dict[int, tuple[_Worker, dict[str, str]]] = {}
    next_report = time.monotonic() + config.report_every
    try:
        while waiting or workers:
            while waiting and free:
                slot = free.pop(0)
                worker = _start(waiting.pop(0), config, slot)
                workers[worker.process.sentinel] = (worker, slot)
            ended = multiprocessing.connection.wait(list(workers), timeout=_POLL_SECONDS)
            for sentinel in ended:
                worker, slot = workers.pop(sentinel)  # type: ignore[arg-type]
                worker.process.join()
                free.append(slot)
                progress.finished(worker.run, _outcome(worker, store))
                write_tables(config, command)
            if time.monotonic() >= next_report:
                next_report += config.report_every
                for worker, _ in workers.values():
                    say(f"    running: {worker.run.label}, {_position(store, worker)}")
    finally:
        for worker, _ in workers.values():
            worker.process.terminate()


def _slots(config: BenchmarkConfig) -> list[dict[str, str]]:
    """Environment variables of each worker process: its one device, or its share of the cores."""
    if config.accelerator != "cpu" and _has_cuda(config.accelerator):
        visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        if visible and max(config.devices) >= len(visible):
            msg = f"devices {config.devices} go beyond the {len(visible)} devices of CUDA_VISIBLE_DEVICES"
            raise ValueError(msg)
        # some models set Lightning's `devices` to 1 themselves; what a process doesn't see, it can't take
        return [{"CUDA_VISIBLE_DEVICES": visible[index] if visible else str(index)} for index in config.devices]
    if config.workers == 1:
        return [{}]
    threads = str(max(1, (os.cpu_count() or 1) // config.workers))
    return [{"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads)} for _ in range(config.workers)]


def _has_cuda(accelerator: str) -> bool:
    if accelerator in {"cuda", "gpu"}:
        return True
    import torch

    return torch.cuda.is_available()


def _start(run: RunSpec, config: BenchmarkConfig, environment: dict[str, str]) -> _Worker:
    saved = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)  # read by the libraries of the new process when they load
    try:
        context = multiprocessing.get_context("spawn")
        # not a daemon: data modules start loader processes of their own
        process = context.Process(target=_work, args=(run, config), name=run.label)
        process.start()
    finally:
        for name, value in saved.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
    return _Worker(run, process, time.monotonic())


def _work(run: RunSpec, config: BenchmarkConfig) -> None:
    """Body of a worker process: all it prints goes to the run's log."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    log = RunStore(config.output).path(run, ".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
    from anomalib_scrd.benchmark.quality.run import execute_and_store

    execute_and_store(run, config)


def _die_with_parent() -> None:
    """A worker without its benchmark would train on unseen, and a restarted benchmark would make its run twice."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _outcome(worker: _Worker, store: RunStore) -> dict[str, Any]:
    """The result of a worker; one that died without leaving one is recorded as failed."""
    result = store.load(worker.run)
    if worker.process.exitcode == 0 and result is not None:
        return result
    run = worker.run
    code = worker.process.exitcode
    cause = f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"
    result = {
        "model": run.model,
        "data": run.data,
        "seed": run.seed,
        "description": run.description,
        "status": "failed",
        "error": f"the process ended by {cause} (out of memory?); its output is in the log",
        "traceback": store.path(run, ".log").relative_to(store.root).as_posix(),
        "seconds": time.monotonic() - worker.started,
    }
    store.path(run, ".progress").unlink(missing_ok=True)
    store.save(run, result)
    return result


def _position(store: RunStore, worker: _Worker) -> str:
    seconds = time.monotonic() - worker.started
    try:
        state = json.loads(store.path(worker.run, ".progress").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return f"{seconds:.0f} s"
    planned = f" of {state['planned']}" if state["planned"] else ""
    return f"step {state['done']}{planned}, {seconds:.0f} s"
