"""Description of a benchmark, checked before anything is trained, and its expansion into single runs."""

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

    Pre-processor and post-processor are not among its arguments: the benchmark sets them alike for all models.

    Args:
        max_steps: Length of its training in optimiser steps.
        max_epochs: Length of its training in epochs.
        own_length: Leave the length to the model. Without a length, without this, and with a model that fixes none
            in its ``trainer_arguments``, Lightning would train 1000 epochs unasked: that is an error.
        image_size: (height, width) in place of the benchmark's.
        exports: Exported forms of the trained model that predict the test images too.
    """

    max_steps: int | None = None
    max_epochs: int | None = None
    own_length: bool = False
    image_size: list[int] | None = None
    exports: list[Export] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Raise ValueError unless the arguments make sense."""
        for name, value in self.length.items():
            require(value >= 1, name, value, "at least 1 or left out")
        require(not (self.own_length and self.length), "own_length", True, f"false beside {self.length}")
        known = get_args(Export)
        exports = isinstance(self.exports, list) and set(self.exports) <= set(known)
        require(exports, "exports", self.exports, f"a list of {known}")
        given = sorted(_COMPONENTS & self.init_args.keys())
        require(not given, "init_args", given, f"without {sorted(_COMPONENTS)}, which are set for all models")

    @property
    def length(self) -> dict[str, int]:
        """Arguments of the trainer that set the length of the training."""
        lengths = {"max_steps": self.max_steps, "max_epochs": self.max_epochs}
        return {name: value for name, value in lengths.items() if value is not None}


@dataclass
class BenchmarkConfig:
    """A benchmark: every model on every data set with every seed.

    Args:
        models: The models by the names they have in tables, each with the arguments of :class:`ModelSpec`.
        data: The data sets by the names they have in tables: class and arguments of a data module. Its validation split
            is always switched off. Environment variables are not part of a run's identity: a set may move.
        output: Folder of everything written: one file per run, tables, figures.
        seeds: One run of each model on each data set per seed. The seed is set before the model is built.
        reference: Name of the model to which all others are compared in pairs. By default the first one.
        rivals: Names of the models whose best, set by set, the reference is compared with.
        leave_one_set_out: Groups of models by name. Of each group the model that is best on the other sets is reported
            on the set left out, for each set in turn.
        image_size: (height, width) to which the pre-processors resize.
        holdout: Share of the normal training images that no model is trained on, in [0, 1). The threshold of F1 and
            accuracy comes from them; 0 leaves these two out.
        split_seed: Seed of that split, the same for all models and seeds.
        quantile: Share of the held-out normal images that is to lie at or below the threshold, in (0, 1].
        accelerator: Lightning's accelerator.
        devices: Indices of the GPUs, each with one worker process of its own. On a CPU, see ``workers``.
        workers: Runs at the same time on a CPU. Times of concurrent runs are marked in the report.
        precision: Lightning's precision.
        cases: How many best anomalies, missed anomalies and false alarms the heat maps of a run show.
        keep_checkpoints: Keep the state at the end of each training, which is the one scored, beside its result.
        isolate: Give each run a process of its own: its memory is measured alone and its crash stays its own.
        retry_failed: Run again what failed before, when the benchmark is started again.
        report_only: Write tables and figures of what is finished, run nothing.
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
        """Raise ValueError, before anything is trained, for what is out of range or not there."""
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
        """All runs, seed by seed, so that an early look at the report compares all models on the first seed."""
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
        seed: Seed of building and training.
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
        """The run in words, for progress lines."""
        return f"{self.data} {self.model} seed {self.seed}"
