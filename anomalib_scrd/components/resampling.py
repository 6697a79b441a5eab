"""Resampling of maps along their axes: linear along each, so that one matrix per axis does it."""

__all__ = ["AxisFunction", "AxisMatrices", "averaged", "resized"]

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812

AxisFunction = Callable[[torch.Tensor, int], torch.Tensor]


def resized(signals: torch.Tensor, length: int) -> torch.Tensor:
    """Signals (N, L) at another length, linearly interpolated as ``F.interpolate`` does for images; (N, length)."""
    if signals.shape[1] == length:
        return signals
    return F.interpolate(signals.unsqueeze(1), size=length, mode="linear", align_corners=False).squeeze(1)


def averaged(signals: torch.Tensor, length: int) -> torch.Tensor:
    """Signals (N, L) at a smaller length, each sample the mean of those it covers (adaptive average pooling)."""
    return F.adaptive_avg_pool1d(signals.unsqueeze(1), length).squeeze(1)


class AxisMatrices:
    """A linear map of rows and columns, such as resizing and smoothing, as two products of matrices.

    Maps of 8 x 8 that become 64 x 64 need a hundredth of the operations that interpolation and convolution need, and
    products of matrices run near a processor's limit, where a convolution of few channels does not.

    Args:
        function: What the map does to signals (N, L) along an axis, given them and the length of the result.
    """

    def __init__(self, function: AxisFunction) -> None:
        self._function = function
        self._built: dict[tuple[int, int, torch.device], torch.Tensor] = {}

    def __call__(self, maps: torch.Tensor, size: torch.Size | tuple[int, int]) -> torch.Tensor:
        """Apply it to maps (B, M, h, w); (B, M, *size), float32 also under autocast.

        Half precision or TF32 would round the map, and with it the score, to two or three digits. No setting shortens a
        product in float64.
        """
        exact = torch.float32 if torch.compiler.is_exporting() or maps.device.type == "mps" else torch.float64
        with torch.autocast(maps.device.type, enabled=False):
            rows, columns = (
                self._matrix(*lengths, exact, maps.device) for lengths in zip(maps.shape[-2:], size, strict=True)
            )
            return (rows.mT @ (maps.to(exact) @ columns)).float()

    def __getstate__(self) -> dict[str, Any]:
        """A copy, on another device or in another process, builds its own matrices."""
        return self.__dict__ | {"_built": {}}

    def _matrix(self, inputs: int, outputs: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """(inputs, outputs): what the signal with a single 1 at each place becomes."""
        if torch.compiler.is_compiling():  # a graph folds it, and must not leave its own tensors here
            return self._function(torch.eye(inputs, dtype=dtype, device=device), outputs)
        key = (inputs, outputs, device)
        if key not in self._built:
            # They outlive the inference mode in which Lightning validates, whose own tensors take part in no gradient.
            with torch.inference_mode(mode=False), torch.no_grad():
                self._built[key] = self._function(torch.eye(inputs, dtype=dtype, device=device), outputs)
        return self._built[key]
