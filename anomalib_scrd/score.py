"""One number for an image from its anomaly map."""

__all__ = ["SCORES", "ScoreKind", "image_score", "map_level"]

from typing import Literal

import torch

ScoreKind = Literal["mean", "max", "top_k"]
SCORES = ("mean", "max", "top_k")


# The level of a smoothed map is measured on every fourth row and column: the same to a percent, at a 16th of the cost.
_LEVEL_STRIDE = 4


def image_score(
    anomaly_map: torch.Tensor, kind: ScoreKind = "top_k", top_k: float = 0.02, level: float = 0.5
) -> torch.Tensor:
    """Score images by their maps.

    The mean finds diffuse anomalies, and fails where normal images differ as a whole, in brightness or series: their
    maps shift as a whole too. The highest values less a share of the image's own level (its median) survive both: of a
    shift, as of a diffuse anomaly, the share ``1 - level`` remains, of a local anomaly everything.

    Args:
        anomaly_map: (B, 1, H, W).
        kind: ``mean`` of the map (published), ``max``, or ``top_k``: the mean of the highest share of the pixels.
        top_k: That share, in (0, 1]; at least one pixel is taken.
        level: Share of the map's median which ``top_k`` subtracts, in [0, 1].

    Returns:
        (B,) in the units of the map.

    Raises:
        ValueError: If ``kind`` is unknown.
    """
    flat = anomaly_map.flatten(1)
    if kind == "mean":
        return flat.mean(dim=1)
    if kind == "max":
        return flat.amax(dim=1)
    if kind == "top_k":
        count = max(1, int(top_k * flat.shape[1]))
        peak = flat.topk(count, dim=1, sorted=False).values.mean(dim=1)
        return peak - level * map_level(anomaly_map) if level > 0 else peak
    msg = f"score must be one of {SCORES}, got {kind!r}"
    raise ValueError(msg)


def map_level(anomaly_map: torch.Tensor) -> torch.Tensor:
    """Median of each map, on a grid of every fourth pixel; the upper one of an even number.

    Args:
        anomaly_map: (B, 1, H, W).

    Returns:
        (B,).
    """
    grid = anomaly_map[..., ::_LEVEL_STRIDE, ::_LEVEL_STRIDE].flatten(1)
    # topk rather than median or kthvalue, which the exporters lack
    return grid.topk((grid.shape[1] + 1) // 2, dim=1, sorted=False).values.amin(dim=1)
