"""Section ``step``: one training step of the forms of this model against others."""

__all__ = ["CACHED", "RELEASED", "measure"]

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from anomalib_scrd.benchmark.machine import PeakMemory
from anomalib_scrd.benchmark.speed.config import SpeedConfig
from anomalib_scrd.benchmark.speed.contenders import BASELINE, FORMS, build_baseline, build_form
from anomalib_scrd.benchmark.speed.released import ReleasedSchedule
from anomalib_scrd.benchmark.speed.section import Panel, Section, Table, interval, number, spread
from anomalib_scrd.benchmark.speed.timing import alternate, device_clock, ratio, summary
from anomalib_scrd.benchmark.speed.training_step import TrainingStep

RELEASED = "released schedule, fp32"
CACHED = {"default, features kept": {"feature_cache": 1.0}}


def measure(config: SpeedConfig) -> Section:
    """Time the steps of all contenders in turn.

    Args:
        config: What to measure.

    Returns:
        Times, images per second and ratios to the baseline and to the released schedule.
    """
    section = Section()
    published = build_form(config, FORMS["published"])
    baseline, own, reason = section.attempt(BASELINE, lambda: build_baseline(config, published)) or ("", None, "")
    if reason:
        section.errors[BASELINE] = reason
    steps: dict[str, TrainingStep] = {}

    def keep(name: str, build: Callable[[], Any], settings: SpeedConfig = config) -> Callable[[], TrainingStep]:
        def make() -> TrainingStep:
            steps[name] = TrainingStep(build(), settings)
            return steps[name]

        return make

    def form(arguments: dict[str, Any]) -> Callable[[], Any]:
        return lambda: build_form(config, arguments)

    contenders = {name: keep(name, form(arguments)) for name, arguments in (FORMS | CACHED | config.variants).items()}
    if own is not None:
        # its loss takes views that only contiguous features have
        contenders[baseline] = keep(baseline, lambda: own, replace(config, channels_last=False))
    as_released = replace(config, precision="32", channels_last=False, compile=False)
    contenders[RELEASED] = keep(RELEASED, lambda: ReleasedSchedule(published), as_released)
    clock = device_clock(config.torch_device)
    seconds = section.take("step", alternate(contenders, rounds=config.rounds, warmup=config.warmup, clock=clock))

    references = [name for name in (baseline, RELEASED) if name in seconds]
    columns = ["contender", "ms per step (quartiles)", "images/s", *(f"time / {name}" for name in references)]
    rows = []
    for name, values in seconds.items():
        cells = [interval(ratio(values, seconds[reference])) for reference in references]
        rows.append([name, spread(summary(values), 1e3), number(config.batch / summary(values).median), *cells])
    if config.torch_device.type == "cuda":
        columns.append("memory of a step, MiB")
        for row in rows:
            row.append(number(_transient_memory(steps[row[0]], config.torch_device)))
    section.tables.append(Table("One training step", columns, rows))
    section.panels.append(
        Panel("training step, ms", {name: summary(values).scaled(1e3) for name, values in seconds.items()})
    )
    return section


def _transient_memory(step: TrainingStep, device: torch.device) -> float:
    """What a step allocates on top of what is there all the time, MiB."""
    memory = PeakMemory(device)
    memory.reset()
    before = memory.read()
    step()
    return memory.read() - before
