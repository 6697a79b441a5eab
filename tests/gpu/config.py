"""What the command ``gpu`` measures, and for how long."""

__all__ = ["GpuConfig"]

from dataclasses import dataclass, field
from pathlib import Path

from anomalib_scrd.benchmark.descriptions import require
from tests.gpu.parts import PARTS


@dataclass
class GpuConfig:
    """A measurement.

    Args:
        output: Folder of report.md, and of a folder per part. What a part has measured is there whenever it is stopped.
        minutes: Time after which nothing goes on. A part that has not ended then reports how far it was.
        parts: Names of the parts, in their order.
        device: ``auto`` for a GPU if there is one, or ``cpu``.
        tiny: Tiny sizes and a few steps, to see on any machine that every part runs.
        seed: Of weights, images and their order.
    """

    output: Path = Path("results/gpu")
    minutes: float = 12.0
    parts: list[str] = field(default_factory=lambda: list(PARTS))
    device: str = "auto"
    tiny: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError for what is out of range."""
        self.output = Path(self.output)
        require(self.minutes > 0, "minutes", self.minutes, "above 0")
        require(set(self.parts) <= set(PARTS) and bool(self.parts), "parts", self.parts, f"among {list(PARTS)}")
        require(self.device in {"auto", "cpu"}, "device", self.device, "auto or cpu")
