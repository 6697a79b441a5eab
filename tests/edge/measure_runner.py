"""Speed and memory of the edge runner, including reading of PNG files, compared with benchmark_app on the same file.

python tests/edge/measure_runner.py MODEL.xml [--images 20000] [--few 2000] [--rounds 3] [--seconds 5]

Prints the rate of the runner between its first and its last result, the rate that OpenVINO's benchmark_app gives for
the same file and precision, data in memory (with one image per request, and with as many as in the runner), both ratios
round by round, the time from the start of the process to the first result, and the resident memory over a long run.
Nothing else may run on the machine.
"""

# ruff: noqa: T201

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from anomalib_scrd.edge.engine import load_engine


def make_images(folder: Path, count: int, size: tuple[int, int]) -> None:
    """Grey PNG files with structure and noise, a hundred different ones."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0 : size[0], 0 : size[1]] / 16
    data = []
    for index in range(100):
        image = 120 + 60 * np.sin(rows + index) * np.cos(columns - index) + rng.normal(0, 5, size)
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / "one.png")
        data.append((folder / "one.png").read_bytes())
    (folder / "one.png").unlink()
    for index in range(count):
        (folder / f"{index:06d}.png").write_bytes(data[index % 100])


def run_edge(model: Path, images: Path, output: Path) -> tuple[float, float, list[tuple[int, int]]]:
    """Seconds to the first result, results per second from there on, and (results, resident kB) every tenth second."""
    command = [sys.executable, "-m", "anomalib_scrd.edge", str(model), str(images), "--output", str(output), "--quiet"]
    start = time.monotonic()
    process = subprocess.Popen(command)
    scores, first, memory, next_look = output / "scores.jsonl", 0.0, [], 0.0
    while process.poll() is None:
        now = time.monotonic() - start
        size = scores.stat().st_size if scores.exists() else 0
        if size and not first:
            first = now
        if now >= next_look and first:
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
            resident = re.search(r"VmRSS:\s+(\d+)", status)
            if resident:
                memory.append((size, int(resident[1])))
            next_look = now + 0.1
        time.sleep(0.002)
    end = time.monotonic() - start
    if process.returncode:
        sys.exit(f"the runner ended with status {process.returncode}")
    data = scores.read_bytes()
    count = data.count(b"\n")
    return first, count / (end - first), [(size * count // len(data), resident) for size, resident in memory]


def run_benchmark(model: Path, size: tuple[int, int], batch: int, seconds: int) -> float:
    """Images per second of benchmark_app."""
    shape = f"[{batch},3,{size[0]},{size[1]}]"
    command = [sys.executable, "-c", "from openvino.tools.benchmark.main import main; main()"]
    command += ["-m", str(model), "-d", "CPU", "-hint", "throughput", "-infer_precision", "f32"]
    done = subprocess.run([*command, "-shape", shape, "-t", str(seconds)], capture_output=True, text=True, check=False)
    found = re.search(r"Throughput:\s+([\d.]+) FPS", done.stdout)
    if not found:
        sys.exit(done.stdout + done.stderr)
    return float(found[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--images", type=int, default=20000, help="of the long run")
    parser.add_argument("--few", type=int, default=2000, help="of each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="of benchmark_app")
    arguments = parser.parse_args()
    engine = load_engine(arguments.model, maps=False)
    size, batch = engine.size or (128, 128), engine.batch
    print(f"{engine.name}, {size[0]} x {size[1]}, batch {batch}")
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for name, count in (("few", arguments.few), ("many", arguments.images)):
            (root / name).mkdir()
            make_images(root / name, count, size)
        firsts: list[float] = []
        ratios: dict[int, list[float]] = {1: [], batch: []}
        for index in range(arguments.rounds):
            first, rate, _ = run_edge(arguments.model, root / "few", root / f"round{index}")
            firsts.append(first)
            print(f"runner {rate:.0f}/s, first after {first:.2f} s")
            for images, found in ratios.items():
                bare = run_benchmark(arguments.model, size, images, arguments.seconds)
                found.append(rate / bare)
                print(f"  benchmark_app, {images} a request: {bare:.0f}/s, ratio {rate / bare:.2f}")
        medians = ", ".join(f"{statistics.median(found):.2f} ({images} a request)" for images, found in ratios.items())
        print(f"median ratios {medians}, first result after {statistics.median(firsts):.2f} s")
        _, rate, memory = run_edge(arguments.model, root / "many", root / "long")
        tenth = [kilobytes for count, kilobytes in memory if count >= arguments.images / 10]
        print(
            f"{arguments.images} images at {rate:.0f}/s: {tenth[0] / 1024:.0f} MiB after a tenth, "
            f"{tenth[-1] / 1024:.0f} at the end, {max(tenth) / 1024:.0f} at most"
        )


if __name__ == "__main__":
    main()
