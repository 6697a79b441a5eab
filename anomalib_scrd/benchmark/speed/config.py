"""What the command ``speed`` measures."""

__all__ = ["SECTIONS", "Contender", "SpeedConfig"]

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from anomalib_scrd.benchmark.descriptions import described, require

PredictionEngine = Literal[
    "torch", "compile", "onnx", "openvino-f32", "openvino-bf16", "openvino-int8-weights", "openvino-int8"
]
SECTIONS = ("step", "prediction")
_PRECISIONS = ("32", "bf16", "16")


@dataclass
class Contender:
    """A model and the way it is run.

    Args:
        class_path: Import path of a subclass of anomalib's ``AnomalibModule``, or the bare name of one of anomalib's.
        init_args: Its arguments.
        precision: Of the steps, and of torch's predictions: 32, or autocast to bf16 or 16.
        compile: Compile the model of the training steps with torch.compile.
        channels_last: Lay images and weights out with the channels last.
    """

    class_path: str
    init_args: dict[str, Any] = field(default_factory=dict)
    precision: str = "32"
    compile: bool = False
    channels_last: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError for an unknown precision."""
        self.precision = str(self.precision)
        require(self.precision in _PRECISIONS, "precision", self.precision, f"one of {_PRECISIONS}")


@dataclass
class SpeedConfig:
    """What to measure, and how.

    Args:
        models: The contenders by name, each with the arguments of :class:`Contender`.
        step: Names of those whose training steps are timed.
        prediction: Names of those whose predictions are timed, with each of the ``engines``.
        reference: The contender that others are compared with. By default the first one.
        image_sizes: Heights and widths of the input; with several, all are timed side by side and growth is shown.
        batch: Images of a training step.
        engines: What runs the predictions: torch on ``device``, all others on the CPU.
        prediction_batches: Images per prediction.
        device: ``auto``, or torch's name of the device.
        rounds: How often each contender is timed. Six are the least that give a 95 % interval.
        warmup: Untimed runs of each contender before that.
        threads: Threads of torch, OpenVINO and ONNX Runtime; None leaves torch's own choice, which the others then get.
        seed: Of weights and images.
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
        """Check what can be checked before anything is measured.

        Raises:
            ValueError: If an argument is out of range or names something that is not there.
        """
        self.output = Path(self.output)
        require(bool(self.models), "models", self.models, "at least one entry by name")
        self.contenders = {name: described(Contender, given, f"models.{name}") for name, given in self.models.items()}
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
