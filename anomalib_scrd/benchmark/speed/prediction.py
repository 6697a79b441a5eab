"""Section ``prediction``: models in torch and exported, their size and their time per batch, side by side."""

__all__ = ["measure"]

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch

from anomalib_scrd.benchmark.exported_models import export_model, file_of, file_size, open_file, openvino_core
from anomalib_scrd.benchmark.machine import resolve_device
from anomalib_scrd.benchmark.speed.config import SpeedConfig
from anomalib_scrd.benchmark.speed.report import Section
from anomalib_scrd.benchmark.speed.timing import interleave, milliseconds, relative
from anomalib_scrd.benchmark.speed.training_step import autocast, build_contender, random_images
from anomalib_scrd.data import PhantomSlices

_F32 = "openvino-f32"
_MEBI = 2**20


class _Opened(NamedTuple):
    """A contender with an engine and its model: an exported file, or the module for torch."""

    name: str
    side: int
    engine: str
    source: Any

    def label(self, **changes: Any) -> str:
        entry = self._replace(**changes)
        return f"{entry.name}, {entry.side}, {entry.engine}"


def measure(config: SpeedConfig) -> Section:
    """Export every model for every engine and time all predictions in turn.

    Ratios are to the reference under the same engine and to the model itself under OpenVINO in float32; times per pixel
    are relative to the first size.
    """
    section = Section()
    with tempfile.TemporaryDirectory(prefix="anomalib-scrd-") as scratch:
        opened: list[_Opened] = []
        for name, side in ((name, side) for side in config.image_sizes for name in config.prediction):
            module = section.attempt(f"{name}, {side}", partial(build_contender, config, name, side))
            sources: dict[str, Any] = {"torch": module, "compile": module}
            for engine in config.engines if module is not None else []:
                file = file_of(engine)
                if file not in sources:
                    work = partial(_export, module, file, Path(scratch) / name / str(side) / file, side)
                    sources[file] = section.attempt(f"{name}, {side}, {file}", work)
                opened += [] if sources[file] is None else [_Opened(name, side, engine, sources[file])]
        for batch in config.prediction_batches:
            _predict(config, opened, batch, section)
    section.notes.append(
        "Exported by anomalib with pre- and post-processing, opened with a fixed input shape, one request at a time; "
        f"torch runs on {resolve_device(config.device)}, the others on the CPU. For layers, start-up and throughput of "
        "a file see OpenVINO's benchmark_app."
    )
    if any(engine.startswith("openvino") for engine in config.engines):
        abilities = ", ".join(sorted(openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")))
        section.notes.append(f"OpenVINO reports {abilities} for this CPU; other precision hints have no effect.")
    return section


def _export(module: Any, engine: str, folder: Path, side: int) -> Path:
    drawn = PhantomSlices(root=folder / "images", image_size=side, n_train=2) if engine == "openvino-int8" else None
    return export_model(module, engine, folder / "model", (side, side), drawn)


def _open(config: SpeedConfig, opened: _Opened, batch: int) -> Callable[[], Any]:
    images = random_images(config, batch, opened.side)
    if isinstance(opened.source, Path):
        return open_file(opened.engine, opened.source, images.cpu().numpy(), torch.get_num_threads())
    module = opened.source.to(images.device).eval()
    forward = torch.compile(module.forward) if opened.engine == "compile" else module.forward

    def predict() -> Any:
        with torch.inference_mode(), autocast(images.device, config.contenders[opened.name].precision):
            return forward(images)

    return predict


def _predict(config: SpeedConfig, opened: list[_Opened], batch: int, section: Section) -> None:
    """Predict with all models and engines in turn."""
    factories = {entry.label(): partial(_open, config, entry, batch) for entry in opened}
    seconds, errors = interleave(factories, rounds=config.rounds, warmup=config.warmup, settle=1)
    section.errors |= errors
    section.samples[f"prediction, batch {batch}"] = seconds
    rows, first = {}, config.image_sizes[0]
    for entry in (entry for entry in opened if entry.label() in seconds):
        label, pixels = entry.label(), (entry.side / first) ** 2
        rows[label] = {
            "ms (quartiles)": milliseconds(seconds[label]),
            "images/s": f"{batch / seconds[label].median():.3g}",
            f"time / {config.reference}": relative(seconds, label, entry.label(name=config.reference)),
            f"speed-up over {_F32}": relative(seconds, entry.label(engine=_F32), label),
            f"time per pixel / at {first}": relative(seconds, label, entry.label(side=first), 1 / pixels),
            "file, MiB": f"{file_size(entry.source) / _MEBI:.3g}" if isinstance(entry.source, Path) else "-",
        }
    table = pd.DataFrame(rows).T.rename_axis("model, height and width, engine")
    section.tables[f"Predictions of {batch}"] = table
