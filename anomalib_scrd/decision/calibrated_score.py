"""Scores and maps on a scale on which 0.5 is the threshold."""

__all__ = ["calibrated", "labels_and_outlines"]

import torch

# An image that is called anomalous without a pixel above the pixel threshold is outlined where its map is at least this
# share of its peak.
_OUTLINE_OF_PEAK = 0.9


def calibrated(values: torch.Tensor, threshold: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Map raw values to (0, 1) so that the threshold becomes 0.5.

    With x = (value - threshold) / scale the result is 1 - 0.5 / (1 + x) above the threshold and 0.5 / (1 - x) below:
    0.25, 0.5 and 0.75 at x = -1, 0 and 1. It is increasing, also after rounding, since each operation is monotone, and
    approaches 0 and 1 as slowly as 0.5 / |x|: float32 distinguishes values with a relative difference of a thousandth
    up to a thousand scales beyond the threshold, where a sigmoid is 1 from 17 scales on. The ranks, and with them the
    AUROC, are therefore those of the raw values.

    Args:
        values: Raw values, any shape.
        threshold: (), NaN where there is none: the values are then returned as they are.
        scale: (), above 0.

    Returns:
        Calibrated values, float32, in the shape of ``values``.
    """
    raw = values.float()
    distance = (raw - threshold) / scale
    above = 1 - 0.5 / (1 + distance.clamp_min(0))
    below = 0.5 / (1 - distance.clamp_max(0))
    return torch.where(torch.isnan(threshold), raw, torch.where(distance > 0, above, below))


def labels_and_outlines(
    scores: torch.Tensor,
    maps: torch.Tensor | None,
    score_threshold: torch.Tensor,
    map_threshold: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Call images normal or anomalous and outline the anomalous ones, so that the two agree.

    An image called normal has no outline. One called anomalous has the pixels above the map's threshold outlined; if
    there are none, those with at least nine tenths of the highest value of its map. So every image called anomalous
    has an outline, which holds its peak.

    Args:
        scores: (B,).
        maps: (B, H, W) or (B, 1, H, W), or None.
        score_threshold: (), in the unit of the scores.
        map_threshold: (), in the unit of the maps.

    Returns:
        Labels (B,) and masks in the shape of the maps, both bool; None for the masks without maps.
    """
    labels = scores > score_threshold
    if maps is None:
        return labels, None
    peaks = maps.amax(dim=(-2, -1), keepdim=True)
    near_peak = peaks - (1 - _OUTLINE_OF_PEAK) * peaks.abs()
    high = peaks > map_threshold
    # Not torch.where, which ONNX Runtime lacks for bool.
    outlined = (high & (maps > map_threshold)) | (~high & (maps >= near_peak))
    return labels, outlined & labels.reshape(-1, *(1,) * (maps.ndim - 1))
