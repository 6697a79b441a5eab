"""Values of interest: windows and tables that a DICOM file recommends for display (PS3.3 section C.11.2)."""

__all__ = ["ValueOfInterest", "VoiTable", "VoiWindow"]

from dataclasses import dataclass, field
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class VoiWindow:
    """A window.

    Args:
        centre: Window Center.
        width: Window Width, at least 1 (above 0 for the exact and the sigmoid function).
        function: VOI LUT Function.
    """

    centre: float
    width: float
    function: Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"] = "LINEAR"

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Map values to brightness.

        Args:
            values: Any shape.

        Returns:
            The same shape, float32 in [0, 1].
        """
        values = np.asarray(values, np.float64)
        if self.function == "SIGMOID":
            with np.errstate(over="ignore"):
                return (1 / (1 + np.exp(-4 * (values - self.centre) / self.width))).astype(np.float32)
        if self.function == "LINEAR_EXACT":
            return np.clip((values - self.centre) / self.width + 0.5, 0, 1).astype(np.float32)
        if self.width == 1:
            return (values > self.centre - 0.5).astype(np.float32)
        return np.clip((values - (self.centre - 0.5)) / (self.width - 1) + 0.5, 0, 1).astype(np.float32)


@dataclass(frozen=True)
class VoiTable:
    """A look-up table.

    Args:
        first: Value of the first entry; lower values take the first entry, values beyond the end the last.
        entries: (N,) integers.
        bits: Bits of an entry.
    """

    first: int
    entries: np.ndarray = field(repr=False)
    bits: int

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Map values to brightness.

        Args:
            values: Any shape.

        Returns:
            The same shape, float32 in [0, 1].
        """
        index = np.clip(np.asarray(values, np.int64) - self.first, 0, len(self.entries) - 1)
        return (self.entries[index] / (2**self.bits - 1)).astype(np.float32)


ValueOfInterest = VoiWindow | VoiTable
