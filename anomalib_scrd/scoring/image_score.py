"""One number for an image from its anomaly map, or from the maps of its scales."""

__all__ = ["SCORES", "ScoreKind", "image_score", "map_level", "map_peak", "top_mean"]

from typing import Literal

import torch

ScoreKind = Literal["scales", "mean", "max", "top_k"]
SCORES = ("scales", "mean", "max", "top_k")

# The level of a smooth map is measured on every second row and column: the same to a percent, at a quarter of the cost.
_LEVEL_STRIDE = 2


def image_score(anomaly_map: torch.Tensor, kind: ScoreKind, top_k: float = 0.02, level: float = 0.5) -> torch.Tensor:
    """Score images by their maps.

    Args:
        anomaly_map: (B, 1, H, W).
        kind: ``mean`` of the map (published), ``max``, or ``top_k``: its peak, see :func:`map_peak`.
        top_k: Share of the pixels that the peak averages, in (0, 1].
        level: Share of the map's median which the peak subtracts, in [0, 1].

    Returns:
        (B,) in the units of the map.

    Raises:
        ValueError: If ``kind`` is unknown, or needs the scales
            (:func:`~anomalib_scrd.scoring.anomaly_map.joined_scales`).
    """
    if kind == "mean":
        return anomaly_map.flatten(1).mean(dim=1)
    if kind == "max":
        return anomaly_map.flatten(1).amax(dim=1)
    if kind == "top_k":
        return map_peak(anomaly_map, top_k, level).squeeze(1)
    msg = f"score must be one of {SCORES[1:]} for one map, got {kind!r}"
    raise ValueError(msg)


def map_peak(maps: torch.Tensor, top_k: float = 0.02, level: float = 0.5) -> torch.Tensor:
    """The mean of the highest share of a map, less a share of the map's own level.

    The mean of a whole map finds diffuse anomalies, and fails where normal images differ as a whole, in brightness or
    series: their maps shift as a whole too. The highest values less a share of the image's own level (its median)
    survive both: of a shift, as of a diffuse anomaly, the share ``1 - level`` remains, of a local anomaly everything.

    Args:
        maps: (B, K, H, W).
        top_k: Share of the pixels, in (0, 1]; at least one is taken.
        level: Share of the median, in [0, 1].

    Returns:
        (B, K) in the units of the map.
    """
    peak = top_mean(maps, top_k)
    return peak - level * map_level(maps) if level > 0 else peak


def top_mean(maps: torch.Tensor, share: float) -> torch.Tensor:
    """Mean of the highest values of each map.

    Args:
        maps: (B, K, H, W).
        share: Share of the pixels, in (0, 1]; at least one is taken.

    Returns:
        (B, K).
    """
    flat = maps.flatten(2)
    count = max(1, int(share * flat.shape[2]))
    return flat.topk(count, dim=2, sorted=False).values.mean(dim=2)


def map_level(maps: torch.Tensor) -> torch.Tensor:
    """Median of each map, on a grid of every second pixel; the upper one of an even number.

    Args:
        maps: (B, K, H, W).

    Returns:
        (B, K).
    """
    grid = maps[..., ::_LEVEL_STRIDE, ::_LEVEL_STRIDE].flatten(2)
    # topk rather than median or kthvalue, which the exporters lack
    return grid.topk((grid.shape[2] + 1) // 2, dim=2, sorted=False).values.amin(dim=2)
