"""Signal 9 at random moments: ``python -m tests.trust.kill --times 100``; ``--of export``, ``benchmark``, ``edge``.

A killed training is resumed from its newest checkpoint, or started again if there is none, and its weights, thresholds
and weights of the scales are compared bit for bit with those of an uninterrupted training. Moments: random times, and
random times within a step, a validation or the writing of a checkpoint (after a random number of its bytes), in the
first, a middle or the last epoch. Times are processor times, so that they are within the work on a busy machine too; a
process that ends before its moment is not counted. With ``--journal`` a stopped command can be resumed.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
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

from tests.trust.children import Journal, Row, die_after, in_child, last_line, per_kind, processor_time
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
        delay: Seconds of processor time after its begin; for a checkpoint the share of its bytes that are written
            before.
    """

    def __init__(self, kind: str, number: int, delay: float) -> None:
        self.kind, self.number, self.delay = kind, number, delay
        self.seen = 0
        if kind == "checkpoint":
            self._patch_save()

    def _begin(self, kind: str) -> None:
        if kind == self.kind:
            if self.seen == self.number:
                die_after(self.delay)
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


def moment(kind: str, part: str, draw: random.Random, facts: dict[str, Any]) -> tuple[int, float]:
    """A number of a step, validation or checkpoint in a part of a training, and a delay."""
    count = max(facts[kind], 1)
    third = max(count // 3, 1)
    low, high = {"first": (0, third), "middle": (third, 2 * third), "last": (count - third, count)}[part]
    number = min(draw.randrange(low, max(high, low + 1)), count - 1)
    return number, draw.random() if kind == "checkpoint" else draw.uniform(0, facts[f"seconds of a {kind}"])


class Counter(Callback):
    """Counts the steps, validations and checkpoints of a training, and measures the first two."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(_KINDS, 0)
        self.taken = {"step": 0.0, "validation": 0.0}
        self.begun = 0.0
        save = torch.save

        def counting(*arguments: Any) -> None:
            self.counts["checkpoint"] += 1
            save(*arguments)

        torch.save = counting

    def _begin(self, kind: str) -> None:
        self.counts[kind] += 1
        self.begun = time.process_time()

    def _end(self, kind: str) -> None:
        self.taken[kind] = max(self.taken[kind], time.process_time() - self.begun)

    def on_train_batch_start(self, *_: object) -> None:
        self._begin("step")

    def on_train_batch_end(self, *_: object) -> None:
        self._end("step")

    def on_validation_start(self, *_: object) -> None:
        self._begin("validation")

    def on_validation_end(self, *_: object) -> None:
        self._end("validation")

    def facts(self) -> dict[str, Any]:
        """Numbers, and the most seconds that a step or a validation has taken."""
        return self.counts | {f"seconds of a {kind}": seconds for kind, seconds in self.taken.items()}


Trial = Callable[[int, random.Random], tuple[str, str, "str | None"]]
"""Takes a number and its random numbers; returns what became of the child, the moment, and what was lost."""


def kills(name: str, times: int, seed: int, journal: Path | None, trial: Trial) -> Row:
    """Try until so many were killed before their end; processes that end before their moment are not counted."""
    row = Row(name)
    kept = Journal(journal, {"what": name, "seed": seed})
    number = 0
    while row.survived + len(row.lost) < times and number < 3 * times:
        if number not in kept.tries:
            start = time.monotonic()
            ended, where, fault = trial(number, random.Random(f"{seed}:{number}"))
            kept.add(number, ended=ended, where=where, fault=fault, seconds=round(time.monotonic() - start, 1))
        facts = kept.tries[number]
        if facts["ended"] != "done" or facts["fault"]:
            row.count(facts["fault"] and f"{number}, {facts['where']}: {facts['fault']}")
        print(f"{number}: {facts}", flush=True)
        number += 1
    row.notes.append(f"seed {seed}")
    return row


def kill_trainings(times: int, seed: int, names: list[str], scratch: Path, journal: Path | None = None) -> Row:
    """Kill trainings, one setup after the other, and resume each."""
    images = write_images(scratch / "images")
    whole: dict[str, dict[str, Any]] = {}

    def trained(setup: Setup, output: Path, state: Path, checkpoint: Path | None = None) -> None:
        counter = Counter()
        before = time.process_time()
        model = fit(images, output, setup, checkpoint, [counter])
        facts = counter.facts() | {"seconds": time.process_time() - before}
        state.with_suffix(".json").write_text(json.dumps(facts))
        torch.save(model.state_dict(), state)

    def expected(name: str) -> tuple[Path, dict[str, Any]]:
        state = scratch / f"{name}.pt"
        if name not in whole:
            log = scratch / "whole.log"
            if in_child(partial(trained, SETUPS[name], scratch / "whole" / name, state), log) != "done":
                raise RuntimeError(log.read_text())
            whole[name] = json.loads(state.with_suffix(".json").read_text())
        return state, whole[name]

    def trial(number: int, draw: random.Random) -> tuple[str, str, str | None]:
        name = names[number % len(names)]
        setup, (state, facts) = SETUPS[name], expected(name)
        output, log, found = (scratch / f"{number}{suffix}" for suffix in ("", ".log", ".pt"))
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
        checkpoint, fault = None, f"{ended}: {last_line(log)}" if ended in {"failed", "crashed"} else None
        if ended == "killed":
            try:
                checkpoint = newest(output) if output.exists() else None
                ended_then = in_child(partial(trained, setup, output, found, checkpoint), log)
                fault = difference(state, found) if ended_then == "done" else f"resumed, {last_line(log)}"
            except Exception as error:  # noqa: BLE001 - a half file under a final name
                fault = f"half a checkpoint: {error}"
        shutil.rmtree(output, ignore_errors=True)
        found.unlink(missing_ok=True)
        return ended, f"{name}, {where}, from {checkpoint and checkpoint.name}", fault

    return kills(f"training, signal 9 ({', '.join(names)})", times, seed, journal, trial)


def _fit_and_die(images: Path, output: Path, setup: Setup, killer: tuple[str, int, float]) -> None:
    fit(images, output, setup, None, [Killer(*killer)])  # the killer patches torch.save in the child


def _seconds(work: Callable[[], Any], log: Path) -> float:
    """Processor time of work that is not killed.

    Raises:
        RuntimeError: If it fails.
    """
    taken = processor_time(work, log)
    if taken is None:
        raise RuntimeError(log.read_text())
    return taken


def kill_exports(times: int, seed: int, scratch: Path, journal: Path | None = None) -> Row:
    """Kill exports over an earlier one; the files under final names are always those of one export."""
    import openvino

    from tests.models import build_model

    folder, log = scratch / "export", scratch / "export.log"
    files = folder / "weights" / "openvino"

    def export(value: float) -> None:
        model = build_model(layers=["layer1", "layer2"], seed=3).eval()
        with torch.no_grad():
            next(iter(model.model.student.parameters())).fill_(value)
        model.to_openvino(folder)

    def contents() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(files.glob("model.*"))} if files.exists() else {}

    def readable() -> None:
        openvino.Core().read_model(files / "model.xml")

    values = (0.01, 0.02)
    states, seconds = [], 0.0
    for value in values:
        seconds = _seconds(partial(export, value), log)
        states.append(contents())

    def trial(number: int, draw: random.Random) -> tuple[str, str, str | None]:
        after = draw.uniform(0 if number % 2 else 0.8 * seconds, seconds)  # the files are written at the end
        ended = in_child(partial(export, values[number % 2]), log, after)
        fault = None if ended in {"killed", "done"} else f"{ended}: {last_line(log)}"
        found = contents()
        if fault is None and found not in states:
            fault = f"mixed files {sorted(found)}"
        if fault is None and in_child(readable, log) != "done":
            fault = "unreadable"
        return ended, f"after {after:.2f} of {seconds:.2f} s", fault

    row = kills("export to OpenVINO, signal 9", times, seed, journal, trial)
    left = [path.name for path in files.iterdir() if path.name.startswith(".")]
    row.notes.append(f"{len(left)} hidden folders left")
    return row


def kill_benchmarks(times: int, seed: int, scratch: Path, journal: Path | None = None) -> Row:
    """Kill a benchmark of two trainings and start it again; the results are those of a whole one."""
    from anomalib_scrd.benchmark.quality.config import BenchmarkConfig
    from anomalib_scrd.benchmark.quality.results import RunStore
    from anomalib_scrd.benchmark.quality.runner import run_benchmark
    from tests.benchmark.quality.tiny import folder_arguments, write_data

    log = scratch / "benchmark.log"
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

    def run(output: Path) -> None:
        run_benchmark(config(output), say=print)

    def scores(output: Path) -> dict[str, Any]:
        made = config(output)
        volatile = ("seconds", "time", "memory", "date", "load", "peak", "path", "folder")
        return {
            f"{result['model']}/{result['seed']}": {
                key: value for key, value in result.items() if not any(word in key for word in volatile)
            }
            for result in RunStore(made.output).all(made)
        }

    seconds = _seconds(partial(run, scratch / "whole"), log)
    expected = _numbers(scores(scratch / "whole"))

    def trial(number: int, draw: random.Random) -> tuple[str, str, str | None]:
        output, after = scratch / f"benchmark{number}", draw.uniform(0, seconds)
        ended = in_child(partial(run, output), log, after)
        then = in_child(partial(run, output), log)
        fault = None if then == "done" else f"then {then}: {last_line(log)}"
        if fault is None and _numbers(scores(output)) != expected:
            fault = "other results"
        shutil.rmtree(output, ignore_errors=True)
        return ended, f"after {after:.2f} of {seconds:.2f} s", fault

    return kills("benchmark, signal 9", times, seed, journal, trial)


def _numbers(results: dict[str, Any]) -> dict[str, Any]:
    """Metrics and status of each run."""
    wanted = ("status", "metrics", "image_auroc", "image_ap", "f1", "threshold")
    return {run: {key: result[key] for key in wanted if key in result} for run, result in results.items()}


def kill_edge_runs(times: int, seed: int, scratch: Path, journal: Path | None = None) -> Row:
    """Kill the runner of devices over 200 images and start it again; nothing is lost, or scored as another."""
    from anomalib_scrd.edge.__main__ import main as edge
    from anomalib_scrd.edge.journal import read_records
    from tests.edge.conftest import build_openvino, save_grey

    images, log, model = scratch / "images", scratch / "edge.log", scratch / "model.xml"
    for index in range(200):
        save_grey(images / f"{index:03d}.png", 1 + index)
    in_child(partial(build_openvino, model), log)  # OpenVINO starts threads

    def run(output: Path) -> None:
        status = edge([str(model), str(images), "--maps", "npz", "--quiet", "--output", str(output)])
        if status:
            raise SystemExit(status)

    seconds = _seconds(partial(run, scratch / "whole"), log)

    def trial(number: int, draw: random.Random) -> tuple[str, str, str | None]:
        output, after = scratch / f"results{number}", draw.uniform(0, seconds)
        ended = in_child(partial(run, output), log, after)
        then = in_child(partial(run, output), log)
        records = {record.path: record for record in read_records(output)} if then == "done" else {}
        wrong = [path for path, record in records.items() if abs(record.score - (1 + int(path[:3])) / 255) > 1e-5]
        fault = None if then == "done" else f"then {then}: {last_line(log)}"
        if fault is None and (len(records) != 200 or wrong):
            fault = f"{len(records)} records, {len(wrong)} wrong"
        shutil.rmtree(output, ignore_errors=True)
        return ended, f"after {after:.2f} of {seconds:.2f} s", fault

    return kills("edge run, signal 9", times, seed, journal, trial)


def main(words: list[str]) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.trust.kill", description=__doc__)
    parser.add_argument(
        "--times", type=int, nargs="+", default=[100], help="how many of each kind, or of all, are killed"
    )
    parser.add_argument(
        "--of", nargs="+", choices=("training", "export", "benchmark", "edge"), default=["training"], help="kinds"
    )
    parser.add_argument("--seed", type=int, default=0)
    eager = [name for name in SETUPS if name != "compiled"]
    parser.add_argument("--setups", nargs="+", choices=list(SETUPS), default=eager)
    parser.add_argument("--journal", type=Path, help="file that keeps the tries, for a command that may be stopped")
    arguments = parser.parse_args(words)
    if arguments.journal is not None and len(arguments.of) > 1:
        parser.error("--journal keeps the tries of one kind")
    quiet()
    torch.set_num_threads(1)
    journal = arguments.journal and arguments.journal.absolute()
    lost = False
    for kind, times in zip(arguments.of, per_kind(arguments.times, arguments.of), strict=True):
        with tempfile.TemporaryDirectory(prefix="trust-") as name:
            scratch = Path(name)
            os.chdir(scratch)
            if kind == "training":
                row = kill_trainings(times, arguments.seed, arguments.setups, scratch, journal)
            else:
                kill = {"export": kill_exports, "benchmark": kill_benchmarks, "edge": kill_edge_runs}[kind]
                row = kill(times, arguments.seed, scratch, journal)
            os.chdir("/")
        print(row, flush=True)
        lost |= bool(row.lost)
    return int(lost)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
