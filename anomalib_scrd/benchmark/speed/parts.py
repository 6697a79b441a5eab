"""Section ``parts``: where the time of a step goes, and the floor that it stands on."""

__all__ = ["measure"]

from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
from anomalib.data import ImageBatch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from anomalib_scrd.benchmark.speed.config import SpeedConfig
from anomalib_scrd.benchmark.speed.contenders import FORMS, build_form
from anomalib_scrd.benchmark.speed.roofline import OperationCounter, Rates, measure_rates
from anomalib_scrd.benchmark.speed.section import Panel, Section, Table, interval, number, spread
from anomalib_scrd.benchmark.speed.timing import (
    Clock,
    Samples,
    Stopwatch,
    Summary,
    alternate,
    device_clock,
    ratio,
    ready,
    summary,
)
from anomalib_scrd.benchmark.speed.training_step import TrainingStep

_FLOOR = ("teacher", "student", "optimiser")
_OVERHEAD = ("synthetic anomalies", "loss, forward", "loss, backward", "logging")
_LOG_EVERY = 50  # as Lightning does
_SIDE = 128
# Owner, function and part; what a form lacks is left out. What is in none of them is "the rest".
_WATCHED = (
    ("", "synthetic_anomalies", "synthetic anomalies"),
    ("model.teacher", "forward", "teacher"),
    ("model.standardise", "update", "standardisation"),
    ("model.standardise", "forward", "standardisation"),
    ("model.bottleneck", "forward", "bottleneck and student, forward"),
    ("model.student", "forward", "bottleneck and student, forward"),
    ("model.scale_adaptation", "forward", "weights of the scales"),
    ("model.read_out", "update", "calibration"),
    ("loss", "forward", "loss, forward"),
)


def measure(config: SpeedConfig) -> Section:
    """Time whole steps, their parts inside and alone.

    Args:
        config: What to measure.

    Returns:
        The share of each part, the step over its floor, and both over what operations and bytes allow.
    """
    section = Section()
    clock = device_clock(config.torch_device)
    rates = measure_rates(config.torch_device, config.precision)
    logging = section.attempt("logging", lambda: _logging_seconds(config, clock))
    tables = _Tables(str(rates))
    for name, arguments in (FORMS | config.variants).items():
        section.attempt(name, partial(_measure_form, config, name, arguments, rates, logging or 0.0, tables, section))
    section.tables = [table for table in (tables.floor, tables.shares, tables.roofline) if table.rows]
    section.notes.append(
        "The floor's parts are timed alone, in turn with the step: the teacher on all images of the step, the student "
        "(bottleneck and student, forward and backward from a given gradient), the optimiser. Parts inside the step "
        "are read with a clock that waits for the device: on a GPU their sum exceeds the step. Logging is that of a "
        "real trainer; what it logs every 50 steps is spread over them. Bytes are what each operation reads and writes "
        "by itself; a compiler that fuses operations can stay below."
    )
    return section


class _Tables:
    """The tables of the section, which every form adds its rows to."""

    def __init__(self, rates: str) -> None:
        floor = ["form", "step, ms", *(f"{part}, ms" for part in _FLOOR), "step / sum of the three"]
        self.floor = Table("Step over its floor", [*floor, "synthetic anomalies + loss + logging"], [])
        self.shares = Table("Parts of a step", ["form", "part", "ms (quartiles)", "share"], [])
        roofline = ["form", "part", "GFLOP", "GB", "ms at these rates", "measured / that"]
        self.roofline = Table(f"Operations and bytes ({rates})", roofline, [])


def _measure_form(
    config: SpeedConfig,
    name: str,
    arguments: dict[str, Any],
    rates: Rates,
    logging: float,
    tables: _Tables,
    section: Section,
) -> None:
    clock = device_clock(config.torch_device)
    step = TrainingStep(build_form(config, arguments), config)
    work: dict[str, Callable[[], Any]] = {"step": step, **_Alone(step).parts}
    samples = alternate(ready(work), rounds=config.rounds, warmup=config.warmup, clock=clock)
    section.errors |= {f"{name}, {part}": error for part, error in samples.errors.items()}
    seconds = section.take(name, Samples(samples.seconds))
    if any(part not in seconds for part in work):
        return
    overhead = "-"
    if not config.compile:  # the parts of a compiled graph cannot be told from outside
        inside = _inside(step, config, clock) | {"logging": [logging] * config.rounds}
        section.samples[f"{name}, inside"] = inside
        tables.shares.rows += _share_rows(name, inside)
        overhead = f"{_share(inside, _OVERHEAD).median:.1%}"
        section.panels.append(Panel(f"{name}: share of the step", _shares(inside)))
    sums = [sum(values) for values in zip(*(seconds[part] for part in _FLOOR), strict=True)]
    medians = {part: median(values) for part, values in seconds.items()}
    cells = [number(1e3 * medians[part]) for part in ("step", *_FLOOR)]
    tables.floor.rows.append([name, *cells, interval(ratio(seconds["step"], sums)), overhead])
    if not config.compile:
        tables.roofline.rows += [_roofline_row(name, part, work[part], medians[part], rates) for part in work]


