"""What the maps of normal images look like, so that scales (and places) can be compared."""

__all__ = ["CALIBRATIONS", "MapCalibration", "PeakCalibration", "averaging_rate"]

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn

from anomalib_scrd.components.blocks import match_size

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


class MapCalibration(nn.Module):
    """Standardises smoothed maps of distances by their statistics on normal images.

    The training images are normal, so the statistics are tracked while training, as batch norm tracks its own: as
    averages over the last part of it (:func:`averaging_rate`). They cost no pass over the data, are in every checkpoint
    and export from the first step on, and follow the student as it improves. Maps are standardised after the smoothing:
    the noise that a wide smoothing leaves is small, and so is what it leaves of an anomaly.

    ``scale`` standardises each map as a whole. ``position`` subtracts the mean at each position and divides by the
    spread of the whole map: where images are aligned, the places that are hard in every image no longer stand out,
    and where they are not, the mean is flat and nothing is lost. ``none`` leaves the maps as they are.

    Args:
        num_maps: Number of maps of an image.
        mode: One of the above.
        reach: See :func:`averaging_rate`.

    Raises:
        ValueError: If the mode is unknown.
    """

    batches: torch.Tensor
    mean: torch.Tensor
    square: torch.Tensor

    def __init__(self, num_maps: int, mode: CalibrationMode = "scale", reach: int = _REACH) -> None:
        super().__init__()
        if mode not in CALIBRATIONS:
            msg = f"calibration must be one of {CALIBRATIONS}, got {mode!r}"
            raise ValueError(msg)
        self.mode = mode
        self.reach = reach
        if mode == "none":
            return
        self.register_buffer("batches", torch.zeros(()))
        self.register_buffer("square", torch.zeros(num_maps))
        # One value each until the first batch shows the size of the maps.
        self.register_buffer("mean", torch.zeros(num_maps, 1, 1))

    def reset(self) -> None:
        """Forget the statistics, before a training on other data."""
        if self.mode != "none":
            for buffer in (self.batches, self.square, self.mean):
                buffer.zero_()

    @torch.no_grad()
    def update(self, maps: torch.Tensor) -> None:
        """Take a training batch of normal images into account.

        Args:
            maps: (B, M, h, w). Maps of another size than before are resized to that of the first.
        """
        if self.mode == "none":
            return
        self.batches += 1
        rate = averaging_rate(self.batches, self.reach)
        if self.mode == "scale":
            mean = maps.mean(dim=(0, 2, 3))[:, None, None]
        else:
            mean = maps.mean(dim=0)
            if self.mean.shape[-2:] == (1, 1):
                self.mean = torch.zeros_like(mean)
        self.mean.lerp_(_resized(mean, self.mean.shape[-2:]), rate)
        # The spread is that around the stored mean, so that what the mean explains is not counted twice.
        deviation = (maps - _resized(self.mean, maps.shape[-2:])).square().mean(dim=(0, 2, 3))
        self.square.lerp_(deviation, rate)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Standardise maps.

        Args:
            maps: (B, M, h, w).

        Returns:
            The same shape: deviations from normal in standard deviations. Unchanged before the first update.
        """
        if self.mode == "none":
            return maps
        # tensor arithmetic rather than a branch: exporters do not follow the value of a tensor
        spread = torch.where(self.batches > 0, self.square, torch.ones_like(self.square)).clamp_min(1e-12).sqrt()
        return (maps - _resized(self.mean, maps.shape[-2:])) / spread[:, None, None]

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        # The maps' size comes from the data, so a fresh module takes that of the checkpoint.
        saved = state_dict.get(f"{prefix}mean")
        if self.mode != "none" and saved is not None and saved.shape[:-2] == self.mean.shape[:-2]:
            self.mean = self.mean.new_zeros(saved.shape)
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

    def reset(self) -> None:
        """Forget the statistics, before a training on other data."""
        for buffer, value in ((self.batches, 0), (self.mean, 0), (self.square, 1), (self.concentration, 1)):
            buffer.fill_(value)

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
    """(M, H, W) maps at another size; one value stands for every position and needs none."""
    return mean if mean.shape[-2:] == (1, 1) else match_size(mean[None], size)[0]
