"""What the distances of normal images look like, so that scales (and places) can be compared."""

__all__ = ["CALIBRATIONS", "DistanceCalibration", "PeakCalibration", "averaging_rate"]

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

CalibrationMode = Literal["position", "scale", "none"]
CALIBRATIONS = ("position", "scale", "none")

# The averages reach back over about a tenth of the training: longer, and they hold what the student could not yet.
_REACH = 10
# A concentration nearer to 1 than this is rounding of a single peak's.
_LEAST_FREE = 1e-6


def averaging_rate(batches: torch.Tensor, reach: int = _REACH) -> torch.Tensor:
    """Weight of the newest batch in an average over the last part of a training of any length.

    Polynomial-decay averaging (Shamir and Zhang, ICML 2013): ``reach / (n + reach - 1)`` for the n-th batch. What is in
    the average is ``n / (reach + 1)`` batches old in the mean. An exponential average has a length of its own, which is
    too long for a short training and too short for a long one.

    Args:
        batches: () number of batches so far, this one included, at least 1.
        reach: 1 averages all batches evenly; the larger, the fewer count.

    Returns:
        () in (0, 1]; 1 for the first batch.
    """
    return reach / (batches + (reach - 1))


class DistanceCalibration(nn.Module):
    """Standardises the distance of each scale by its statistics on normal images.

    The training images are normal, so the statistics are tracked while training, as batch norm tracks its own: as
    averages over the last part of it (:func:`averaging_rate`). They cost no pass over the data, are in every checkpoint
    and export from the first step on, and follow the student as it improves.

    ``scale`` standardises each scale as a whole. ``position`` subtracts the mean at each position and divides by the
    spread of the whole scale: where images are aligned, the places that are hard in every image no longer stand out,
    and where they are not, the mean is flat and nothing is lost. ``none`` leaves the distances as they are.

    Args:
        num_scales: Number of scales.
        mode: One of the above.
        reach: See :func:`averaging_rate`.

    Raises:
        ValueError: If the mode is unknown.
    """

    batches: torch.Tensor
    square: torch.Tensor

    def __init__(self, num_scales: int, mode: CalibrationMode = "scale", reach: int = _REACH) -> None:
        super().__init__()
        if mode not in CALIBRATIONS:
            msg = f"calibration must be one of {CALIBRATIONS}, got {mode!r}"
            raise ValueError(msg)
        self.mode = mode
        self.num_scales = num_scales
        self.reach = reach
        if mode == "none":
            return
        self.register_buffer("batches", torch.zeros(()))
        self.register_buffer("square", torch.zeros(num_scales))
        for scale in range(num_scales):
            # One value until the first batch shows the size of the scale's map.
            self.register_buffer(f"mean_{scale}", torch.zeros(1, 1))

    def mean(self, scale: int) -> torch.Tensor:
        """Mean distance of a scale, (H_k, W_k) in mode ``position``, else (1, 1)."""
        return self.get_buffer(f"mean_{scale}")

    @torch.no_grad()
    def update(self, distances: Sequence[torch.Tensor]) -> None:
        """Take a training batch of normal images into account.

        Args:
            distances: One (B, H_k, W_k) per scale. Maps of another size than before are resized to that of the first.
        """
        if self.mode == "none":
            return
        self.batches += 1
        rate = averaging_rate(self.batches, self.reach)
        for scale, distance in enumerate(distances):
            mean = distance.mean(dim=0)
            if self.mode == "scale":
                mean = mean.mean().view(1, 1)
            elif self.mean(scale).shape == (1, 1):
                setattr(self, f"mean_{scale}", torch.zeros_like(mean))
            stored = self.mean(scale)
            stored.lerp_(_resized(mean, stored.shape[-2:]), rate)
            # The spread is that around the stored mean, so that what the mean explains is not counted twice.
            deviation = (distance - _resized(stored, distance.shape[-2:])).square().mean()
            self.square[scale].lerp_(deviation, rate)

    def forward(self, distances: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Standardise distances.

        Args:
            distances: One (B, H_k, W_k) per scale.

        Returns:
            The same shapes: deviations from normal in standard deviations. Unchanged before the first update.
        """
        if self.mode == "none":
            return list(distances)
        # tensor arithmetic rather than a branch: exporters do not follow the value of a tensor
        spread = torch.where(self.batches > 0, self.square, torch.ones_like(self.square)).clamp_min(1e-12).sqrt()
        return [
            (distance - _resized(self.mean(scale), distance.shape[-2:])) / spread[scale]
            for scale, distance in enumerate(distances)
        ]

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        # The maps' sizes come from the data, so a fresh module takes those of the checkpoint.
        for scale in range(self.num_scales if self.mode != "none" else 0):
            saved = state_dict.get(f"{prefix}mean_{scale}")
            if saved is not None and saved.shape != self.mean(scale).shape:
                setattr(self, f"mean_{scale}", self.mean(scale).new_zeros(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)  # type: ignore[misc]


class PeakCalibration(nn.Module):
    """Standardises the peak of each scale's map by the peaks of normal images, tracked while training.

    Pixels and peaks are distributed differently: a scale whose map has heavy tails reaches a high peak in every normal
    image, and would outvote the others if only its pixels had been standardised.

    Args:
        num_peaks: Number of peaks of an image.
        reach: See :func:`averaging_rate`.
    """

    batches: torch.Tensor
    mean: torch.Tensor
    square: torch.Tensor
    concentration: torch.Tensor

    def __init__(self, num_peaks: int, reach: int = _REACH) -> None:
        super().__init__()
        self.reach = reach
        self.register_buffer("batches", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(num_peaks))
        self.register_buffer("square", torch.ones(num_peaks))
        # Sum of the squared weights of all peaks: 1 where one peak has all the weight, and tells no spread.
        self.register_buffer("concentration", torch.ones(()))

    @torch.no_grad()
    def update(self, peaks: torch.Tensor) -> None:
        """Take the peaks of normal training images into account, (B, K)."""
        self.batches += 1
        rate = averaging_rate(self.batches, self.reach)
        keep = 1 - rate
        mean = peaks.mean(dim=0)
        # Weighted variance of everything so far: that within the parts, and that between their means.
        within = (peaks - mean).square().mean(dim=0)
        self.square.copy_(keep * self.square + rate * within + keep * rate * (mean - self.mean).square())
        self.mean.lerp_(mean, rate)
        self.concentration.copy_(keep.square() * self.concentration + rate.square() / peaks.shape[0])

    def forward(self, peaks: torch.Tensor) -> torch.Tensor:
        """Standardise peaks, (B, K): deviations from normal in standard deviations.

        The variance is that of a sample with weights, unbiased; a single peak has none, and is only subtracted.
        """
        free = 1 - self.concentration
        variance = torch.where(
            free > _LEAST_FREE, self.square / free.clamp_min(_LEAST_FREE), torch.ones_like(self.square)
        )
        return (peaks - self.mean) / variance.clamp_min(1e-12).sqrt()


def _resized(mean: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """A (H, W) map at another size; one value stands for every position and needs none."""
    if mean.shape in ((1, 1), size):
        return mean
    return F.interpolate(mean[None, None], size=tuple(size), mode="bilinear", align_corners=False)[0, 0]
