"""Section ``step``: training steps of all contenders at all sizes, side by side."""

__all__ = ["measure"]

from functools import partial

import pandas as pd
from torch.utils.flop_counter import FlopCounterMode

from anomalib_scrd.benchmark.machine import PeakMemory, resolve_device
from anomalib_scrd.benchmark.speed.config import SpeedConfig
from anomalib_scrd.benchmark.speed.report import Section
from anomalib_scrd.benchmark.speed.timing import interleave, milliseconds, relative
from anomalib_scrd.benchmark.speed.training_step import TrainingStep


def measure(config: SpeedConfig) -> Section:
    """Time the steps of all contenders at all sizes in turn.

    Ratios are to the reference at the same size, times per pixel relative to the first size. FLOPs are those of matrix
    products and convolutions, forward and backward.
    """
    steps: dict[str, TrainingStep] = {}

    def build(label: str, name: str, side: int) -> TrainingStep:
        steps[label] = TrainingStep(config, name, side)
        return steps[label]

    entries = [(name, side) for side in config.image_sizes for name in config.step]
    factories = {f"{name}, {side}": partial(build, f"{name}, {side}", name, side) for name, side in entries}
    seconds, errors = interleave(factories, rounds=config.rounds, warmup=config.warmup)
    memory, first = PeakMemory(resolve_device(config.device)), config.image_sizes[0]
    rows = {}
    for name, side in entries:
        label = f"{name}, {side}"
        if label not in seconds:
            continue
        rows[label] = {
            "ms (quartiles)": milliseconds(seconds[label]),
            "images/s": f"{config.batch / seconds[label].median():.3g}",
            f"time / {config.reference}": relative(seconds, label, f"{config.reference}, {side}"),
            f"time per pixel / at {first}": relative(seconds, label, f"{name}, {first}", (first / side) ** 2),
        }
        if not config.contenders[name].compile:
            with FlopCounterMode(display=False) as counter:
                steps[label]()
            rows[label]["GFLOP"] = f"{counter.get_total_flops() / 1e9:.3g}"
        if memory.device.type == "cuda":
            rows[label]["memory of a step, MiB"] = f"{memory.of(steps[label]):.0f}"
    title = f"A training step of {config.batch} images"
    return Section({title: pd.DataFrame(rows).T.rename_axis("model, height and width")}, {"step": seconds}, errors)
