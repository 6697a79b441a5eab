"""Calibrated scores and maps, with the threshold at 0.5, and the decision."""

__all__ = ["calibrated", "labels_and_outlines", "uncalibrated"]

import torch

# In an anomalous image without a pixel above the pixel threshold, pixels of at least this share of the peak are
# outlined.
_OUTLINE_OF_PEAK = 0.9


def calibrated(values: torch.Tensor, threshold: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Map raw values to (0, 1) so that the threshold becomes 0.5.

    With x = (value - threshold) / scale the result is 1 - 0.5 / (1 + x) above the threshold and 0.5 / (1 - x) below:
    0.25, 0.5 and 0.75 at x = -1, 0 and 1. It is increasing, also after rounding, since each operation is monotone, and
    approaches 0 and 1 as slowly as 0.5 / |x|: float32 distinguishes values with a relative difference of 0.001 up to
    1000 scales beyond the threshold, while a sigmoid is 1 from 17 scales on. The ranks, and therefore the AUROC, are
    those of the raw values.

    Args:
        values: Raw values, any shape.
        threshold: (); NaN for none: the values are then returned unchanged.
        scale: (), above 0.

    Returns:
        Calibrated values, float32, in the shape of ``values``.
    """
    raw = values.float()
    distance = (raw - threshold) / scale
    above = 1 - 0.5 / (1 + distance.clamp_min(0))
    below = 0.5 / (1 - distance.clamp_max(0))
    return torch.where(torch.isnan(threshold), raw, torch.where(distance > 0, above, below))


def uncalibrated(values: torch.Tensor, threshold: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Map calibrated values back to raw ones: the inverse of :func:`calibrated`.

    Args:
        values: Calibrated values in [0, 1], any shape.
        threshold: (); NaN for none: the values are then returned unchanged.
        scale: (), above 0.

    Returns:
        Raw values, float32, in the shape of ``values``; minus infinity for 0 and infinity for 1.
    """
    shown = values.float()
    distance = torch.where(shown > 0.5, 0.5 / (1 - shown) - 1, 1 - 0.5 / shown)  # noqa: PLR2004 - the threshold
    return torch.where(torch.isnan(threshold), shown, threshold + scale * distance)


def labels_and_outlines(
    scores: torch.Tensor,
    maps: torch.Tensor | None,
    score_threshold: torch.Tensor,
    map_threshold: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Label images as normal or anomalous and outline the anomalous ones, consistently.

    A score that is not a number is labelled anomalous. A normal image has no outline. In an anomalous image the pixels
    above the map's threshold are outlined; if there are none, those with at least 0.9 of the map's highest value. The
    outline of an anomalous image thus includes its peak.

    Args:
        scores: (B,).
        maps: (B, H, W) or (B, 1, H, W), or None.
        score_threshold: (), in the unit of the scores.
        map_threshold: (), in the unit of the maps.

    Returns:
        Labels (B,) and masks in the shape of the maps, both bool; None for the masks without maps.
    """
    labels = ~(scores <= score_threshold)
    if maps is None:
        return labels, None
    peaks = maps.amax(dim=(-2, -1), keepdim=True)
    near_peak = peaks - (1 - _OUTLINE_OF_PEAK) * peaks.abs()
    high = peaks > map_threshold
    # Not torch.where, which ONNX Runtime lacks for bool.
    outlined = (high & (maps > map_threshold)) | (~high & (maps >= near_peak))
    return labels, outlined & labels.reshape(-1, *(1,) * (maps.ndim - 1))
