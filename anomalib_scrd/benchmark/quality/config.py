"""What a benchmark runs: its description as dataclasses, the expansion into single runs, and their keys."""

__all__ = [
    "EXPORTS",
    "BenchmarkConfig",
    "DataSpec",
    "Export",
    "ModelSpec",
    "RunSpec",
    "ThresholdSpec",
    "expand_variables",
]

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

DATA_VARIABLE = "ANOMALIB_SCRD_DATA"
Export = Literal["openvino-f32", "openvino-int8-weights", "openvino-int8"]
EXPORTS: tuple[Export, ...] = get_args(Export)
_SCHEMA = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


@dataclass
class ModelSpec:
    """One model of the benchmark.

    Args:
        class_path: Import path of a subclass of anomalib's ``AnomalibModule``, or the bare name of one of anomalib's.
        init_args: Its arguments. The pre-processor is not among them: ``image_size`` sets it for all models alike.
        max_steps: Length of its training in optimiser steps.
        max_epochs: Length of its training in epochs.
        lengths: Lengths in optimiser steps, growing, from which the held-out normal images choose: the model is trained
            anew with each in turn, as long as that pays (:mod:`anomalib_scrd.benchmark.training_length`).
        exports: Exported forms of the trained model that predict the test images too
            (:mod:`anomalib_scrd.benchmark.exports`): openvino-f32, openvino-int8-weights, openvino-int8.
        read_outs: Further read-outs of the same training, for ``ScaleAwareCRD`` alone: the arguments of map and score
            that differ from those in ``init_args``, by the names they have in tables behind the model's
            (:mod:`anomalib_scrd.benchmark.read_outs`).
        own_length: Leave the length to the model. Without a length, without this, and with a model that fixes none
            in its ``trainer_arguments``, Lightning would train 1000 epochs unasked: that is an error.
    """

    class_path: str
    init_args: dict[str, Any] = field(default_factory=dict)
    max_steps: int | None = None
    max_epochs: int | None = None
    lengths: list[int] | None = None
    exports: list[Export] = field(default_factory=list)
    read_outs: dict[str, dict[str, Any]] = field(default_factory=dict)
    own_length: bool = False

    def check(self, name: str) -> None:
        """Raise ValueError unless lengths, exports and read-outs make sense and the shared parts are left alone."""
        for argument in ("max_steps", "max_epochs"):
            value = getattr(self, argument)
            if value is not None and value < 1:
                msg = f"models.{name}.{argument} must be at least 1 or left out, got {value}"
                raise ValueError(msg)
        given = self.max_steps is not None or self.max_epochs is not None
        if self.own_length + given + (self.lengths is not None) > 1:
            msg = f"models.{name} has more than one of own_length, lengths, and a length; give one of them"
            raise ValueError(msg)
        if self.lengths is not None and (
            not isinstance(self.lengths, list)
            or len(self.lengths) < 2  # noqa: PLR2004
            or any(type(length) is not int for length in self.lengths)
            or self.lengths[0] < 1
            or any(longer <= shorter for shorter, longer in pairwise(self.lengths))
        ):
            msg = f"models.{name}.lengths must be two or more growing whole numbers of at least 1, got {self.lengths}"
            raise ValueError(msg)
        if not isinstance(self.exports, list) or any(export not in EXPORTS for export in self.exports):
            msg = f"models.{name}.exports must be a list of {EXPORTS}, got {self.exports}"
            raise ValueError(msg)
        if self.read_outs:
            self._check_read_outs(f"models.{name}")
        for component in ("pre_processor", "post_processor", "evaluator", "visualizer"):
            if component in self.init_args:
                msg = f"models.{name}.init_args must not hold {component!r}: the benchmark sets it alike for all models"
                raise ValueError(msg)

    def _check_read_outs(self, place: str) -> None:
        from anomalib_scrd.benchmark.read_outs import check_read_outs

        if self.class_path.rpartition(".")[2] != "ScaleAwareCRD":
            msg = f"{place}.read_outs: only ScaleAwareCRD has read-outs, got class_path {self.class_path!r}"
            raise ValueError(msg)
        if self.lengths is not None:
            msg = f"{place} has read_outs and lengths; give one of them"
            raise ValueError(msg)
        if not isinstance(self.read_outs, dict) or not all(isinstance(one, dict) for one in self.read_outs.values()):
            msg = f"{place}.read_outs must hold arguments by name, got {self.read_outs}"
            raise ValueError(msg)
        try:
            check_read_outs(self.read_outs)
        except ValueError as error:
            msg = f"{place}.read_outs.{error}"
            raise ValueError(msg) from error