class _Alone:
    """The parts of the floor, each alone, on the tensors that a step of this form has there."""

    def __init__(self, step: TrainingStep) -> None:
        self.step = step
        model = step.module.model
        seen: dict[str, Any] = {}
        hooks = [
            model.teacher.register_forward_hook(lambda _m, args, _o: seen.update(images=args[0])),
            model.bottleneck.register_forward_hook(lambda _m, args, _o: seen.update(features=args[0])),
        ]
        with torch.compiler.set_stance("force_eager"):
            step()
        for hook in hooks:
            hook.remove()
        compiled: Callable[..., Any] = torch.compile if step.compiled else lambda function: function
        self.teacher = compiled(model.teacher.forward)
        self.student = compiled(self._outputs)
        self.images = seen["images"]
        self.features = [feature.detach() for feature in seen["features"]]
        self.sizes = [feature.shape[-2:] for feature in self.features]
        self.gradients: list[torch.Tensor] = []
        self.parts: dict[str, Callable[[], Any]] = {
            "teacher": self._teacher,
            "student": self._student,
            "optimiser": self._optimiser,
        }

    def _teacher(self) -> None:
        with self.step.autocast():
            self.teacher(self.images)

    def _outputs(self) -> list[torch.Tensor]:
        model = self.step.module.model
        return model.student(model.bottleneck(self.features), self.sizes)

    def _student(self) -> None:
        self.step.optimizer.zero_grad()
        with self.step.autocast():
            outputs = self.student()
        if not self.gradients:
            self.gradients = [torch.randn_like(output) for output in outputs]
        torch.autograd.backward(outputs, self.gradients)

    def _optimiser(self) -> None:
        self.step.optimizer.step()  # with the gradients that the student left


def _inside(step: TrainingStep, config: SpeedConfig, clock: Clock) -> dict[str, list[float]]:
    """Seconds of the parts inside real steps."""
    stopwatch = Stopwatch(clock)
    owners = {name: step.module.get_submodule(name) for name in ("", "model", "loss")}
    for path, function, part in _WATCHED:
        owner = owners.get(path) or getattr(step.module.model, path.removeprefix("model."), None)
        stopwatch.watch(owner, function, part)
    model = owners["model"]
    forward = model.forward

    def hooked(*args: Any, **kwargs: Any) -> Any:
        features = forward(*args, **kwargs)
        student = _marked(features.student, stopwatch)
        restored = None if features.restored is None else _marked(features.restored, stopwatch)
        return features._replace(student=student, restored=restored)

    model.forward = hooked  # type: ignore[method-assign]
    rounds: list[dict[str, float]] = []
    for _ in range(config.rounds):
        stopwatch.seconds.clear()
        with stopwatch.part("the rest"):
            loss = step.forward()
            step.optimizer.zero_grad()
            with stopwatch.part("bottleneck and student, backward"):
                step.backward(loss)
            with stopwatch.part("optimiser"):
                step.update()
        rounds.append(dict(stopwatch.seconds))
    names = dict.fromkeys(part for values in rounds for part in values)
    return {part: [values.get(part, 0.0) for values in rounds] for part in names}


def _marked(outputs: list[torch.Tensor], stopwatch: Stopwatch) -> list[torch.Tensor]:
    """The student's outputs as only the loss sees them: the last gradient that arrives ends the loss's backward."""
    views = [output.view_as(output) for output in outputs]
    for view in views:
        view.register_hook(lambda _gradient: stopwatch.lap("loss, backward"))
    return views


def _share(inside: dict[str, list[float]], parts: tuple[str, ...]) -> Summary:
    """Share of some parts in the step, round by round."""
    totals = [sum(values) for values in zip(*inside.values(), strict=True)]
    chosen = [inside[part] for part in parts if part in inside]
    sums = [sum(values) for values in zip(*chosen, strict=True)]
    return summary([part / total for part, total in zip(sums, totals, strict=True)])


def _shares(inside: dict[str, list[float]]) -> dict[str, Summary]:
    return {part: _share(inside, (part,)) for part in inside}


def _share_rows(name: str, inside: dict[str, list[float]]) -> list[list[Any]]:
    shares = _shares(inside)
    ordered = sorted(inside, key=lambda part: -shares[part].median)
    return [[name, part, spread(summary(inside[part]), 1e3), f"{shares[part].median:.1%}"] for part in ordered]


def _roofline_row(name: str, part: str, work: Callable[[], Any], measured: float, rates: Rates) -> list[Any]:
    with OperationCounter(rates) as counter:
        work()
    cells = [counter.flops / 1e9, counter.bytes / 1e9, 1e3 * counter.seconds, measured / counter.seconds]
    return [name, part, *(number(cell) for cell in cells)]


def _logging_seconds(config: SpeedConfig, clock: Clock) -> float:
    """Seconds of logging per step in a real trainer.

    What is logged are a few numbers, whatever the images are: small ones do.
    """
    module = build_form(config, FORMS["default"], image_size=(_SIDE, _SIDE))
    stopwatch = Stopwatch(clock)
    for function in ("log", "log_dict"):
        stopwatch.watch(module, function, function)
    batches = [ImageBatch(image=torch.rand(2, 3, _SIDE, _SIDE)) for _ in range(_LOG_EVERY)]
    trainer = Trainer(
        max_steps=_LOG_EVERY,
        accelerator="gpu" if config.torch_device.type == "cuda" else "cpu",
        devices=1,
        log_every_n_steps=_LOG_EVERY,  # one row, at the last step
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    return (stopwatch.seconds["log"] + stopwatch.seconds["log_dict"]) / _LOG_EVERY
