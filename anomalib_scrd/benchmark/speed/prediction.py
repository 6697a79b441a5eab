"""Section ``inference``: exported models, their size, start, latency and throughput."""

__all__ = ["measure"]

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

import torch
from anomalib.models.components import AnomalibModule

from anomalib_scrd.benchmark.exported_models import FILES, export_model, file_size, open_model, openvino_core
from anomalib_scrd.benchmark.machine import PeakMemory
from anomalib_scrd.benchmark.speed.config import Engine, SpeedConfig
from anomalib_scrd.benchmark.speed.contenders import BASELINE, EDGE, FORMS, build_baseline, build_form
from anomalib_scrd.benchmark.speed.loader import open_images
from anomalib_scrd.benchmark.speed.section import Panel, Section, Table, interval, isolated, number, spread
from anomalib_scrd.benchmark.speed.timing import alternate, device_clock, ratio, summary

_REFERENCE: Engine = "openvino-f32"
_MEBI = 2**20


@dataclass(frozen=True)
class _File:
    """An exported model."""

    path: Path
    seconds: float


def measure(config: SpeedConfig) -> Section:
    """Export every model for every engine, start each in a process of its own, and predict with all in turn.

    Args:
        config: What to measure.

    Returns:
        Sizes and starts, latency and throughput, ratios to the baseline and to OpenVINO in float32.
    """
    section = Section()
    with tempfile.TemporaryDirectory(prefix="anomalib-scrd-") as scratch:
        files = _export_all(config, Path(scratch), section)
        section.tables.append(_cold_table(config, files, section))
        for batch in config.inference_batches:
            _warm(config, files, batch, section)
    section.notes.append(
        "Exported by anomalib with pre- and post-processing, read with a fixed input shape, one request at a time; "
        f"torch runs on {config.torch_device}, the others on the CPU. "
        "Start-up leaves out the import of libraries; its memory is the peak of a fresh process above what the "
        "libraries take. The stand-in for anomalib's ReverseDistillation, where there is one, has the bottleneck and "
        "student of the default model."
    )
    if any(engine.startswith("openvino") for engine in config.engines):
        section.notes.append(_capabilities())
    return section


def _builders(config: SpeedConfig, section: Section) -> dict[str, Callable[[], AnomalibModule]]:
    def baseline() -> AnomalibModule:
        _, model, reason = build_baseline(config, build_form(config, FORMS["default"]))
        if reason:
            section.errors[BASELINE] = reason
        return model

    everything: dict[str, Callable[[], AnomalibModule]] = {
        "default": lambda: build_form(config, FORMS["default"]),
        "edge": lambda: build_form(config, EDGE),
        "baseline": baseline,
    }
    chosen = {name: everything[name] for name in config.inference_models}
    return chosen | {name: partial(build_form, config, arguments) for name, arguments in config.variants.items()}


def _export_all(config: SpeedConfig, scratch: Path, section: Section) -> dict[tuple[str, str], _File]:
    """Files by the name of the model and of the kind of file."""
    files: dict[tuple[str, str], _File] = {}
    for name, build in _builders(config, section).items():
        model = section.attempt(name, build)
        if model is None:
            continue
        for kind in dict.fromkeys(FILES[engine] for engine in config.engines):
            file = section.attempt(f"{name}, export to {kind}", partial(_export, config, model, kind, scratch / name))
            if file is not None:
                files[name, kind] = file
    return files


def _export(config: SpeedConfig, model: AnomalibModule, kind: str, folder: Path) -> _File:
    data = open_images(config, folder / "images", model) if kind == "openvino-int8" else None
    started = time.perf_counter()
    return _File(export_model(model, kind, folder / kind, config.image_size, data), time.perf_counter() - started)


def _cold_table(config: SpeedConfig, files: dict[tuple[str, str], _File], section: Section) -> Table:
    columns = ["model", "engine", "file, MiB", "export, s", "load and compile, s", "first result after, s"]
    table = Table("Exported models: size and start", [*columns, "memory, MiB"], [])
    for (name, kind), file in files.items():
        for engine in (engine for engine in config.engines if FILES[engine] == kind):
            cells = section.attempt(f"{name}, {engine}", partial(isolated, _start, config, engine, file.path))
            cells = cells or (float("nan"),) * 3
            numbers = (file_size(file.path) / _MEBI, file.seconds, *cells)
            table.rows.append([name, engine, *map(number, numbers)])
    return table


def _start(config: SpeedConfig, engine: Engine, path: Path) -> tuple[float, float, float]:
    """In a fresh process: seconds to load, seconds to the first result, peak memory in MiB."""
    import_module("openvino")  # belongs to the libraries, whatever the engine is

    config.use_threads()
    memory = PeakMemory(torch.device("cpu"))
    memory.reset()
    before = memory.read()
    clock = device_clock(config.torch_device)
    started = clock()
    predict = open_model(engine, path, 1, config.image_size, config)
    loaded = clock()
    predict()
    return loaded - started, clock() - started, memory.read() - before


def _warm(config: SpeedConfig, files: dict[tuple[str, str], _File], batch: int, section: Section) -> None:
    """Predict with all models and engines in turn."""
    pairs: dict[str, tuple[str, Engine]] = {
        f"{name}, {engine}": (name, engine)
        for engine in config.engines
        for name in (*config.inference_models, *config.variants)
        if (name, FILES[engine]) in files
    }
    contenders = {
        label: partial(open_model, engine, files[name, FILES[engine]].path, batch, config.image_size, config)
        for label, (name, engine) in pairs.items()
    }
    clock = device_clock(config.torch_device)
    samples = alternate(contenders, rounds=config.rounds, warmup=config.warmup, clock=clock, settle=1)
    seconds = section.take(f"batch {batch}", samples)
    columns = ["model", "engine", "ms (quartiles)", "images/s", "time / baseline, same engine"]
    table = Table(f"Predictions, batch {batch}", [*columns, f"speed-up over {_REFERENCE}"], [])
    for label, values in seconds.items():
        name, engine = pairs[label]
        against, reference = f"baseline, {engine}", f"{name}, {_REFERENCE}"
        table.rows.append(
            [
                name,
                engine,
                spread(summary(values), 1e3),
                number(batch / summary(values).median),
                interval(ratio(values, seconds[against])) if against in seconds else "-",
                interval(ratio(seconds[reference], values)) if reference in seconds else "-",
            ]
        )
    section.tables.append(table)
    section.panels.append(
        Panel(f"prediction of {batch}, ms", {label: summary(values).scaled(1e3) for label, values in seconds.items()})
    )


def _capabilities() -> str:
    capabilities = openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return (
        f"OpenVINO says that this CPU can do {', '.join(sorted(capabilities))}; a hint for another precision is void."
    )
