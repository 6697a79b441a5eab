"""Pixels out of [0, 1], for example of 12 or 16 bits: an error in Python, NaN in an exported graph."""

__all__ = ["check_range", "marked", "out_of_range"]

import torch
from anomalib.data import InferenceBatch

# Limits with a margin: resizing with filters other than bilinear overshoots [0, 1] a little.
_LOWEST, _HIGHEST = -0.5, 1.5


def out_of_range(images: torch.Tensor) -> torch.Tensor:
    """Whether images cannot be pixels in [0, 1].

    Args:
        images: (B, C, H, W).

    Returns:
        (B,) bool: whether there are values below -0.5, above 1.5, or NaN.
    """
    low, high = images.amin(dim=(1, 2, 3)), images.amax(dim=(1, 2, 3))
    return ~((low >= _LOWEST) & (high <= _HIGHEST))


def check_range(images: torch.Tensor) -> None:
    """Refuse images that cannot be pixels in [0, 1].

    Args:
        images: (B, C, H, W).

    Raises:
        ValueError: If an image has values below -0.5, above 1.5, or NaN.
    """
    if out_of_range(images).any():
        low, high = float(images.min()), float(images.max())
        msg = (
            f"images must have pixels in [0, 1], got values from {low:.4g} to {high:.4g}: divide 8-bit pixels by 255, "
            "and deeper ones by the training's window (MedicalFolder stores it)"
        )
        raise ValueError(msg)


def marked(predictions: InferenceBatch, wrong: torch.Tensor) -> InferenceBatch:
    """Replace the scores and maps of images out of range by NaN, and their labels by anomalous.

    Args:
        predictions: Predictions of B images.
        wrong: (B,) bool, the images out of range.

    Returns:
        The predictions; scores and maps of the marked images are NaN, their labels True.
    """
    label = predictions.pred_label
    return predictions._replace(
        pred_score=_without_numbers(predictions.pred_score, wrong),
        anomaly_map=_without_numbers(predictions.anomaly_map, wrong),
        pred_label=None if label is None else label | _as_rows(wrong, label),
    )


def _without_numbers(values: torch.Tensor | None, wrong: torch.Tensor) -> torch.Tensor | None:
    return None if values is None else torch.where(_as_rows(wrong, values), float("nan"), values)


def _as_rows(wrong: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return wrong.reshape(-1, *(1,) * (values.ndim - 1))
