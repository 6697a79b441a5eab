"""Features of the image score: the distances of each level of the teacher, averaged at six extents."""

__all__ = ["EXTENTS", "evidence", "extents"]

import torch

# Shares of a map's places, the highest first, that are averaged.
_SHARES = (0.25, 0.1, 0.02)
_FLOOR = 1e-4

EXTENTS = ("mean", "median", *(f"top {100 * share:g} %" for share in _SHARES), "largest")
"""Names of the extents, in the order of :func:`extents`."""


def extents(maps: torch.Tensor) -> torch.Tensor:
    """Describe maps by averages over shares of their places, from diffuse to local anomalies.

    Args:
        maps: (B, M, h, w).

    Returns:
        (B, M, 6): mean, median (the upper one of an even number), means of the highest 25, 10 and 2 % of the places
        (at least one place), and the largest.
    """
    flat = maps.flatten(2)
    count = flat.shape[2]
    # One sorted selection serves all extents: exporters support topk, but neither median nor quantile.
    highest = flat.topk(count // 2 + 1, dim=2, sorted=True).values
    tops = [highest[..., : max(1, round(share * count))].mean(dim=2) for share in _SHARES]
    return torch.stack([flat.mean(dim=2), highest[..., count // 2], *tops, highest[..., 0]], dim=2)


def evidence(maps: torch.Tensor) -> torch.Tensor:
    """Logarithms of the extents of distance maps: the features of the image score.

    Args:
        maps: (B, M, h, w) distances, at least 0 up to rounding.

    Returns:
        (B, 6 M) float32, the six extents of a map next to each other.
    """
    return (extents(maps.float()).clamp_min(0) + _FLOOR).log().flatten(1)
