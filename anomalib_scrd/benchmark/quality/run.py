"""One run: build, train, choose the threshold on held-out normal images, score the test set once."""

__all__ = ["execute", "execute_and_store"]

import tempfile
import time
import traceback
import warnings
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomalib.callbacks import ModelCheckpoint
from anomalib.data import AnomalibDataModule, AnomalibDataset
from anomalib.engine import Engine
from anomalib.models import AnomalibModule
from lightning.pytorch import seed_everything

from anomalib_scrd.atomic_files import replacing
from anomalib_scrd.benchmark.exported_models import export_model, predict_file
from anomalib_scrd.benchmark.files import write_text
from anomalib_scrd.benchmark.machine import PeakMemory, code_digest, describe, model_size, resolve_device
from anomalib_scrd.benchmark.models import build, build_model, find_class
from anomalib_scrd.benchmark.quality import metrics
from anomalib_scrd.benchmark.quality.config import BenchmarkConfig, RunSpec
from anomalib_scrd.benchmark.quality.predictions import PredictionCollector
from anomalib_scrd.benchmark.quality.results import RunStore
from anomalib_scrd.benchmark.quality.splits import Splits, make_splits


def execute(run: RunSpec, config: BenchmarkConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Execute one run of a benchmark in this process; errors are raised.

    Returns:
        The result (metrics, times, memory, sizes, machine) and its arrays (raw scores, pictured cases).
    """
    spec, data = config.model_specs[run.model], config.data_specs[run.data]
    height, width = spec.image_size or config.image_size
    module = build(find_class(data.class_path, AnomalibDataModule, "anomalib.data"), data.init_args)
    splits = make_splits(module, config.holdout, config.split_seed)
    memory = PeakMemory(resolve_device(config.accelerator))
    memory.reset()
    with tempfile.TemporaryDirectory(prefix="anomalib-scrd-") as scratch:
        seed_everything(run.seed, workers=True, verbose=False)
        model = build_model(spec.class_path, spec.init_args, (height, width))
        collector = PredictionCollector()
        engine = _engine(run, config, model, collector, scratch)
        started = time.perf_counter()
        with splits.training_view():
            engine.fit(model, datamodule=module)
        cost = {"train_seconds": time.perf_counter() - started, "steps": engine.trainer.global_step}
        module.setup()  # applies the model's resize to the other parts, as to the training part
        cost |= {"train_memory_mib": memory.read(), **model_size(model.model, engine.trainer.optimizers)}
        if config.keep_checkpoints:
            engine.trainer.save_checkpoint(RunStore(config.output).path(run, ".ckpt"))
        memory.reset()
        threshold, held_out = None, np.empty(0, dtype=np.float32)
        if splits.held_out is not None:
            engine.predict(model, dataloaders=splits.loader(splits.held_out), return_predictions=False)
            held_out = collector.array("scores")
            metrics.check_finite(held_out, "held-out image scores")
            threshold = metrics.quantile_threshold(held_out, config.quantile)
            collector.reset()
        engine.predict(model, dataloaders=splits.loader(splits.test), return_predictions=False)
        cost |= {"test_memory_mib": memory.read(), "ms_per_image": collector.milliseconds_per_image}
        found, notes = _score(collector, threshold)
        exports: dict[str, dict[str, float]] = {}
        for export in spec.exports:
            try:
                file = export_model(model, export, Path(scratch) / export, (height, width), module)
                exports[export], more = _score(_predicted(file, splits), threshold)
            except Exception as error:  # noqa: BLE001  (the result of the trained model is kept)
                exports[export], more = {}, [f"{type(error).__name__}: {error}"]
            notes += [f"{export}: {note}" for note in more]

    result = {
        "status": "ok",
        "metrics": found,
        "exports": exports,
        "threshold": threshold,
        "cost": cost,
        "counts": splits.counts(),
        "data_digest": splits.digest(),
        "machine": describe(memory.device),
        "notes": notes,
    }
    arrays = {
        "scores": collector.array("scores"),
        "labels": collector.array("labels"),
        "names": np.array([Path(path).name for path in collector.paths]),
        "held_out_scores": held_out,
        **_cases(collector, splits.test, config.cases),
    }
    return result, arrays


def execute_and_store(run: RunSpec, config: BenchmarkConfig) -> dict[str, Any]:
    """Execute one run and store its result, also if it fails; return the stored result."""
    store = RunStore(config.output)
    started = time.perf_counter()
    common = {
        "code": code_digest(config.model_specs[run.model].class_path),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "concurrent": config.workers if resolve_device(config.accelerator).type == "cpu" else 1,
    }
    error_file = store.path(run, ".error.txt")
    try:
        with warnings.catch_warnings():
            result, arrays = execute(run, config)
        with replacing(store.path(run, ".npz")) as part, part.open("wb") as file:
            np.savez_compressed(file, **arrays)
        error_file.unlink(missing_ok=True)
    except Exception as error:  # noqa: BLE001  (the other runs must go on)
        write_text(error_file, traceback.format_exc())
        result = {"status": "failed", "error": f"{type(error).__name__}: {error}", "traceback": str(error_file)}
    return store.save(run, {**common, **result, "seconds": time.perf_counter() - started})


def _engine(
    run: RunSpec, config: BenchmarkConfig, model: AnomalibModule, collector: PredictionCollector, scratch: str
) -> Engine:
    spec = config.model_specs[run.model]
    fixed = model.trainer_arguments.keys() & {"max_steps", "max_epochs"}
    if not (spec.length or spec.own_length or fixed):
        msg = (
            f"models.{run.model} needs max_steps or max_epochs (or own_length: true, if it ends by itself): Lightning "
            "would train 1000 epochs"
        )
        raise ValueError(msg)
    nothing = ModelCheckpoint(dirpath=scratch, save_top_k=0)  # otherwise anomalib writes one at every epoch
    return Engine(
        callbacks=[collector, nothing],
        logger=False,
        default_root_dir=scratch,
        accelerator=config.accelerator,
        devices=1,  # the only one visible in the worker process
        precision=config.precision,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        **spec.length,
    )


def _predicted(file: Path, splits: Splits) -> PredictionCollector:
    """Predictions of the test images by an exported model."""
    collector = PredictionCollector()
    for batch in predict_file(file, splits.loader(splits.test)):
        collector.add(batch)
    return collector


def _score(collector: PredictionCollector, threshold: float | None) -> tuple[dict[str, float], list[str]]:
    """Metrics of predictions of the test set, and notes about suspicious results."""
    scores, labels, maps, masks = map(collector.array, ("scores", "labels", "maps", "masks"))
    metrics.check_finite(scores, "image scores")
    found = metrics.image_metrics(scores, labels)
    if threshold is not None:
        found |= metrics.thresholded_metrics(scores, labels, threshold)
    if masks is not None and masks.any():
        metrics.check_finite(maps, "pixel scores")
        found |= metrics.pixel_metrics(maps, masks)
    notes = []
    if found["image_auroc"] == 0.5:  # noqa: PLR2004
        notes.append("image AUROC is exactly 0.5: a mistake of the benchmark or of the model, not a result")
    if len(np.unique(scores)) == 1:
        notes.append(f"all image scores are {scores[0]}")
    return found, notes


def _cases(collector: PredictionCollector, images: AnomalibDataset, count: int) -> dict[str, np.ndarray]:
    """Images and maps of the best anomalies, the missed ones and the false alarms."""
    scores, labels, maps, masks = map(collector.array, ("scores", "labels", "maps", "masks"))
    if maps is None or count == 0:
        return {}
    by_score = np.argsort(-scores, kind="stable")
    anomalous, normal = by_score[labels[by_score] == 1], by_score[labels[by_score] == 0]
    groups = {"best": anomalous[:count], "missed": anomalous[::-1][:count], "false alarm": normal[:count]}
    chosen = np.concatenate(list(groups.values()))
    shown = torch.stack([torch.as_tensor(images[int(index)].image) for index in chosen])  # (N, 3, H, W) in [0, 1]
    return {
        "case_images": (255 * shown.clamp(0, 1)).byte().permute(0, 2, 3, 1).numpy(),
        "case_maps": maps[chosen],
        "case_masks": (np.zeros_like(maps, dtype=bool) if masks is None else masks)[chosen],
        "case_scores": scores[chosen],
        "case_kinds": np.concatenate([np.repeat(kind, len(indices)) for kind, indices in groups.items()]),
    }
