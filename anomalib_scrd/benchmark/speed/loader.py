"""Section ``loader``: images that the data loader delivers against images that the step takes."""

__all__ = ["measure", "open_images"]

import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from anomalib.data import AnomalibDataModule, Folder
from lightning.pytorch.trainer.states import TrainerFn

from anomalib_scrd.benchmark.speed.config import SpeedConfig
from anomalib_scrd.benchmark.speed.contenders import FORMS, build_form
from anomalib_scrd.benchmark.speed.section import Panel, Section, Table, number
from anomalib_scrd.benchmark.speed.timing import alternate, device_clock, ready, summary
from anomalib_scrd.benchmark.speed.training_step import TrainingStep
from anomalib_scrd.data import PhantomSlices

_DRAWN = 128
_EPOCHS = 3


def measure(config: SpeedConfig) -> Section:
    """Read all images several times, with each number of workers, and time the default form's step.

    Args:
        config: What to measure.

    Returns:
        Images per second of the loader and of the step.
    """
    section = Section()
    module = build_form(config, FORMS["default"])
    step = TrainingStep(module, config)
    clock = device_clock(config.torch_device)
    samples = alternate(ready({"step": step}), rounds=config.rounds, warmup=config.warmup, clock=clock)
    taken = summary(section.take("step", samples)["step"]).inverse(config.batch)
    rows: list[list[Any]] = [["the step takes", "-", number(taken.median), "-"]]
    values = {"the step takes": taken}
    with tempfile.TemporaryDirectory(prefix="anomalib-scrd-") as scratch:
        data = open_images(config, Path(scratch), module)
        for workers in config.loader_workers:
            data.num_workers = workers
            epochs = [_epoch(data) for _ in range(_EPOCHS)]
            name = f"the loader gives, {workers} workers"
            section.samples[name] = {"epoch": [seconds for seconds, _ in epochs]}
            rates = summary([len(data.train_data) / seconds for seconds, _ in epochs])
            steady = summary([rate for _, rate in epochs])
            rows.append([name, number(rates.median), number(steady.median), f"{steady.median / taken.median:.2f}"])
            values[name] = steady
        section.notes.append(
            f"{len(data.train_data)} images, {'drawn' if config.images is None else 'from a folder'}, read by "
            f"{type(data).__name__} in batches of {config.batch} and resized to {config.image_size}. A whole epoch "
            "holds the start of the worker processes; after the first batch does not."
        )
    columns = ["", "images/s, whole epoch", "images/s, after the first batch", "loader / step"]
    section.tables.append(Table("Data loader and step", columns, rows))
    section.panels.append(Panel("loader and step, images/s", values))
    return section


def open_images(config: SpeedConfig, scratch: Path, model: Any) -> AnomalibDataModule:
    """Make a data module that resizes as it does when a trainer runs the model.

    Args:
        config: Its folder, batch and seed.
        scratch: Where images are drawn if there is no folder.
        model: The model, whose pre-processor has the size.

    Returns:
        The data module, set up.
    """
    common: dict[str, Any] = {
        "train_batch_size": config.batch,
        "eval_batch_size": config.batch,
        "num_workers": 0,
        "val_split_mode": "none",
        "seed": config.seed,
    }
    data: AnomalibDataModule
    if config.images is None:
        few = dict.fromkeys(("n_val_good", "n_val_lesions", "n_test_good", "n_test_lesions"), 1)
        data = PhantomSlices(root=scratch, n_train=_DRAWN, image_size=config.image_size, **few, **common)  # type: ignore[arg-type]
    else:
        data = Folder(name="images", root=config.images, normal_dir=".", test_split_mode="none", **common)
    data.trainer = SimpleNamespace(model=model)  # type: ignore[assignment]  # where it looks for the size
    data.setup(TrainerFn.FITTING)
    data.val_data = data.train_data  # the quantisation calibrates on validation images; its next `setup` resizes them
    return data


def _epoch(data: AnomalibDataModule) -> tuple[float, float]:
    """Seconds of an epoch, and images per second after its first batch."""
    started = time.perf_counter()
    batches = iter(data.train_dataloader())
    next(batches)
    first = time.perf_counter()
    images = sum(len(batch.image) for batch in batches)
    now = time.perf_counter()
    return now - started, images / (now - first)
