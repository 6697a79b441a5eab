"""Execution of all runs: one at a time or one per device, each in its own process, restartable at any point."""

__all__ = ["run_benchmark"]

import multiprocessing
import multiprocessing.connection
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from anomalib_scrd.benchmark.machine import resolve_device
from anomalib_scrd.benchmark.quality.config import BenchmarkConfig, RunSpec
from anomalib_scrd.benchmark.quality.figures import draw_figures
from anomalib_scrd.benchmark.quality.report import write_report
from anomalib_scrd.benchmark.quality.results import RunStore

_BODY = "anomalib_scrd.benchmark.quality.run"

Results = Iterator[tuple[RunSpec, dict[str, Any]]]


def run_benchmark(config: BenchmarkConfig, *, command: str = "", say: Callable[[str], None] = print) -> bool:
    """Execute every unfinished run, then write tables and figures; return whether all runs succeeded.

    Args:
        config: What to run.
        command: Command line, printed in the report.
        say: Function that prints progress messages.
    """
    store, runs = RunStore(config.output), config.runs()
    left = [run for run in runs if not store.is_finished(run, failed_too=not config.retry_failed)]
    left = left if not config.report_only else []
    say(f"{len(runs)} runs, {len(left)} to be made; output {config.output}")
    started = time.monotonic()
    try:
        results = _in_processes(left, config, store) if config.isolate else _here(left, config)
        for done, (run, result) in enumerate(results, start=1):
            write_report(config, command)
            outcome = f"FAILED, {result.get('error', '')[:160]}"
            if result["status"] == "ok":
                outcome = f"image AUROC {result['metrics']['image_auroc']:.4f}"
            rest = timedelta(seconds=round((time.monotonic() - started) / done * (len(left) - done)))
            say(f"[{done}/{len(left)}] {run.label}: {outcome} ({result['seconds']:.0f} s), about {rest} left")
            for note in result.get("notes", []):
                say(f"    WARNING: {note}")
    finally:
        write_report(config, command)
    for path in draw_figures(config):
        say(f"wrote {path}")
    say(f"wrote {config.output / 'report.md'} and {config.output / 'results.csv'}")
    return all(store.is_finished(run) for run in runs)


def _here(runs: list[RunSpec], config: BenchmarkConfig) -> Results:
    from anomalib_scrd.benchmark.quality.run import execute_and_store

    for run in runs:
        yield run, execute_and_store(run, config)


def _in_processes(runs: list[RunSpec], config: BenchmarkConfig, store: RunStore) -> Results:
    on_gpu = resolve_device(config.accelerator).type == "cuda"
    free, waiting = _slots(config, on_gpu=on_gpu), list(runs)
    # A fork server imports the libraries once for all runs; a process that may have used CUDA must not fork.
    forks = not on_gpu and "forkserver" in multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if forks else "spawn")
    if forks:
        context.set_forkserver_preload([_BODY])
    workers: dict[Any, tuple[BaseProcess, RunSpec, dict[str, str], float]] = {}
    try:
        while waiting or workers:
            while waiting and free:
                run, slot = waiting.pop(0), free.pop(0)
                # not a daemon: data modules start loader processes
                process = context.Process(target=_work, args=(run, config, slot), name=run.label)
                process.start()
                workers[process.sentinel] = (process, run, slot, time.monotonic())
            for sentinel in multiprocessing.connection.wait(list(workers)):
                process, run, slot, started = workers.pop(sentinel)
                process.join()
                free.append(slot)
                result = store.load(run)
                if process.exitcode != 0 or result is None:  # without a result
                    code = process.exitcode or 0
                    cause = f"signal {-code}" if code < 0 else f"exit status {code}"
                    error = f"the process ended by {cause} (out of memory?); its output is in the log"
                    found = {"status": "failed", "error": error, "seconds": time.monotonic() - started}
                    result = store.save(run, found | {"traceback": str(store.path(run, ".log"))})
                yield run, result
    finally:
        for process, *_ in workers.values():
            process.terminate()


def _slots(config: BenchmarkConfig, *, on_gpu: bool) -> list[dict[str, str]]:
    """Environment variables of each worker: its one GPU, or its share of the cores."""
    if on_gpu:
        visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        if visible and max(config.devices) >= len(visible):
            msg = f"devices {config.devices} go beyond the {len(visible)} devices of CUDA_VISIBLE_DEVICES"
            raise ValueError(msg)
        # some models set Lightning's `devices` to 1: they use the only visible GPU
        return [{"CUDA_VISIBLE_DEVICES": visible[index] if visible else str(index)} for index in config.devices]
    if config.workers == 1:
        return [{}]
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // config.workers))
    return [{"OMP_NUM_THREADS": threads} for _ in range(config.workers)]


def _work(run: RunSpec, config: BenchmarkConfig, slot: dict[str, str]) -> None:
    """Body of a worker process: all its output goes to the run's log."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    log = RunStore(config.output).path(run, ".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
    os.environ.update(slot)
    if "OMP_NUM_THREADS" in slot:
        torch.set_num_threads(int(slot["OMP_NUM_THREADS"]))  # the libraries are loaded already
    for _ in _here([run], config):
        pass


def _die_with_parent() -> None:
    """Exit with the parent: an orphan would continue training, and a restarted benchmark would repeat its run."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
