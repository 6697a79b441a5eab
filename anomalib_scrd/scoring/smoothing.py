"""Gaussian smoothing along an axis."""

__all__ = ["gaussian_kernel", "smoothed"]

import torch
from torch.nn import functional as F  # noqa: N812

_TRUNCATE = 4.0


def gaussian_kernel(sigma: float) -> torch.Tensor:
    """Sampled Gaussian that sums to 1, cut at four standard deviations.

    Args:
        sigma: Standard deviation in samples, above 0.

    Returns:
        (2 * round(4 * sigma) + 1,) float32, of three samples or more.
    """
    radius = max(1, int(_TRUNCATE * sigma + 0.5))
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offsets / sigma).square())
    return (kernel / kernel.sum()).float()


def smoothed(signals: torch.Tensor, sigma: float) -> torch.Tensor:
    """Signals (N, L), Gaussian smoothed.

    The border is reflected; a signal shorter than the kernel's radius repeats its ends instead.

    Args:
        signals: (N, L).
        sigma: Standard deviation in samples; 0 returns them unchanged.

    Returns:
        (N, L).
    """
    if sigma == 0:
        return signals
    kernel = gaussian_kernel(sigma).to(signals)
    radius = kernel.shape[0] // 2
    mode = "reflect" if radius < signals.shape[1] else "replicate"
    return F.conv1d(F.pad(signals.unsqueeze(1), (radius, radius), mode=mode), kernel.view(1, 1, -1)).squeeze(1)
