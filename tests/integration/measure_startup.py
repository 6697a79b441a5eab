"""Measures the time that the plugin adds to the start of every interpreter. Not a test: times depend on the machine.

    python tests/integration/measure_startup.py [--pairs 400]

Starts an interpreter in turn with the start-up file and without it, in virtual environments without other packages: a
first .pth file costs more than a further one. Prints medians of the paired differences with their 95 % intervals, of
the time on the clock and of the processor time, which a busy machine disturbs less. Last comes the time of the line of
the .pth file inside a starting interpreter.
"""

import argparse
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "anomalib_scrd" / "integration" / "startup"

# Executes the line as `site` does, in milliseconds, after its own execution has been undone.
INSIDE = """
import sys, time
sys.meta_path[:] = [finder for finder in sys.meta_path if not hasattr(finder, "anomalib_scrd")]
del sys.modules["anomalib_scrd_startup"]
line = open(sys.argv[1]).read()
began = time.perf_counter()
exec(line)
print((time.perf_counter() - began) * 1e3)
assert sys.meta_path[0].anomalib_scrd
"""


def environment(folder: Path, *, installed: bool) -> tuple[Path, Path]:
    """Make an environment; gives its interpreter and its folder of packages."""
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(subprocess.check_output([python, "-I", "-c", where], text=True).strip())
    if installed:
        shutil.copy(FOLDER / "anomalib_scrd.pth", packages)
        shutil.copy(FOLDER / "__init__.py", packages / "anomalib_scrd_startup.py")
        subprocess.check_call([python, "-c", "pass"])  # writes the .pyc
    return python, packages


def start(python: Path) -> tuple[float, float]:
    """Time of one start on the clock and of the processor, in milliseconds."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([python, "-I", "-c", "pass"], check=True)
    took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return took * 1e3, (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1e3


def tell(name: str, values: list[float]) -> None:
    """Print the median with its 95 % interval from a bootstrap."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(1000))
    sys.stdout.write(
        f"{name}: {statistics.median(values):.3f} ms [{medians[25]:.3f}, {medians[974]:.3f}], n = {len(values)}\n"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=400)
    pairs = parser.parse_args().pairs
    with tempfile.TemporaryDirectory() as folder:
        with_it, packages = environment(Path(folder, "with"), installed=True)
        without, _ = environment(Path(folder, "without"), installed=False)
        kinds = {"with": with_it, "without": without}
        times: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
        for repeat in range(pairs):
            order = list(kinds)
            random.Random(repeat).shuffle(order)  # no kind always comes after the same other one
            for kind in order:
                times[kind].append(start(kinds[kind]))
        inside = [with_it, "-I", "-c", INSIDE, packages / "anomalib_scrd.pth"]
        line = [float(subprocess.check_output(inside, text=True)) for _ in range(pairs)]
    for column, clock in enumerate(("clock", "processor")):
        added, base = ([pair[column] for pair in times[kind]] for kind in ("with", "without"))
        tell(f"{clock}: a start without the plugin", base)
        tell(f"{clock}: added by the plugin", [a - b for a, b in zip(added, base, strict=True)])
    tell("clock: the line of the .pth file inside", line)


if __name__ == "__main__":
    main()
