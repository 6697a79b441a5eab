"""Signal 9 at random moments: ``python -m tests.trust.kill --times 100``; ``--of export``, ``benchmark`` or ``edge``.

A training that was killed is started again with its newest checkpoint, or anew where there is none, and its weights,
thresholds and weights of the scales are compared with those of a training that nobody killed, bit for bit. Moments:
random times, and random times within a step, a validation or the writing of a checkpoint (after a random number of its
bytes), in the first, a middle or the last epoch.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    from tests.trust.children import one_thread

    one_thread()

import torch
from lightning.pytorch import Callback

from tests.trust.children import Row, in_child
from tests.trust.tiny import SETUPS, Setup, fit, quiet, write_images

_KINDS = ("time", "step", "validation", "checkpoint")
_PARTS = ("first", "middle", "last")


def die() -> None:
    """End this process as ``kill -9`` does."""
    os.kill(os.getpid(), signal.SIGKILL)


class Killer(Callback):
    """Kills the training it belongs to at a moment.

    Args:
        kind: ``step``, ``validation`` or ``checkpoint``.
        number: Which of these, from 0.
        delay: Seconds after its begin; for a checkpoint the share of its bytes that are written before.
    """

    def __init__(self, kind: str, number: int, delay: float) -> None:
        self.kind, self.number, self.delay = kind, number, delay
        self.seen = 0
        if kind == "checkpoint":
            self._patch_save()

    def _begin(self, kind: str) -> None:
        if kind == self.kind:
            if self.seen == self.number:
                threading.Timer(self.delay, die).start()
            self.seen += 1

    def on_train_batch_start(self, *_: object) -> None:
        self._begin("step")

    def on_validation_start(self, *_: object) -> None:
        self._begin("validation")

    def _patch_save(self) -> None:
        save, killer = torch.save, self

        class Dying:
            def __init__(self, file: Any) -> None:
                self.file, self.left = file, int(killer.delay * 12_000_000)

            def write(self, content: Any) -> int:
                size = memoryview(content).nbytes
                if size >= self.left:
                    self.file.write(memoryview(content).cast("B")[: self.left])
                    self.file.flush()
                    die()
                self.left -= size
                return self.file.write(content)

            def flush(self) -> None:
                self.file.flush()

        def dying(content: Any, file: Any) -> None:
            save(content, Dying(file) if self.seen == self.number else file)
            if self.seen == self.number:  # all bytes are written, the file has not its name yet
                die()
            self.seen += 1

        torch.save = dying


def newest(folder: Path) -> Path | None:
    """The checkpoint with the most steps, of those that a killed training has left.

    Raises:
        Exception: If a file under the name of a checkpoint is not a whole one.
    """
    files = [path for path in folder.rglob("*.ckpt") if not path.parent.is_symlink()]
    steps = {path: torch.load(path, weights_only=True)["global_step"] for path in files}
    return max(steps, key=lambda path: (steps[path], path.stat().st_mtime_ns), default=None)


def difference(first: Path, second: Path) -> str | None:
    """What differs between two states, None if nothing does."""
    one, two = (torch.load(path, weights_only=True) for path in (first, second))
    if one.keys() != two.keys():
        return f"names differ: {sorted(one.keys() ^ two.keys())[:3]}"
    wrong = [name for name in one if one[name].numpy().tobytes() != two[name].numpy().tobytes()]
    if not wrong:
        return None
    most = max((one[name].double() - two[name].double()).abs().nan_to_num().max().item() for name in wrong)
    return f"{len(wrong)} of {len(one)} tensors differ, by {most:.3g} at most, first {wrong[0]}"


def moment(kind: str, part: str, draw: random.Random, counts: dict[str, int]) -> tuple[int, float]:
    """A number of a step, validation or checkpoint in a part of a training, and a delay."""
    count = max(counts[kind], 1)
    third = max(count // 3, 1)
    low, high = {"first": (0, third), "middle": (third, 2 * third), "last": (count - third, count)}[part]
    number = min(draw.randrange(low, max(high, low + 1)), count - 1)
    return number, draw.random() if kind == "checkpoint" else draw.uniform(0, 0.05 if kind == "step" else 0.2)


class Counter(Callback):
    """Counts the steps and validations of a training; the checkpoints are those of its plan."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(_KINDS, 0)
        save = torch.save

        def counting(*arguments: Any) -> None:
            self.counts["checkpoint"] += 1
            save(*arguments)

        torch.save = counting

    def on_train_batch_start(self, *_: object) -> None:
        self.counts["step"] += 1

    def on_validation_start(self, *_: object) -> None:
        self.counts["validation"] += 1


