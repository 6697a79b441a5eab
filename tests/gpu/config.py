"""Settings of the command ``gpu``."""

__all__ = ["GpuConfig"]

from dataclasses import dataclass, field
from pathlib import Path

from anomalib_scrd.benchmark.descriptions import require
from tests.gpu.parts import PARTS


@dataclass
class GpuConfig:
    """A measurement.

    Args:
        output: Folder of report.md and of a folder per part, with the measurements so far at any time.
        minutes: Time after which everything is stopped. An unfinished part reports its progress.
        parts: Names of the parts, in their order.
        device: ``auto`` for a GPU if there is one, or ``cpu``.
        tiny: Whether to use tiny sizes and a few steps, to check on any machine that every part runs.
        seed: Seed of weights, images and their order.
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
