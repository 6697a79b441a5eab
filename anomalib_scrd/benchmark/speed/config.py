"""Description of the measurements of the command ``speed``."""

__all__ = ["SECTIONS", "Contender", "SpeedConfig"]

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from anomalib_scrd.benchmark.descriptions import Entry, described, require

PredictionEngine = Literal[
    "torch", "compile", "onnx", "openvino-f32", "openvino-bf16", "openvino-int8-weights", "openvino-int8"
]
SECTIONS = ("step", "prediction")
_PRECISIONS = ("32", "bf16")


@dataclass
class Contender(Entry):
    """A model, a subclass of anomalib's ``AnomalibModule``, and the way it is run.

    Args:
        precision: Precision of the steps and of torch's predictions: 32 (default), or bf16 by autocast.
        compile: Whether to compile the model of the training steps with torch.compile.
    """

    precision: str = "32"
    compile: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError for an unknown precision."""
        self.precision = str(self.precision)
        require(self.precision in _PRECISIONS, "precision", self.precision, f"one of {_PRECISIONS}")


@dataclass
class SpeedConfig:
    """Sections to measure, and their settings.

    Args:
        models: The contenders by name, each with the arguments of :class:`Contender`.
        step: Names of the models whose training steps are timed.
        prediction: Names of the models whose predictions are timed, with each of the ``engines``.
        reference: Name of the model with which others are compared. By default the first one.
        image_sizes: Sides of the square input, in pixels; several are timed side by side, with the growth of the time.
        batch: Images per training step.
        engines: Engines of the predictions: torch on ``device``, all others on the CPU.
        prediction_batches: Images per prediction.
        device: ``auto``, or torch's name of the device.
        rounds: Number of timed runs of each model. A 95 % interval needs at least six.
        warmup: Number of untimed runs of each model before.
        threads: Threads of torch, OpenVINO and ONNX Runtime; None for torch's default, which is then used for all.
        seed: Seed of weights and images.
        output: Folder of speed.md and speed.csv.
    """

    models: dict[str, dict[str, Any]]
    step: list[str] = field(default_factory=list)
    prediction: list[str] = field(default_factory=list)
    reference: str | None = None
    image_sizes: list[int] = field(default_factory=lambda: [256])
    batch: int = 8
    engines: list[PredictionEngine] = field(default_factory=lambda: ["torch", "openvino-f32"])
    prediction_batches: list[int] = field(default_factory=lambda: [1, 8])
    device: str = "auto"
    rounds: int = 15
    warmup: int = 3
    threads: int | None = None
    seed: int = 0
    output: Path = Path("results/speed")

    def __post_init__(self) -> None:
        """Raise ValueError, before any measurement, if an argument is out of range or a name is unknown."""
        self.output = Path(self.output)
        self.contenders = described(Contender, self.models, "models")
        self.reference = self.reference or next(iter(self.models))
        chosen = {name: getattr(self, name) for name in SECTIONS}
        require(any(chosen.values()), " or ".join(SECTIONS), [], "a list of at least one model")
        for name, models in (chosen | {"reference": [self.reference]}).items():
            require(set(models) <= set(self.models), name, models, f"among the models {sorted(self.models)}")
        for name in ("image_sizes", "prediction_batches"):
            values = getattr(self, name)
            require(min(values, default=0) >= 1, name, values, "numbers of at least 1")
        for name in ("batch", "rounds"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(self.warmup >= 0, "warmup", self.warmup, "at least 0")
        require(self.threads is None or self.threads >= 1, "threads", self.threads, "at least 1 or left out")
