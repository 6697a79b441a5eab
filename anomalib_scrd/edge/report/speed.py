"""Speed of an export on this machine."""

__all__ = ["Speed", "machine", "measure"]

import os
import platform
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anomalib_scrd.edge.engine import Engine, Request


@dataclass(frozen=True)
class Speed:
    """Measured times.

    Args:
        latency_ms: Milliseconds per image, one request at a time; (number,).
        per_second: Images per second from memory, with enough parallel requests to keep all cores busy.
        first_s: Seconds to load and compile the model.
    """

    latency_ms: np.ndarray
    per_second: float
    first_s: float


def measure(latency: Engine, throughput: Engine, images: Sequence[np.ndarray], seconds: float, first_s: float) -> Speed:
    """Measure both engines.

    Args:
        latency: Engine with the hint ``latency``.
        throughput: Engine with the hint ``throughput``.
        images: Inputs of the model's size, used in turn.
        seconds: Duration of each measurement.
        first_s: See :class:`Speed`.

    Returns:
        The times.
    """
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or not times:
        begin = time.perf_counter()
        request = _filled(latency, images, len(times))
        request.start()
        request.result()
        times.append(time.perf_counter() - begin)
    running: deque[Request] = deque()
    done, begin = 0, time.perf_counter()
    while time.perf_counter() < begin + seconds or not done:
        request = _filled(throughput, images, done)
        request.start()
        running.append(request)
        if len(running) > throughput.parallel:
            running.popleft().result()
            done += throughput.batch
    while running:
        running.popleft().result()
        done += throughput.batch
    return Speed(1000 * np.array(times), done / (time.perf_counter() - begin), first_s)


def machine() -> dict[str, str]:
    """Describe the machine: processor, cores, memory, system; without its name.

    Returns:
        Values by name.
    """
    model, memory = platform.processor() or platform.machine(), ""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
        kilobytes = int(Path("/proc/meminfo").read_text(encoding="utf-8").split()[1])
        memory = f"{kilobytes / 2**20:.0f} GiB"
    except (OSError, StopIteration, ValueError):
        pass
    return {
        "processor": model,
        "cores": str(os.cpu_count()),
        "memory": memory,
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
    }


def _filled(engine: Engine, images: Sequence[np.ndarray], start: int) -> Request:
    request = engine.request()
    assert request is not None  # request() waits for a free one
    index = start
    while request.put(images[index % len(images)]):
        index += 1
    return request
