"""Configuration of a benchmark, checked before any training, and its expansion into single runs."""

__all__ = ["BenchmarkConfig", "Export", "ModelSpec", "RunSpec"]

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from anomalib_scrd.benchmark.descriptions import Entry, described, require

Export = Literal["openvino-f32", "openvino-int8-weights", "openvino-int8"]
_SCHEMA = 2
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_COMPONENTS = {"pre_processor", "post_processor", "evaluator", "visualizer"}


@dataclass
class ModelSpec(Entry):
    """One model of the benchmark, a subclass of anomalib's ``AnomalibModule``.

    Pre-processor and post-processor are not among its arguments: the benchmark sets the same for all models.

    Args:
        max_steps: Length of its training in optimiser steps.
        max_epochs: Length of its training in epochs.
        own_length: Whether the model sets its own length. Without this, without a length and without one in the model's
            ``trainer_arguments`` Lightning would train 1000 epochs, which is an error.
        image_size: (height, width) instead of the benchmark's.
        exports: Exported forms of the trained model that also predict the test images.
    """

    max_steps: int | None = None
    max_epochs: int | None = None
    own_length: bool = False
    image_size: list[int] | None = None
    exports: list[Export] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Raise ValueError if the arguments are inconsistent."""
        for name, value in self.length.items():
            require(value >= 1, name, value, "at least 1 or left out")
        require(not (self.own_length and self.length), "own_length", True, f"false together with {self.length}")
        known = get_args(Export)
        exports = isinstance(self.exports, list) and set(self.exports) <= set(known)
        require(exports, "exports", self.exports, f"a list of {known}")
        given = sorted(_COMPONENTS & self.init_args.keys())
        require(not given, "init_args", given, f"without {sorted(_COMPONENTS)}, which are set for all models")

    @property
    def length(self) -> dict[str, int]:
        """Trainer arguments for the length of the training."""
        lengths = {"max_steps": self.max_steps, "max_epochs": self.max_epochs}
        return {name: value for name, value in lengths.items() if value is not None}


@dataclass
class BenchmarkConfig:
    """A benchmark: every model on every data set with every seed.

    Args:
        models: The models by their names in tables, each with the arguments of :class:`ModelSpec`.
        data: The data sets by their names in tables: class and arguments of a data module, whose validation split is
            switched off. Values of environment variables are not part of a run's identity, so a set may be moved.
        output: Folder of all outputs: one file per run, tables, figures.
        seeds: Seeds, with one run of each model on each data set per seed. The seed is set before the model is built.
        reference: Name of the model with which all others are compared in pairs. By default the first one.
        rivals: Names of models; the best of them on each set is compared with the reference.
        leave_one_set_out: Groups of models by name. For each set in turn, the model of a group that is best on the
            other sets is reported on this set.
        image_size: (height, width) to which the pre-processors resize.
        holdout: Share of the normal training images that no model is trained on, in [0, 1). The threshold of F1 and
            accuracy comes from them; with 0 these two are omitted.
        split_seed: Seed of that split, the same for all models and seeds.
        quantile: Share of the held-out normal images at or below the threshold, in (0, 1].
        accelerator: Lightning's accelerator.
        devices: Indices of the GPUs, each with its own worker process. On a CPU, see ``workers``.
        workers: Number of concurrent runs on a CPU. Times of concurrent runs are marked in the report.
        precision: Lightning's precision.
        cases: Number of best anomalies, of missed ones and of false alarms in the heat maps of a new run.
        keep_checkpoints: Whether to keep the state at the end of each new training, the scored one, by its result.
        isolate: Whether each run has its own process: its memory is measured separately, and a crash does not end the
            others.
        retry_failed: Whether failed runs are repeated when the benchmark is started again.
        report_only: Write tables and figures of finished runs only, without running any.
    """

    models: dict[str, dict[str, Any]]
    data: dict[str, dict[str, Any]]
    output: Path = Path("results/benchmark")
    seeds: list[int] = field(default_factory=lambda: [0])
    reference: str | None = None
    rivals: list[str] = field(default_factory=list)
    leave_one_set_out: dict[str, list[str]] = field(default_factory=dict)
    image_size: tuple[int, int] = (256, 256)
    holdout: float = 0.1
    split_seed: int = 0
    quantile: float = 0.95
    accelerator: str = "auto"
    devices: list[int] = field(default_factory=lambda: [0])
    workers: int = 1
    precision: str = "32-true"
    cases: int = 3
    keep_checkpoints: bool = False
    isolate: bool = True
    retry_failed: bool = True
    report_only: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError, before any training, if an argument is out of range or a name is unknown."""
        self.output = Path(self.output)
        self.model_specs = described(ModelSpec, self.models, "models")
        self.data_specs = described(Entry, self.data, "data")
        for name in (*self.models, *self.data):
            allowed = "of letters, digits and . _ + - (it names files)"
            require(_NAME.fullmatch(name) is not None, "the name of a model or data set", name, allowed)
        for size in (self.image_size, *(spec.image_size for spec in self.model_specs.values() if spec.image_size)):
            require(len(size) == 2 and min(size) > 0, "image_size", size, "two numbers above 0")  # noqa: PLR2004
        self.reference = self.reference or next(iter(self.models))
        named: dict[str, list[str]] = {"reference": [self.reference], "rivals": self.rivals}
        named |= {f"leave_one_set_out.{name}": names for name, names in self.leave_one_set_out.items()}
        for argument, names in named.items():
            require(set(names) <= set(self.models), argument, names, f"among the models {sorted(self.models)}")
        require(len(set(self.seeds)) == len(self.seeds) > 0, "seeds", self.seeds, "different numbers, at least one")
        require(0 <= self.holdout < 1, "holdout", self.holdout, "in [0, 1)")
        for name, spec in self.model_specs.items():
            why = f"above 0: held-out images calibrate the export openvino-int8 of {name}"
            require(self.holdout > 0 or "openvino-int8" not in spec.exports, "holdout", self.holdout, why)
        require(0 < self.quantile <= 1, "quantile", self.quantile, "in (0, 1]")
        require(self.workers >= 1, "workers", self.workers, "at least 1")
        require(len(self.devices) >= 1, "devices", self.devices, "at least one index")
        require(self.cases >= 0, "cases", self.cases, "at least 0")

    def runs(self) -> list["RunSpec"]:
        """All runs, seed by seed, so that an early report compares all models on the first seed."""
        names = ("image_size", "holdout", "split_seed", "quantile", "accelerator", "precision")
        shared = {"schema": _SCHEMA, **{name: getattr(self, name) for name in names}}
        return [
            RunSpec(name, place, seed, {**shared, "model": asdict(model), "data": asdict(data), "seed": seed})
            for seed in self.seeds
            for place, data in self.data_specs.items()
            for name, model in self.model_specs.items()
        ]


@dataclass(frozen=True)
class RunSpec:
    """One model on one data set with one seed.

    Args:
        model: Name of the model.
        data: Name of the data set.
        seed: Seed of weights and training.
        description: All settings that determine the result.
    """

    model: str
    data: str
    seed: int
    description: dict[str, Any] = field(hash=False)

    @property
    def key(self) -> str:
        """Ten hexadecimal digits that change with every setting of the run."""
        text = json.dumps(self.description, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    @property
    def label(self) -> str:
        """Name of the run in progress messages."""
        return f"{self.data} {self.model} seed {self.seed}"
