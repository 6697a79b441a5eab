"""The same work many times in one process: ``python -m tests.trust.soak --of torch --times 100000``.

Also ``--of openvino``, ``edge`` (predictions), ``trainings`` (of 20 steps), ``exports`` (loaded and asked once).

After every hundredth of the work, memory, open files, threads and the time of the work are noted and printed to
standard error. After Ctrl-C or SIGTERM the results so far are printed, except for trainings: Lightning handles the
signal. It survives if the memory of the last two thirds grows by less than a mebibyte in total, or the 95 % interval of
its slope contains zero; and if there are no more files and threads at the end than after a third. The slope of the
latency is also printed; it is meaningful on a quiet machine only.
"""

import argparse
import contextlib
import gc
import io
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    from tests.trust.children import one_thread

    one_thread()

import numpy as np
from scipy import stats

from tests.trust.children import Row

_SAMPLES = 100
_FEWEST = 9  # samples, for a slope
_MEBI = 2**20
_SIDE = 32  # pixels of the images of tiny models


@dataclass
class Watch:
    """Measurements of a process that repeats some work.

    Args:
        memory: Resident memory in bytes, a value per sample.
        latency: Seconds of one piece of work.
        files: Open files.
        threads: Threads.
        times: How often it was done.
    """

    memory: list[int] = field(default_factory=list)
    latency: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    times: int = 0

    def look(self, latency: float) -> None:
        """Take a sample."""
        gc.collect()
        fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        self.memory.append(int(fields["VmRSS"].split()[0]) * 1024)
        self.threads.append(int(fields["Threads"]))
        self.files.append(sum(1 for _ in Path("/proc/self/fd").iterdir()))
        self.latency.append(latency)

    def slope(self, name: str) -> tuple[float, float, float]:
        """Growth from one sample to the next in the last two thirds: its value, and the ends of a 95 % interval."""
        values = np.array(getattr(self, name), float)[len(self.memory) // 3 :]
        fit = stats.linregress(np.arange(len(values)), values)
        half = stats.t.ppf(0.975, len(values) - 2) * fit.stderr
        return fit.slope, fit.slope - half, fit.slope + half

    def fault(self) -> str | None:
        """The growing quantity; None if there is none."""
        slope, low, high = self.slope("memory")
        growth = slope * len(self.memory) * 2 / 3
        if low > 0 and growth > _MEBI:
            return f"memory grows by {growth / _MEBI:.1f} MiB [{low:.0f}, {high:.0f}] bytes a sample"
        third = len(self.memory) // 3
        for name in ("files", "threads"):
            values = getattr(self, name)
            if values[-1] > values[third]:
                return f"{name} grow from {values[third]} to {values[-1]}"
        return None


def soak(work: Callable[[], object], times: int) -> Watch:
    """Do something many times and watch the process."""
    watch = Watch()
    samples = min(_SAMPLES, times)
    gc.collect()
    gc.freeze()  # what was imported need not be looked through at every sample
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for part in np.array_split(np.arange(times), samples):
            start = time.perf_counter()
            for _ in part:
                work()
            watch.look((time.perf_counter() - start) / len(part))
            watch.times += len(part)
            seen = {name: getattr(watch, name)[-1] for name in ("memory", "latency", "files", "threads")}
            print(f"{watch.times}/{times} {seen}", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        pass
    finally:
        gc.unfreeze()
    return watch


def _tiny() -> dict[str, Any]:
    """Arguments of a model whose time goes into the calls, not into the arithmetic."""
    from anomalib_scrd import ScaleAwareCRD

    size = ScaleAwareCRD.configure_pre_processor((_SIDE, _SIDE))
    return {"backbone": "test_resnet", "layers": ["layer1", "layer2"], "seed": 3, "pre_processor": size}


def _torch(scratch: Path) -> Callable[[], object]:
    import torch

    from tests.models import build_model

    torch.set_num_threads(1)
    model = build_model(**_tiny()).eval()
    images = torch.rand(1, 3, _SIDE, _SIDE)

    def predict() -> object:
        with torch.inference_mode():
            return model(images)

    return predict


def _model_file(scratch: Path) -> Path:
    from tests.edge.conftest import build_openvino

    return build_openvino(scratch / "model.xml")


def _openvino(scratch: Path) -> Callable[[], object]:
    import openvino

    compiled = openvino.Core().compile_model(_model_file(scratch), "CPU", {"INFERENCE_NUM_THREADS": 1})
    images = np.random.default_rng(0).random((1, 3, 16, 16), np.float32)
    return lambda: compiled(images)["pred_score"]


def _edge(scratch: Path) -> Callable[[], object]:
    """The runner's engine, one image after the other."""
    from anomalib_scrd.edge.engine import load_engine

    engine = load_engine(_model_file(scratch), threads=1, hint="latency")
    image = np.random.default_rng(0).random((16, 16), np.float32)

    def predict() -> object:
        request = engine.request()
        request.put(image)
        request.start()
        return request.result()

    return predict


def _trainings(scratch: Path) -> Callable[[], object]:
    """Trainings of 20 steps."""
    import shutil

    import torch

    from tests.trust.tiny import Setup, fit, quiet, write_images

    quiet()
    torch.set_num_threads(1)
    images, output = write_images(scratch / "images", side=40), scratch / "output"

    def train() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            fit(images, output, Setup(_tiny(), {"max_steps": 20}))
        shutil.rmtree(output)

    return train


def _exports(scratch: Path) -> Callable[[], object]:
    """An exported file, loaded and asked once."""
    from anomalib_scrd.edge.engine import load_engine

    file = _model_file(scratch)
    image = np.zeros((16, 16), np.float32)

    def load() -> None:
        engine = load_engine(file, threads=1)
        request = engine.request()
        request.put(image)
        request.start()
        request.result()
        engine.close()

    return load


KINDS = {"torch": _torch, "openvino": _openvino, "edge": _edge, "trainings": _trainings, "exports": _exports}
TIMES = {"torch": 100_000, "openvino": 100_000, "edge": 100_000, "trainings": 200, "exports": 1000}


def main(words: list[str]) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.trust.soak", description=__doc__)
    parser.add_argument("--of", choices=tuple(KINDS), default="torch")
    parser.add_argument("--times", type=int, help="by default 100,000 predictions, 200 trainings, 1,000 exports")
    arguments = parser.parse_args(words)
    times = arguments.times or TIMES[arguments.of]
    with tempfile.TemporaryDirectory(prefix="trust-") as name:
        os.chdir(name)
        watch = soak(KINDS[arguments.of](Path(name)), times)
        os.chdir("/")
    if len(watch.memory) < _FEWEST:
        print(f"stopped after {watch.times}: too early to tell")
        return 1
    row = Row(f"{watch.times} times {arguments.of} in one process")
    row.count(watch.fault())
    per = watch.times / len(watch.memory)
    memory, low, high = (value / per for value in watch.slope("memory"))
    late, first, last = (value / per * 1e9 for value in watch.slope("latency"))
    row.notes.append(
        f"memory {memory:.2f} [{low:.2f}, {high:.2f}] bytes each, at the end {watch.memory[-1] / _MEBI:.0f} MiB"
    )
    row.notes.append(
        f"latency {np.median(watch.latency) * 1e3:.3g} ms, slope {late:.2g} [{first:.2g}, {last:.2g}] ns each"
    )
    row.notes.append(f"files {watch.files[0]} to {watch.files[-1]}, threads {watch.threads[0]} to {watch.threads[-1]}")
    print(row)
    return int(bool(row.lost))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
