"""One number for an image from its anomaly map."""

__all__ = ["SCORES", "image_score"]

from typing import Literal

import torch

ScoreKind = Literal["mean", "max", "top_k"]
SCORES = ("mean", "max", "top_k")


def image_score(anomaly_map: torch.Tensor, kind: ScoreKind = "top_k", top_k: float = 0.02) -> torch.Tensor:
    """Score images by their maps.

    Args:
        anomaly_map: (B, 1, H, W).
        kind: ``mean`` of the map (published; finds diffuse anomalies, fails where normal images shift as a whole),
            ``max`` (finds the smallest, listens to single pixels) or ``top_k`` (mean of the highest share).
        top_k: The share of the pixels, in (0, 1]; at least one pixel is taken. 1 is the mean.

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
        return flat.topk(count, dim=1, sorted=False).values.mean(dim=1)
    msg = f"score must be one of {SCORES}, got {kind!r}"
    raise ValueError(msg)
