"""Section ``growth``: how cost grows with the input, the batch and the number of scales."""

__all__ = ["measure"]

from collections.abc import Sequence
from functools import partial
from typing import Any

import timm
import torch

from anomalib_scrd.benchmark.machine import PeakMemory
from anomalib_scrd.benchmark.speed.config import SpeedConfig
from anomalib_scrd.benchmark.speed.contenders import FORMS, build_form
from anomalib_scrd.benchmark.speed.section import Panel, Section, Table, isolated, number, spread
from anomalib_scrd.benchmark.speed.timing import Samples, Summary, alternate, device_clock, ready, summary
from anomalib_scrd.benchmark.speed.training_step import TrainingStep, random_images

_FINEST = 4
_COLUMNS = ["step, ms (quartiles)", "step, memory, MiB", "prediction, ms (quartiles)", "prediction, memory, MiB"]
_TIMED = ("step", "prediction", "teacher")


def measure(config: SpeedConfig) -> Section:
    """Time the default form along three axes, each point in a process of its own.

    Args:
        config: What to measure.

    Returns:
        Times and memory, and times per pixel relative to the first point of each axis.
    """
    section = Section()
    layers = _stages(config.backbone)
    batch, size = config.growth_batch, config.image_size
    axes: dict[str, dict[str, tuple[tuple[int, int], int, Sequence[str] | None]]] = {
        "input size": {f"{side} x {side}": ((side, side), batch, config.layers) for side in config.growth_sizes},
        "batch": {f"batch {number_}": (size, number_, config.layers) for number_ in config.growth_batches},
        "scales": {
            f"{count} scales": (size, batch, layers[:count]) for count in config.growth_scales if count <= len(layers)
        },
    }
    section.notes += [
        f"the backbone has no {count} feature maps from stride {_FINEST} on"
        for count in config.growth_scales
        if count > len(layers)
    ]
    for axis, points in axes.items():
        per_pixel = [f"{name}, time per pixel" for name in _TIMED]
        table = Table(f"Growth with {axis}", [axis, *_COLUMNS, *per_pixel], [])
        relative: dict[str, Summary] = {}
        first: dict[str, float] = {}
        for label, (point_size, point_batch, point_layers) in points.items():
            found = section.attempt(label, partial(isolated, _point, config, point_size, point_batch, point_layers))
            if found is None:  # for instance a process that was killed for its memory
                continue
            samples, memory = found
            section.errors |= {f"{label}, {name}": error for name, error in samples.errors.items()}
            seconds = section.take(f"{axis}, {label}", Samples(samples.seconds))
            if not set(_TIMED) <= seconds.keys():
                continue
            pixels = point_batch * point_size[0] * point_size[1]
            each = {name: summary(values).scaled(1 / pixels) for name, values in seconds.items()}
            first = first or {name: each[name].median for name in _TIMED}
            row: list[Any] = [label]
            for name in ("step", "prediction"):
                row += [spread(summary(seconds[name]), 1e3), number(memory[name])]
            row += [f"{each[name].median / first[name]:.2f}" for name in _TIMED]
            table.rows.append(row)
            relative[label] = each["step"].scaled(1 / first["step"])
        section.tables.append(table)
        section.panels.append(Panel(f"step, time per pixel, by {axis}", relative))
    section.notes.append(
        f"Sizes and scales at batch {batch}, batches and scales at {size[0]} x {size[1]}. Times per pixel are relative "
        "to the first row; the teacher's is that of its part of a prediction. Memory: on a GPU what is allocated, on a "
        "CPU the peak of the process above what the libraries take; a prediction's holds the weights, a step's the "
        "gradients and the optimiser's state as well."
    )
    return section


def _stages(backbone: str) -> list[str]:
    """Names of the backbone's feature maps from stride 4 on, one per stride, finest first."""
    complete: Any = timm.create_model(backbone, pretrained=False)
    by_stride = {entry["reduction"]: entry["module"] for entry in complete.feature_info}
    return [name for stride, name in sorted(by_stride.items()) if stride >= _FINEST]


def _point(
    config: SpeedConfig, size: tuple[int, int], batch: int, layers: Sequence[str] | None
) -> tuple[Samples, dict[str, float]]:
    """In a fresh process: times and peak memory of a step and of a prediction."""
    config.use_threads()
    device = config.torch_device
    memory = PeakMemory(device)
    memory.reset()
    before = memory.read()
    images = random_images(config, batch, size)
    step = TrainingStep(build_form(config, FORMS["default"], layers=layers, image_size=size), config, images=images)
    model = step.module.model

    def predict() -> None:
        with torch.inference_mode(), step.autocast():
            model(images)

    def teach() -> None:
        with torch.inference_mode(), step.autocast():
            model.teacher(images)

    samples, peaks = Samples(), {}
    # The prediction comes first: the memory of gradients and optimiser is the step's alone.
    for name, work in (("prediction", {"prediction": predict, "teacher": teach}), ("step", {"step": step})):
        model.train(name == "step")
        memory.reset()
        found = alternate(ready(work), rounds=config.rounds, warmup=config.warmup, clock=device_clock(device))
        peaks[name] = memory.read() - before
        samples.seconds |= found.seconds
        samples.errors |= found.errors
    return samples, peaks
