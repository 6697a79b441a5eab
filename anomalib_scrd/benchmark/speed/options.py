"""Section ``options``: what a step gains from each way to run it faster, and which of them are on by default."""

__all__ = ["DEFAULT", "NOT_FUSED", "OPTIONS", "measure"]

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from anomalib_scrd.benchmark.speed.config import SpeedConfig
from anomalib_scrd.benchmark.speed.contenders import FORMS, build_form
from anomalib_scrd.benchmark.speed.section import Panel, Section, Table, interval, spread
from anomalib_scrd.benchmark.speed.timing import Contenders, alternate, device_clock, ratio, ready, summary
from anomalib_scrd.benchmark.speed.training_step import TrainingStep, random_images

DEFAULT = "float32, as by default"
OPTIONS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "student's weights channels last": {"channels_last": True},
    "bfloat16": {"precision": "bf16"},
    "compile": {"compile": True},
    "bfloat16, compile": {"precision": "bf16", "compile": True},
}
"""Changes of the configuration by name; what it says of them itself is left aside."""

NOT_FUSED = "optimiser not fused"
_PLAIN: dict[str, Any] = {"precision": "32", "compile": False, "channels_last": False}
_JOINED, _APART = "clean and noisy images in one pass", "in two passes"


def measure(config: SpeedConfig) -> Section:
    """Time the default form with each option in turn, and the teacher's passes together and apart.

    Args:
        config: What to measure.

    Returns:
        Times and ratios to the step as it is by default.
    """
    section = Section()
    plain = replace(config, **_PLAIN)
    contenders: dict[str, Callable[[], TrainingStep]] = {
        name: partial(_step, replace(plain, **changes)) for name, changes in OPTIONS.items()
    }
    contenders[NOT_FUSED] = partial(_step_not_fused, plain)
    _compare(config, "A training step", contenders, DEFAULT, section)
    _compare(config, "The teacher on a batch and its noisy images", ready(_passes(plain)), _JOINED, section)
    section.notes.append(
        "Off by default is what changes results beyond rounding (bfloat16: trainer.precision) or needs a compiler "
        "(compile_model); the student's convolutions find their inputs channels last either way."
    )
    return section


def _compare(
    config: SpeedConfig,
    title: str,
    contenders: Contenders,
    reference: str,
    section: Section,
) -> None:
    clock = device_clock(config.torch_device)
    seconds = section.take(title, alternate(contenders, rounds=config.rounds, warmup=config.warmup, clock=clock))
    rows = [
        [
            name,
            spread(summary(values), 1e3),
            interval(ratio(values, seconds[reference])) if reference in seconds else "-",
        ]
        for name, values in seconds.items()
    ]
    section.tables.append(Table(title, ["option", "ms (quartiles)", f"time / {reference}"], rows))
    section.panels.append(Panel(f"{title}, ms", {row: summary(seconds[row]).scaled(1e3) for row in seconds}))


def _step(config: SpeedConfig) -> TrainingStep:
    return TrainingStep(build_form(config, FORMS["default"]), config)


def _step_not_fused(config: SpeedConfig) -> TrainingStep:
    step = _step(config)
    for group in step.optimizer.param_groups:
        group["fused"] = False
    return step


def _passes(config: SpeedConfig) -> dict[str, Callable[[], None]]:
    teacher = build_form(config, FORMS["default"]).model.teacher.to(config.torch_device)
    images, noisy = (random_images(config, config.batch, config.image_size) for _ in range(2))

    def joined() -> None:
        teacher(torch.cat([images, noisy]))

    def apart() -> None:
        teacher(images)
        teacher(noisy)

    return {_JOINED: joined, _APART: apart}
