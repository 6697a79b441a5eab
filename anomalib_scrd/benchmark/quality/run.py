"""One run: build, train, choose the threshold on held-out normal images, score the test set once."""

__all__ = ["execute", "execute_and_store"]

import inspect
import json
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomalib.callbacks import ModelCheckpoint
from anomalib.data import AnomalibDataModule, AnomalibDataset
from anomalib.engine import Engine
from anomalib.models import AnomalibModule
from jsonargparse import ArgumentParser
from lightning.pytorch import seed_everything
from PIL import Image

from anomalib_scrd.benchmark import machine as measure
from anomalib_scrd.benchmark import training_length
from anomalib_scrd.benchmark.code_version import code_digest
from anomalib_scrd.benchmark.exports import predict_exported
from anomalib_scrd.benchmark.quality.config import BenchmarkConfig, ModelSpec, RunSpec, expand_variables
from anomalib_scrd.benchmark.quality.metrics import (
    aupro,
    best_f1,
    check_finite,
    image_metrics,
    quantile_threshold,
    rank_auroc,
    thresholded_metrics,
)
from anomalib_scrd.benchmark.quality.predictions import PredictionCollector, TrainingProgress
from anomalib_scrd.benchmark.quality.splits import Splits, make_splits, synthetic_anomalies
from anomalib_scrd.benchmark.quality.store import RunStore, write_atomically
from anomalib_scrd.benchmark.read_outs import ReadOuts
from anomalib_scrd.benchmark.scales import PullRecorder, scale_report
from anomalib_scrd.lightning_model import ScaleAwareCRD

_NOTHING = np.empty(0, dtype=np.float32)
_COMPONENTS = ("pre_processor", "post_processor", "evaluator", "visualizer")


@dataclass(frozen=True)
class _Threshold:
    """A threshold and where it comes from: no field of it can hold a test image's score."""

    value: float | None
    held_out: np.ndarray
    synthetic: np.ndarray


@dataclass(frozen=True)
class _Trained:
    """A model after its training."""

    engine: Engine
    model: AnomalibModule
    collector: PredictionCollector
    pull: PullRecorder
    read_outs: ReadOuts
    batches: int
    seconds: float