def kill_trainings(times: int, seed: int, names: list[str], scratch: Path) -> Row:
    """Kill trainings, one setup after the other, and resume each."""
    row = Row(f"training, signal 9 ({', '.join(names)})")
    images = write_images(scratch / "images")
    draw = random.Random(seed)
    expected: dict[str, tuple[Path, dict[str, Any]]] = {}

    def trained(setup: Setup, output: Path, state: Path, checkpoint: Path | None = None) -> Callable[[], None]:
        def work() -> None:
            counter = Counter()
            start = time.monotonic()
            model = fit(images, output, setup, checkpoint, [counter])
            facts = counter.counts | {"seconds": time.monotonic() - start}
            state.with_suffix(".json").write_text(json.dumps(facts))
            torch.save(model.state_dict(), state)

        return work

    killed = 0
    for number in range(times):
        name = names[number % len(names)]
        setup = SETUPS[name]
        if name not in expected:
            state = scratch / f"{name}.pt"
            ended = in_child(trained(setup, scratch / "whole" / name, state), scratch / "whole.log")
            if ended != "done":
                row.count(f"{name}: uninterrupted training {ended}: {_tail(scratch / 'whole.log')}")
                continue
            expected[name] = state, json.loads(state.with_suffix(".json").read_text())
        state, facts = expected[name]
        output, log, found = scratch / str(number), scratch / f"{number}.log", scratch / f"{number}.pt"
        what = _KINDS[(number // len(names)) % len(_KINDS)]
        part = draw.choice(_PARTS)
        if what == "time":
            after = draw.uniform(0, facts["seconds"])
            ended = in_child(partial(fit, images, output, setup), log, kill_after=after)
            where = f"after {after:.2f} s"
        else:
            index, delay = moment(what, part, draw, facts)
            ended = in_child(partial(_fit_and_die, images, output, setup, (what, index, delay)), log)
            where = f"{what} {index}, {delay:.3f}"
        killed += ended == "killed"
        fault = f"{ended}: {_tail(log)}" if ended in {"failed", "hung", "crashed"} else None
        checkpoint = None
        if fault is None:
            try:
                checkpoint = newest(output) if output.exists() else None
            except Exception as error:  # noqa: BLE001 - a half file under a final name
                fault = f"half a checkpoint: {error}"
        if fault is None:
            ended = in_child(trained(setup, output, found, checkpoint), log)
            fault = f"resumed training {ended}: {_tail(log)}" if ended != "done" else difference(state, found)
        row.count(fault and f"{name}, {where}, from {checkpoint and checkpoint.name}: {fault}")
        print(f"{number + 1}/{times} {name}, {where}: {'ok' if fault is None else 'LOST'}", flush=True)
        shutil.rmtree(output, ignore_errors=True)
        found.unlink(missing_ok=True)
    row.notes.append(f"{killed} were killed before their end, seed {seed}")
    return row


def _fit_and_die(images: Path, output: Path, setup: Setup, killer: tuple[str, int, float]) -> None:
    fit(images, output, setup, None, [Killer(*killer)])  # the killer patches torch.save in the child


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else "no output"


def kill_exports(times: int, seed: int, scratch: Path) -> Row:
    """Kill exports over an earlier one; the files under final names are always those of one export."""
    row = Row("export to OpenVINO, signal 9")
    draw = random.Random(seed)
    folder = scratch / "export"
    files = folder / "weights" / "openvino"

    def export(value: float) -> None:
        from tests.models import build_model

        model = build_model(layers=["layer1", "layer2"], seed=3).eval()
        with torch.no_grad():
            next(iter(model.model.student.parameters())).fill_(value)
        model.to_openvino(folder)

    def contents() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(files.glob("model.*"))} if files.exists() else {}

    def readable() -> None:
        import openvino

        openvino.Core().read_model(files / "model.xml")

    states = []
    start = time.monotonic()
    for value in (0.01, 0.02):
        ended = in_child(lambda value=value: export(value), scratch / "export.log")
        if ended != "done":
            row.count(f"an export nobody killed {ended}: {_tail(scratch / 'export.log')}")
            return row
        states.append(contents())
    seconds = (time.monotonic() - start) / 2
    killed = 0
    for number in range(times):
        after = draw.uniform(0, 1.1 * seconds) if number % 2 else draw.uniform(0.8 * seconds, 1.1 * seconds)
        ended = in_child(lambda value=(0.01, 0.02)[number % 2]: export(value), scratch / "export.log", after)
        killed += ended == "killed"
        fault = None if ended in {"killed", "done"} else f"{ended}: {_tail(scratch / 'export.log')}"
        found = contents()
        if fault is None and found not in states:
            fault = f"after {after:.2f} s: mixed files {sorted(found)}"
        if fault is None and in_child(readable, scratch / "export.log") != "done":
            fault = f"after {after:.2f} s: unreadable"
        row.count(fault)
        print(f"{number + 1}/{times} after {after:.2f} s: {ended}, {'ok' if fault is None else 'LOST'}", flush=True)
    left = [path.name for path in files.iterdir() if path.name.startswith(".")]
    row.notes.append(f"{killed} were killed before their end, {len(left)} hidden folders left, seed {seed}")
    return row


def kill_benchmarks(times: int, seed: int, scratch: Path) -> Row:
    """Kill a benchmark of two real trainings and start it again, until it has ended; no run is done twice."""
    from anomalib_scrd.benchmark.quality.config import BenchmarkConfig
    from anomalib_scrd.benchmark.quality.results import RunStore
    from anomalib_scrd.benchmark.quality.runner import run_benchmark
    from tests.benchmark.quality.tiny import folder_arguments, write_data

    row = Row("benchmark, signal 9")
    draw = random.Random(seed)
    write_data(scratch / "tiny")
    os.environ["ANOMALIB_SCRD_DATA"] = str(scratch)
    model = {
        "class_path": "tests.benchmark.quality.stubs.StubModel",
        "init_args": {"journal": str(scratch / "journal.txt")},
        "max_steps": 3,
    }

    def config(output: Path) -> Any:
        return BenchmarkConfig(
            models={"A": model, "B": model},
            data={"tiny": folder_arguments("${oc.env:ANOMALIB_SCRD_DATA}/tiny")},
            output=output,
            image_size=(24, 24),
            holdout=0.2,
            accelerator="cpu",
            isolate=False,
            cases=1,
        )

    def run(output: Path) -> Callable[[], None]:
        return lambda: run_benchmark(config(output), say=print) and None

    def scores(output: Path) -> dict[str, Any]:
        made = config(output)
        volatile = ("seconds", "time", "memory", "date", "load", "peak", "path", "folder")
        return {
            f"{result['model']}/{result['seed']}": {
                key: value for key, value in result.items() if not any(word in key for word in volatile)
            }
            for result in RunStore(made.output).all(made)
        }

    start = time.monotonic()
    if in_child(run(scratch / "whole"), scratch / "benchmark.log") != "done":
        row.count(f"a benchmark nobody killed failed: {_tail(scratch / 'benchmark.log')}")
        return row
    seconds, expected = time.monotonic() - start, scores(scratch / "whole")
    killed = 0
    for number in range(times):
        output, after = scratch / f"benchmark{number}", draw.uniform(0, seconds)
        ended = in_child(run(output), scratch / "benchmark.log", after)
        killed += ended == "killed"
        ended = in_child(run(output), scratch / "benchmark.log")
        fault = None if ended == "done" else f"after {after:.2f} s, then {ended}: {_tail(scratch / 'benchmark.log')}"
        found = scores(output) if fault is None else {}
        if fault is None and _numbers(found) != _numbers(expected):
            fault = f"after {after:.2f} s: other results"
        row.count(fault)
        print(f"{number + 1}/{times} after {after:.2f} s: {'ok' if fault is None else 'LOST'}", flush=True)
        shutil.rmtree(output, ignore_errors=True)
    row.notes.append(f"{killed} were killed before their end, seed {seed}")
    return row


def _numbers(results: dict[str, Any]) -> dict[str, Any]:
    """Metrics and status of each run."""
    wanted = ("status", "metrics", "image_auroc", "image_ap", "f1", "threshold")
    return {run: {key: result[key] for key in wanted if key in result} for run, result in results.items()}


def kill_edge_runs(times: int, seed: int, scratch: Path) -> Row:
    """Kill the runner of devices again and again over one folder, each time over new results."""
    import subprocess

    from anomalib_scrd.edge.journal import read_records
    from tests.edge.conftest import ENVIRONMENT, build_openvino, command, save_grey

    row = Row("edge run, signal 9")
    draw = random.Random(seed)
    images, output = scratch / "images", scratch / "results"
    for index in range(200):
        save_grey(images / f"{index:03d}.png", 1 + index)
    model = build_openvino(scratch / "model.xml")
    words = (model, images, "--maps", "npz", "--quiet", "--output")
    start = time.monotonic()
    subprocess.run(command((*words, scratch / "whole")), env=ENVIRONMENT, check=True)
    seconds, killed = time.monotonic() - start, 0
    for number in range(times):
        process = subprocess.Popen(command((*words, output)), env=ENVIRONMENT, stderr=subprocess.DEVNULL)
        time.sleep(draw.uniform(0.5, 1) * seconds)
        killed += process.poll() is None
        process.kill()
        process.wait()
        done = subprocess.run(command((*words, output)), env=ENVIRONMENT, check=False, capture_output=True, text=True)
        records = {record.path: record for record in read_records(output)}
        fault = None
        if done.returncode:
            fault = f"exit status {done.returncode}: {done.stderr.strip()[-200:]}"
        elif len(records) != 200 or any(
            abs((record.score or 0) - (1 + int(path[:3])) / 255) > 1e-5 for path, record in records.items()
        ):
            fault = f"{len(records)} records, or other scores"
        row.count(fault)
        print(f"{number + 1}/{times}: {'ok' if fault is None else 'LOST'}", flush=True)
        shutil.rmtree(output, ignore_errors=True)
    row.notes.append(f"{killed} were killed before their end, seed {seed}")
    return row


def main(words: list[str]) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.trust.kill", description=__doc__)
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--of", choices=("training", "export", "benchmark", "edge"), default="training")
    parser.add_argument("--seed", type=int, default=0)
    eager = [name for name in SETUPS if name != "compiled"]
    parser.add_argument("--setups", nargs="+", choices=list(SETUPS), default=eager)
    arguments = parser.parse_args(words)
    quiet()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="trust-") as name:
        scratch = Path(name)
        os.chdir(scratch)
        if arguments.of == "training":
            row = kill_trainings(arguments.times, arguments.seed, arguments.setups, scratch)
        else:
            kill = {"export": kill_exports, "benchmark": kill_benchmarks, "edge": kill_edge_runs}[arguments.of]
            row = kill(arguments.times, arguments.seed, scratch)
        os.chdir("/")
    print(row)
    return 1 if row.lost else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
