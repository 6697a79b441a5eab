"""What the command ``speed`` measures."""

__all__ = ["ENGINES", "SECTIONS", "Engine", "Precision", "SectionName", "SpeedConfig"]

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch

Precision = Literal["32", "bf16", "16"]
SectionName = Literal["step", "parts", "options", "loader", "inference", "growth", "devices"]
Engine = Literal["torch", "compile", "onnx", "openvino-f32", "openvino-bf16", "openvino-int8-weights", "openvino-int8"]
SECTIONS: tuple[SectionName, ...] = get_args(SectionName)
ENGINES: tuple[Engine, ...] = get_args(Engine)


@dataclass
class SpeedConfig:
    """What to measure, and how.

    Args:
        sections: What to measure: ``step`` (a training step against others), ``parts`` (where its time goes and what
            floor it has), ``options`` (what precision, layout, compiler and fused optimiser change), ``loader``
            (reading images against the step), ``inference`` (exported models), ``growth`` (cost against input size,
            batch and scales), ``devices`` (several processes).
        backbone: timm model: the teacher of all contenders.
        layers: Its feature maps, finest first; None for those of strides 4, 8 and 16.
        image_size: (height, width) of the input.
        batch: Images of a training step.
        precision: Of the steps, and of torch's predictions on a GPU: float32, or autocast to bfloat16 or float16.
        device: ``auto``, or torch's name of the device. Exported models run on the CPU.
        rounds: How often each contender is timed. Six are the least that give a 95 % interval.
        warmup: Untimed runs of each contender before that.
        threads: Threads of torch, OpenVINO and ONNX Runtime; None leaves torch's own choice, which the others then get.
        compile: Compile the models of the training steps with torch.compile.
        channels_last: Lay images and weights out with the channels last.
        pre_trained: Weights of the teacher. The speed does not depend on them; false needs none.
        seed: Of weights and images.
        variants: Further contenders in ``step``, ``parts`` and ``inference``, by name: arguments of ScaleAwareCRD that
            differ from the default ones.
        images: Folder of images for ``loader`` and the calibration of INT8; None draws phantoms.
        loader_workers: Numbers of worker processes of the data loader.
        engines: What ``inference`` runs.
        inference_models: Whose predictions ``inference`` measures.
        inference_batches: Images per prediction.
        growth_sizes: Heights and widths of ``growth``.
        growth_batches: Batches of ``growth``, at ``image_size``.
        growth_scales: Numbers of the backbone's feature maps, from stride 4 on, at ``image_size``.
        growth_batch: Batch at which sizes and scales grow.
        processes: Number of processes in ``devices``.
        output: Folder of speed.json, speed.md and speed.png.
    """

    sections: list[SectionName] = field(default_factory=lambda: list(SECTIONS))
    backbone: str = "wide_resnet50_2"
    layers: list[str] | None = None
    image_size: tuple[int, int] = (256, 256)
    batch: int = 8
    precision: Precision = "32"
    device: str = "auto"
    rounds: int = 15
    warmup: int = 3
    threads: int | None = None
    compile: bool = False
    channels_last: bool = False
    pre_trained: bool | str = False
    seed: int = 0
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    images: Path | None = None
    loader_workers: list[int] = field(default_factory=lambda: [0, 2])
    engines: list[Engine] = field(default_factory=lambda: list(ENGINES))
    inference_models: list[Literal["default", "edge", "baseline"]] = field(
        default_factory=lambda: ["default", "edge", "baseline"]
    )
    inference_batches: list[int] = field(default_factory=lambda: [1, 8])
    growth_sizes: list[int] = field(default_factory=lambda: [128, 256, 512, 1024])
    growth_batches: list[int] = field(default_factory=lambda: [1, 2, 4, 8])
    growth_scales: list[int] = field(default_factory=lambda: [2, 3, 4])
    growth_batch: int = 1
    processes: int = 2
    output: Path = Path("results/speed")

    def __post_init__(self) -> None:
        """Check what can be checked before anything is measured.

        Raises:
            ValueError: If an argument is out of range.
        """
        self.output = Path(self.output)
        height, width = self.image_size  # a list, where it comes from a file
        self.image_size = (height, width)
        self.images = None if self.images is None else Path(self.images)
        ranges = {
            "sections": (bool(self.sections), self.sections, "at least one"),
            "image_size": (min(self.image_size) > 0, self.image_size, "two numbers above 0"),
            "batch": (self.batch >= 1, self.batch, "at least 1"),
            "rounds": (self.rounds >= 1, self.rounds, "at least 1"),
            "warmup": (self.warmup >= 0, self.warmup, "at least 0"),
            "threads": (self.threads is None or self.threads >= 1, self.threads, "at least 1 or left out"),
            "growth_batch": (self.growth_batch >= 1, self.growth_batch, "at least 1"),
            "processes": (self.processes >= 2, self.processes, "at least 2"),  # noqa: PLR2004
            "images": (self.images is None or self.images.is_dir(), self.images, "a folder or left out"),
        }
        for argument, (good, value, allowed) in ranges.items():
            if not good:
                msg = f"{argument} must be {allowed}, got {value}"
                raise ValueError(msg)

    @property
    def torch_device(self) -> torch.device:
        """The device in torch's terms."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)

    def use_threads(self) -> None:
        """Give torch its threads in this process."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)