@dataclass
class DataSpec:
    """One data set of the benchmark.

    Args:
        class_path: Import path of a subclass of anomalib's ``AnomalibDataModule``, or the bare name of one of
            anomalib's (``Folder``, ``BMAD``, ...).
        init_args: Its arguments. ``${NAME}`` in a string stands for an environment variable,
            ``${ANOMALIB_SCRD_DATA}`` for ``data_root``. Its validation split is always switched off.
    """

    class_path: str
    init_args: dict[str, Any] = field(default_factory=dict)


@dataclass
class ThresholdSpec:
    """How the threshold behind F1 and accuracy is chosen, from held-out normal training images alone.

    Args:
        method: ``quantile``: the held-out normal images' score at ``quantile``. ``synthetic``: the threshold of the
            best F1 between held-out normal images and anomalib's Perlin anomalies drawn on them.
        quantile: Share of the held-out normal images that is to lie at or below the threshold, in (0, 1].
    """

    method: Literal["quantile", "synthetic"] = "quantile"
    quantile: float = 0.95


_Spec = TypeVar("_Spec", ModelSpec, DataSpec)


@dataclass
class BenchmarkConfig:
    """A benchmark: every model on every data set with every seed.

    Args:
        models: The models by the names they have in tables, each with the arguments of :class:`ModelSpec`.
        data: The data sets by the names they have in tables, each with the arguments of :class:`DataSpec`.
        output: Folder of everything written: one file per run, table, figures.
        seeds: One run of each model on each data set per seed. The seed is set before the model is built.
        candidates: Names of the models that are compared with the best of the others.
        image_size: (height, width) to which every model's pre-processor resizes.
        holdout: Share of the normal training images that no model is trained on, in [0, 1). The threshold comes from
            them; 0 leaves out F1 and accuracy.
        split_seed: Seed of that split, the same for all models and seeds.
        threshold: How the threshold is chosen on them.
        accelerator: Lightning's accelerator.
        devices: Indices of the devices, each with one worker process of its own. On a CPU, see ``workers``.
        workers: Runs at the same time on a CPU. Times of concurrent runs are marked in the table.
        precision: Lightning's precision.
        data_root: Folder that ``${ANOMALIB_SCRD_DATA}`` stands for; without it, the environment variable does.
        cases: How many best anomalies, missed anomalies and false alarms the heat maps of a run show.
        keep_checkpoints: Keep the state at the end of each training beside its result. There is no choice among
            checkpoints: the last state is the one that is scored.
        isolate: Give each run a process of its own: its memory is measured alone and its crash stays its own.
        retry_failed: Run again what failed before, when the benchmark is started again.
        report_only: Write table and figures of what is finished, run nothing.
        report_every: Seconds between two lines about running trainings.
    """

    models: dict[str, dict[str, Any]]
    data: dict[str, dict[str, Any]]
    output: Path = Path("results/benchmark")
    seeds: list[int] = field(default_factory=lambda: [0])
    candidates: list[str] = field(default_factory=list)
    image_size: tuple[int, int] = (256, 256)
    holdout: float = 0.1
    split_seed: int = 0
    threshold: ThresholdSpec = field(default_factory=ThresholdSpec)
    accelerator: str = "auto"
    devices: list[int] = field(default_factory=lambda: [0])
    workers: int = 1
    precision: str = "32-true"
    data_root: Path | None = None
    cases: int = 3
    keep_checkpoints: bool = False
    isolate: bool = True
    retry_failed: bool = True
    report_only: bool = False
    report_every: float = 60.0

    def __post_init__(self) -> None:
        """Check what can be checked before anything is trained.

        Raises:
            ValueError: If an argument is out of range or names something that is not there.
        """
        self.output = Path(self.output)
        self._check_names()
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            msg = f"seeds must be different numbers, at least one, got {self.seeds}"
            raise ValueError(msg)
        ranges = {
            "holdout": (0 <= self.holdout < 1, self.holdout, "in [0, 1)"),
            "threshold.quantile": (0 < self.threshold.quantile <= 1, self.threshold.quantile, "in (0, 1]"),
            "image_size": (min(self.image_size) > 0, self.image_size, "two numbers above 0"),
            "workers": (self.workers >= 1, self.workers, "at least 1"),
            "devices": (len(self.devices) >= 1, self.devices, "at least one index"),
            "cases": (self.cases >= 0, self.cases, "at least 0"),
            "report_every": (self.report_every > 0, self.report_every, "above 0"),
        }
        for argument, (good, value, allowed) in ranges.items():
            if not good:
                msg = f"{argument} must be {allowed}, got {value}"
                raise ValueError(msg)

    def _check_names(self) -> None:
        for kind, names in (("models", self.models), ("data", self.data)):
            if not names:
                msg = f"{kind} must name at least one entry, got none"
                raise ValueError(msg)
            for name in names:
                if not _NAME.fullmatch(name):
                    msg = f"{kind} has the name {name!r}; allowed are letters, digits and . _ + - (it names files)"
                    raise ValueError(msg)
        for name in self.models:
            self.model(name).check(name)
            if self.model(name).lengths is not None and self.holdout == 0:
                msg = f"models.{name}.lengths needs held-out images to choose by: holdout must be above 0, got 0"
                raise ValueError(msg)
            if "openvino-int8" in self.model(name).exports and self.holdout == 0:
                msg = f"models.{name}.exports: held-out images calibrate openvino-int8: holdout must be above 0, got 0"
                raise ValueError(msg)
        for name in self.data:
            self.data_set(name)
        unknown = [name for name in self.candidates if name not in self.models]
        if unknown:
            msg = f"candidates {unknown} are not among models {sorted(self.models)}"
            raise ValueError(msg)

    def model(self, name: str) -> ModelSpec:
        """Description of a model."""
        return _spec(ModelSpec, f"models.{name}", self.models[name])

    def data_set(self, name: str) -> DataSpec:
        """Description of a data set."""
        return _spec(DataSpec, f"data.{name}", self.data[name])

    def runs(self) -> list["RunSpec"]:
        """All runs, seed by seed, so that an early look at the table compares all models on the first seed."""
        return [
            RunSpec(model, data, seed, self._describe(self.model(model), self.data_set(data), seed))
            for seed in self.seeds
            for data in self.data
            for model in self.models
        ]

    def environment(self) -> dict[str, str]:
        """Return the variables that ``${NAME}`` may name: the process's own and ``data_root``."""
        variables = dict(os.environ)
        if self.data_root is not None:
            variables[DATA_VARIABLE] = str(self.data_root)
        return variables

    def _describe(self, model: ModelSpec, data: DataSpec, seed: int) -> dict[str, Any]:
        return {
            "schema": _SCHEMA,
            "model": asdict(model),
            "data": asdict(data),
            "seed": seed,
            "image_size": list(self.image_size),
            "holdout": self.holdout,
            "split_seed": self.split_seed,
            "threshold": asdict(self.threshold),
            "accelerator": self.accelerator,
            "precision": self.precision,
        }