def execute(run: RunSpec, config: BenchmarkConfig) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Make one run in this process.

    Args:
        run: What to run.
        config: The benchmark that it belongs to.

    Returns:
        The result (metrics, times, memory, sizes, machine) and the arrays behind it (raw scores, pictured cases).

    Raises:
        Exception: Whatever the model, the data module or a check raises.
    """
    variables = config.environment()
    spec = config.model(run.model)
    store = RunStore(config.output)
    model_class = _import_class(spec.class_path, AnomalibModule, "anomalib.models")
    if spec.lengths is not None:
        training_length.check_kind(model_class)
    data_class = _import_class(config.data_set(run.data).class_path, AnomalibDataModule, "anomalib.data")
    data_args = _arguments(data_class, expand_variables(config.data_set(run.data).init_args, variables))
    splits = make_splits(data_class(**data_args), config.holdout, config.split_seed)

    memory = measure.PeakMemory(_device(config.accelerator))
    memory.reset()
    model_args = expand_variables(spec.init_args, variables)
    with tempfile.TemporaryDirectory(prefix="anomalib-scrd-") as scratch:

        def train(length: dict[str, int]) -> _Trained:
            seed_everything(run.seed, workers=True, verbose=False)
            model = _build_model(model_class, model_args, config.image_size)
            progress = TrainingProgress(_progress_writer(store.path(run, ".progress")))
            collector = PredictionCollector()
            pull = PullRecorder()
            read_outs = ReadOuts(spec.read_outs)
            callbacks = [collector, progress, pull, *([read_outs] if spec.read_outs else [])]
            engine = _engine(run, config, model, callbacks, scratch, length)
            started = time.perf_counter()
            with splits.training_view() as module:
                engine.fit(model, datamodule=module)
            seconds = time.perf_counter() - started - read_outs.seconds
            splits.module.setup()  # gives the other parts the model's resize, as the training part had it
            return _Trained(engine, model, collector, pull, read_outs, progress.batches, seconds)

        trained, lengths = _train(spec, train, splits)
        engine, model, collector = trained.engine, trained.model, trained.collector
        train_memory = memory.read()
        if config.keep_checkpoints:
            store.path(run).parent.mkdir(parents=True, exist_ok=True)
            engine.trainer.save_checkpoint(store.path(run, ".ckpt"))

        memory.reset()
        threshold = _choose_threshold(engine, model, collector, splits, config)
        test_memory = memory.read()
        _predict(engine, model, collector, splits, splits.test)
        steps = engine.trainer.global_step
        size = measure.model_size(model.model, engine.trainer.optimizers)
        metrics, notes = _score(collector, threshold)
        scales = None
        if splits.held_out is not None and isinstance(model, ScaleAwareCRD):
            scales = scale_report(model, splits.loader(splits.held_out), trained.pull)
        read_outs: dict[str, dict[str, float | None]] = {}
        if spec.read_outs:
            read_outs, found = _score_read_outs(trained, splits, config)
            notes += found
        exports: dict[str, dict[str, float | None]] = {}
        for export in spec.exports:
            predict = partial(predict_exported, model, export, splits, config.image_size, Path(scratch))
            exports[export], found = _score_export(predict, threshold)
            notes += [f"{export}: {note}" for note in found]

    result: dict[str, Any] = {
        "status": "ok",
        "metrics": metrics,
        "exports": exports,
        "read_outs": read_outs,
        "scales": scales,
        "threshold": {"value": threshold.value, "method": config.threshold.method, "images": len(threshold.held_out)},
        "cost": {
            "train_seconds": sum(entry["train_seconds"] for entry in lengths),
            "steps": steps,
            "batches": trained.batches,
            "ms_per_image": collector.milliseconds_per_image,
            "test_batch_size": splits.module.eval_batch_size,
            "train_memory_mib": train_memory,
            "test_memory_mib": test_memory,
            "memory_kind": memory.kind,
            **size,
        },
        "lengths": lengths,
        "counts": splits.counts(),
        "data_digest": splits.digest(),
        "machine": measure.machine(memory.device),
        "notes": notes,
    }
    arrays: dict[str, np.ndarray] = {
        "scores": collector.scores,
        "labels": collector.labels,
        "paths": np.asarray(collector.paths),
        "held_out_scores": threshold.held_out,
        "synthetic_scores": threshold.synthetic,
        **_cases(collector, config.cases, config.image_size),
    }
    return result, arrays


def execute_and_store(run: RunSpec, config: BenchmarkConfig) -> dict[str, Any]:
    """Make one run and keep its result; a run that fails is kept as failed.

    Args:
        run: What to run.
        config: The benchmark that it belongs to.

    Returns:
        The result as it was stored.
    """
    store = RunStore(config.output)
    started = time.perf_counter()
    common = {
        "model": run.model,
        "data": run.data,
        "seed": run.seed,
        "description": run.description,
        "code": code_digest(config.model(run.model).class_path),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "concurrent": config.workers if _device(config.accelerator).type == "cpu" else 1,
    }
    error_file = store.path(run, ".error.txt")
    try:
        with warnings.catch_warnings():
            result, arrays = execute(run, config)
        write_atomically(store.path(run, ".npz"), lambda file: np.savez_compressed(file, **arrays))  # type: ignore[arg-type]
        error_file.unlink(missing_ok=True)
    except Exception as error:  # noqa: BLE001  (whatever it was, the other runs go on)
        text = traceback.format_exc()
        write_atomically(error_file, lambda file: file.write(text.encode()))
        result = {
            "status": "failed",
            "error": f"{type(error).__name__}: {error}",
            "traceback": error_file.relative_to(store.root).as_posix(),
        }
    finally:
        store.path(run, ".progress").unlink(missing_ok=True)
    result = {**common, **result, "seconds": time.perf_counter() - started}
    store.save(run, result)
    return result


def _import_class(class_path: str, base: type, default_module: str) -> type:
    module, _, name = class_path.rpartition(".")
    found = getattr(import_module(module or default_module), name, None)
    if not (inspect.isclass(found) and issubclass(found, base)):
        msg = f"class_path {class_path!r} must name a subclass of {base.__name__}, found {found!r}"
        raise ValueError(msg)
    return found


def _arguments(cls: type, init_args: dict[str, Any], skip: tuple[str, ...] = ()) -> dict[str, Any]:
    """Check arguments against a class's signature and convert them as anomalib's command line does."""
    parser = ArgumentParser(exit_on_error=False)
    known = inspect.signature(cls).parameters
    parser.add_class_arguments(
        cls, "init_args", skip={name for name in skip if name in known}, instantiate=False, fail_untyped=False
    )
    parsed = parser.instantiate_classes(parser.parse_object({"init_args": init_args}))
    return {name: parsed["init_args"][name] for name in init_args}


def _build_model(cls: type, init_args: dict[str, Any], image_size: tuple[int, int]) -> AnomalibModule:
    arguments = _arguments(cls, init_args, skip=_COMPONENTS)
    known = inspect.signature(cls).parameters
    components = {
        "pre_processor": cls.configure_pre_processor(image_size=tuple(image_size)),  # type: ignore[attr-defined]
        **dict.fromkeys(_COMPONENTS[1:], False),
    }
    model = cls(**arguments, **{name: part for name, part in components.items() if name in known})
    model.pre_processor = components["pre_processor"]
    for name in _COMPONENTS[1:]:
        setattr(model, name, None)  # a class that takes no such argument still gets raw scores
    return model


def _train(
    spec: ModelSpec, train: Callable[[dict[str, int]], _Trained], splits: Splits
) -> tuple[_Trained, list[dict[str, float]]]:
    """Train with the given length, or with the longest of several that pays on held-out images.

    Returns:
        The trained model, and for each training its steps, seconds and, with several, the held-out distance.
    """
    if spec.lengths is None:
        given = {name: value for name in ("max_steps", "max_epochs") if (value := getattr(spec, name)) is not None}
        trained = train(given)
        return trained, [{"steps": trained.engine.trainer.global_step, "train_seconds": trained.seconds}]
    assert splits.held_out is not None
    chosen: _Trained | None = None
    entries: list[dict[str, float]] = []
    for steps in spec.lengths:
        trained = train({"max_steps": steps})
        distance = training_length.held_out_distance(trained.model, splits.loader(splits.held_out))  # type: ignore[arg-type]
        entries.append({"steps": steps, "train_seconds": trained.seconds, "held_out_distance": distance})
        if chosen is not None and not training_length.pays(entries[-2]["held_out_distance"], distance):
            break
        chosen = trained
    assert chosen is not None
    return chosen, entries


def _engine(
    run: RunSpec,
    config: BenchmarkConfig,
    model: AnomalibModule,
    callbacks: list[Any],
    scratch: str,
    length: dict[str, int],
) -> Engine:
    spec = config.model(run.model)
    fixed = model.trainer_arguments.keys() & {"max_steps", "max_epochs"}
    if not (length or spec.own_length or fixed):
        msg = (
            f"models.{run.model} needs max_steps, max_epochs or lengths (or own_length: true, if it ends by itself): "
            "Lightning would train 1000 epochs"
        )
        raise ValueError(msg)
    return Engine(
        # a checkpoint callback that keeps nothing, or anomalib would write one at every epoch
        callbacks=[*callbacks, ModelCheckpoint(dirpath=scratch, save_top_k=0)],
        logger=False,
        default_root_dir=scratch,
        accelerator=config.accelerator,
        devices=1,  # the worker process sees no other
        precision=config.precision,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        **length,
    )


def _device(accelerator: str) -> torch.device:
    wanted = accelerator in {"cuda", "gpu"} or (accelerator == "auto" and torch.cuda.is_available())
    return torch.device("cuda", 0) if wanted else torch.device("cpu")


def _predict(
    engine: Engine, model: AnomalibModule, collector: PredictionCollector, splits: Splits, images: AnomalibDataset
) -> None:
    collector.reset()
    engine.predict(model, dataloaders=splits.loader(images), return_predictions=False)


def _choose_threshold(
    engine: Engine, model: AnomalibModule, collector: PredictionCollector, splits: Splits, config: BenchmarkConfig
) -> _Threshold:
    if splits.held_out is None:
        return _Threshold(None, _NOTHING, _NOTHING)
    collector.keep_maps = False
    _predict(engine, model, collector, splits, splits.held_out)
    normal = collector.scores
    check_finite(normal, "held-out image scores")
    synthetic = _NOTHING
    if config.threshold.method == "synthetic":
        _predict(engine, model, collector, splits, synthetic_anomalies(splits.held_out, config.split_seed))
        synthetic = collector.scores
        check_finite(synthetic, "synthetic anomalies' image scores")
    collector.keep_maps = True
    return _threshold(normal, synthetic, config)


def _threshold(normal: np.ndarray, synthetic: np.ndarray, config: BenchmarkConfig) -> _Threshold:
    if config.threshold.method == "quantile":
        return _Threshold(quantile_threshold(normal, config.threshold.quantile), normal, synthetic)
    labels = np.concatenate([np.zeros(len(normal), dtype=np.int64), np.ones(len(synthetic), dtype=np.int64)])
    return _Threshold(best_f1(np.concatenate([normal, synthetic]), labels)[1], normal, synthetic)


def _score_read_outs(
    trained: _Trained, splits: Splits, config: BenchmarkConfig
) -> tuple[dict[str, dict[str, float | None]], list[str]]:
    """Metrics of the further read-outs by name, each with a threshold of its own, and notes."""
    assert isinstance(trained.model, ScaleAwareCRD)
    thresholds = dict.fromkeys(trained.read_outs.read_outs, _Threshold(None, _NOTHING, _NOTHING))
    if splits.held_out is not None:
        parts = [splits.held_out]
        if config.threshold.method == "synthetic":
            parts.append(synthetic_anomalies(splits.held_out, config.split_seed))
        seen = [trained.read_outs.predict(trained.model, splits.loader(part), keep_maps=False) for part in parts]
        for name in thresholds:
            scores = [collectors[name].scores for collectors in seen]
            thresholds[name] = _threshold(scores[0], scores[1] if len(scores) > 1 else _NOTHING, config)
    metrics, notes = {}, []
    predicted = trained.read_outs.predict(trained.model, splits.loader(splits.test), keep_maps=True)
    for name, collector in predicted.items():
        metrics[name], found = _score(collector, thresholds[name])
        notes += [f"{name}: {note}" for note in found]
    return metrics, notes


def _score(collector: PredictionCollector, threshold: _Threshold) -> tuple[dict[str, float | None], list[str]]:
    scores, labels, maps, masks = collector.scores, collector.labels, collector.maps, collector.masks
    check_finite(scores, "image scores")
    metrics: dict[str, float | None] = dict(image_metrics(scores, labels))
    if threshold.value is not None:
        metrics |= thresholded_metrics(scores, labels, threshold.value)
    if maps is not None and masks is not None and masks.any():
        check_finite(maps, "pixel scores")
        metrics["pixel_auroc"] = rank_auroc(maps[masks], maps[~masks])
        metrics["pixel_aupro"] = aupro(maps, masks)
    notes = []
    if metrics["image_auroc"] == 0.5:  # noqa: PLR2004
        notes.append("image AUROC is exactly 0.5: a mistake of the benchmark or of the model, not a result")
    if len(np.unique(scores)) == 1:
        notes.append(f"all image scores are {scores[0]}")
    return metrics, notes


def _score_export(
    predict: Callable[[], PredictionCollector], threshold: _Threshold
) -> tuple[dict[str, float | None], list[str]]:
    """Metrics of an exported model; where it fails none, and a note why: what was trained and scored is not lost."""
    try:
        return _score(predict(), threshold)
    except Exception as error:  # noqa: BLE001
        return {}, [f"{type(error).__name__}: {error}"]


def _cases(collector: PredictionCollector, count: int, image_size: tuple[int, int]) -> dict[str, np.ndarray]:
    """The best found anomalies, the missed ones and the false alarms, for pictures only."""
    scores, labels, maps, masks = collector.scores, collector.labels, collector.maps, collector.masks
    if maps is None or count == 0:
        return {}
    by_score = np.argsort(-scores, kind="stable")
    anomalous, normal = by_score[labels[by_score] == 1], by_score[labels[by_score] == 0]
    groups = {"best": anomalous[:count], "missed": anomalous[::-1][:count], "false alarm": normal[:count]}
    chosen = np.concatenate(list(groups.values()))
    images = []
    for index in chosen:
        with Image.open(collector.paths[index]) as image:
            images.append(np.asarray(image.convert("RGB").resize(image_size[::-1])))
    return {
        "case_images": np.stack(images),
        "case_maps": maps[chosen],
        "case_masks": (np.zeros_like(maps, dtype=bool) if masks is None else masks)[chosen],
        "case_scores": scores[chosen],
        "case_kinds": np.concatenate([np.repeat(kind, len(indices)) for kind, indices in groups.items()]),
    }


def _progress_writer(path: Path) -> Callable[[int, int], None]:
    def report(done: int, planned: int) -> None:
        text = json.dumps({"done": done, "planned": planned})
        write_atomically(path, lambda file: file.write(text.encode()))

    return report
