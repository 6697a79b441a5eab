"""Linear resampling of maps along their axes, as one matrix per axis."""

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
    """A linear map of rows and columns, such as resizing and smoothing, as two matrix products.

    Enlarging 8 x 8 to 64 x 64 takes a hundredth of the operations of interpolation and convolution, and matrix products
    run nearer to a processor's peak than a convolution of few channels.

    Args:
        function: Linear map of signals (N, L) along an axis, called with the signals and the length of the result.
    """

    def __init__(self, function: AxisFunction) -> None:
        self._function = function
        self._built: dict[tuple[int, int, torch.device], torch.Tensor] = {}

    def __call__(self, maps: torch.Tensor, size: torch.Size | tuple[int, int]) -> torch.Tensor:
        """Apply it to maps (B, M, h, w); (B, M, *size), float32 also under autocast.

        Half precision or TF32 would round the map, and with it the score, to two or three digits. Products in float64
        do not depend on torch's setting for float32.
        """
        exact = torch.float32 if torch.compiler.is_exporting() or maps.device.type == "mps" else torch.float64
        with torch.autocast(maps.device.type, enabled=False):
            rows, columns = (
                self._matrix(*lengths, exact, maps.device) for lengths in zip(maps.shape[-2:], size, strict=True)
            )
            return (rows.mT @ (maps.to(exact) @ columns)).float()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the matrices out: a copy on another device or in another process builds its own."""
        return self.__dict__ | {"_built": {}}

    def _matrix(self, inputs: int, outputs: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """Matrix of the map, (inputs, outputs): a row is the image of a unit signal."""
        if torch.compiler.is_compiling():  # a constant of the graph; tensors of a trace must not be kept
            return self._function(torch.eye(inputs, dtype=dtype, device=device), outputs)
        key = (inputs, outputs, device)
        if key not in self._built:
            # Lightning validates in inference mode, whose tensors cannot be used under autograd later.
            with torch.inference_mode(mode=False), torch.no_grad():
                self._built[key] = self._function(torch.eye(inputs, dtype=dtype, device=device), outputs)
        return self._built[key]