@dataclass(frozen=True)
class RunSpec:
    """One model on one data set with one seed.

    Args:
        model: Name of the model.
        data: Name of the data set.
        seed: Seed of building and training.
        description: All settings that determine the result. Variables stand unexpanded in it, so that a data set
            that moved to another folder is still the same.
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


def _spec(cls: type[_Spec], place: str, arguments: dict[str, Any]) -> _Spec:
    """Make a description from its entry in the YAML file (not jsonargparse's task: it owns the word class_path)."""
    known = [entry.name for entry in fields(cls)]  # type: ignore[arg-type]
    if not isinstance(arguments, dict) or "class_path" not in arguments or set(arguments) - set(known):
        msg = f"{place} must hold class_path and may hold {known[1:]}, got {arguments}"
        raise ValueError(msg)
    return cls(**arguments)


def expand_variables(value: Any, variables: dict[str, str]) -> Any:
    """Replace ``${NAME}`` in all strings of a nested structure.

    Args:
        value: Strings, lists, dictionaries and anything else, which stays as it is.
        variables: Values by name.

    Returns:
        A copy of the structure.

    Raises:
        ValueError: If a variable has no value.
    """
    if isinstance(value, dict):
        return {key: expand_variables(entry, variables) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [expand_variables(entry, variables) for entry in value]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in variables:
            way = "give --data_root FOLDER or set it" if name == DATA_VARIABLE else "set it"
            msg = f"{value!r} needs the environment variable {name}, which is not set; {way}"
            raise ValueError(msg)
        return variables[name]

    return re.sub(r"\$\{(\w+)\}", replace, value)
