"""Synthetic anomalies: patches of noise added to normal images."""

__all__ = ["AnomalyParameters", "SyntheticAnomalies"]

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from anomalib_scrd.noise.fields import NOISE_KINDS, NoiseState, noise_at, sample_state
from anomalib_scrd.noise.foreground import foreground_mask
from anomalib_scrd.noise.patches import covered_points, sample_rectangles, where_allowed


class AnomalyParameters(NamedTuple):
    """All that is random in the anomalies of a batch: apply it again and the same anomalies come out.

    Attributes:
        rectangles: (B, N, 4) int64: top, left, height, width in pixels.
        strengths: (B, N) float32; 0 for a patch that its image does not have.
        noise: State of the B * N fields.
    """

    rectangles: torch.Tensor
    strengths: torch.Tensor
    noise: NoiseState


class SyntheticAnomalies:
    """Adds ``strength * noise`` inside random rectangles (Li et al., ICLR 2025, section on synthetic anomalies).

    Published: one rectangle of 10 to 31 pixels of 256, simplex noise of period 32 pixels, strength 0.2. Everything is
    relative to the image, so that another input size means the same.

    Args:
        kind: ``simplex``, ``perlin`` or ``gaussian``.
        strength: Factor of the noise in units of an image in [0, 1], at least 0, or a range (low, high).
        size: Smallest and largest side of a rectangle relative to the image's, in (0, 1].
        count: Rectangles per image, at least 1, or a range (low, high).
        period: Period of the first octave relative to the image's height, above 0.
        octaves: Number of octaves, at least 1.
        persistence: Amplitude of an octave relative to the one before, above 0.
        foreground: Whether anomalies lie on the foreground only: rectangles are centred on it, and end where it ends.
            An image without foreground has them anywhere.

    Raises:
        ValueError: If an argument is out of range; the message names it.
    """

    def __init__(
        self,
        kind: str = "simplex",
        strength: float | Sequence[float] = 0.2,
        size: Sequence[float] = (10 / 256, 31 / 256),
        count: int | Sequence[int] = 1,
        period: float = 32 / 256,
        octaves: int = 6,
        persistence: float = 0.6,
        *,
        foreground: bool = False,
    ) -> None:
        if kind not in NOISE_KINDS:
            msg = f"noise.kind must be one of {NOISE_KINDS}, got {kind!r}"
            raise ValueError(msg)
        self.kind = kind
        self.strength = _range("noise.strength", strength, low=0.0)
        self.size = _range("noise.size", size, low=0.0, high=1.0, open_low=True)
        low, high = _range("noise.count", count, low=1)
        if low != int(low) or high != int(high):
            msg = f"noise.count must be whole numbers, got {count}"
            raise ValueError(msg)
        self.count = (int(low), int(high))
        self.period = _range("noise.period", period, low=0.0, open_low=True)[0]
        if isinstance(octaves, bool) or not isinstance(octaves, int) or octaves < 1:
            msg = f"noise.octaves must be a whole number of at least 1, got {octaves!r}"
            raise ValueError(msg)
        self.octaves = octaves
        self.persistence = _range("noise.persistence", persistence, low=0.0, open_low=True)[0]
        self.foreground = bool(foreground)

    def _sides(self, length: int) -> tuple[int, int]:
        """Smallest and largest side in pixels along an axis of the image."""
        low, high = (min(length, max(1, round(share * length))) for share in self.size)
        return low, high

    def sample(
        self,
        images_shape: Sequence[int],
        *,
        generator: torch.Generator,
        foreground: torch.Tensor | None = None,
    ) -> AnomalyParameters:
        """Draw the anomalies of a batch.

        Args:
            images_shape: (B, C, H, W).
            generator: Source of randomness; the result lies on its device.
            foreground: (B, 1, H, W), see :func:`~anomalib_scrd.noise.patches.sample_rectangles`.

        Returns:
            All that is random.
        """
        batch, _, height, width = images_shape
        number = self.count[1]
        rectangles = sample_rectangles(
            batch,
            number,
            (height, width),
            self._sides(height),
            self._sides(width),
            generator,
            foreground,
        )
        draw = torch.rand(batch, number, generator=generator, device=generator.device)
        strengths = self.strength[0] + draw * (self.strength[1] - self.strength[0])
        if self.count[0] < number:
            draw = torch.rand(batch, 1, generator=generator, device=generator.device)
            wanted = self.count[0] + (draw * (number - self.count[0] + 1)).long()
            strengths = strengths * (torch.arange(number, device=generator.device) < wanted)
        return AnomalyParameters(rectangles, strengths, sample_state(batch * number, self.octaves, generator))

    def render(
        self,
        parameters: AnomalyParameters,
        images_shape: Sequence[int],
        foreground: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw what is added to the images, in units of an image in [0, 1].

        The noise is computed in the rectangles only, or on a window of the largest possible one, never on the whole
        image: see :func:`~anomalib_scrd.noise.patches.covered_points`.

        Args:
            parameters: What to draw.
            images_shape: (B, C, H, W).
            foreground: (B, 1, H, W), above 0 where anomalies may lie, as it was given to :meth:`sample`.

        Returns:
            The additive anomaly (B, C, H, W), float32, zero outside the rectangles and the foreground, summed where
            rectangles overlap, and where it lies, (B, 1, H, W), bool.
        """
        batch, channels, height, width = images_shape
        number = parameters.rectangles.shape[1]
        device = parameters.rectangles.device
        rectangles = parameters.rectangles.view(-1, 4)
        steps = [torch.arange(self._sides(length)[1], device=device) for length in (height, width)]
        rows, columns = (step < rectangles[:, axis, None] for axis, step in enumerate(steps, start=2))
        inside = rows.unsqueeze(2) & columns.unsqueeze(1)
        strengths = parameters.strengths.view(-1, 1, 1) * inside  # (B * N, h, w), on the windows

        points = covered_points(strengths != 0)
        noise = noise_at(
            self.kind,
            parameters.noise,
            points,
            channels,
            period=self.period * height,
            persistence=self.persistence,
        )  # (C, P)
        strength = strengths[points.field, points.row, points.column]
        top, left = rectangles[points.field, :2].unbind(dim=1)
        # what leaves the image comes in again on the other side: it lies outside the rectangle and has no strength
        place = (top + points.row) % height * width + (left + points.column) % width

        # Every point of a patch has a place of its own there, so that nothing depends on an order.
        present = torch.zeros(batch * number * height * width, dtype=torch.bool, device=device)
        present.scatter_(0, points.field * (height * width) + place, strength != 0)
        channel = points.field * channels + torch.arange(channels, device=device).unsqueeze(1)  # (C, P)
        anomaly = torch.zeros(batch * number * channels * height * width, device=device)
        anomaly.scatter_(0, (channel * (height * width) + place).flatten(), (noise * strength).flatten())
        anomaly = anomaly.view(batch, number, channels, height, width)
        anomaly = anomaly[:, 0] if number == 1 else anomaly.sum(dim=1)  # a sum of one is a copy
        present = present.view(batch, number, height, width).any(dim=1, keepdim=True)
        if foreground is not None:
            allowed = where_allowed(foreground)
            anomaly, present = anomaly * allowed, present & allowed
        return anomaly, present

    @staticmethod
    def apply(images: torch.Tensor, anomaly: torch.Tensor, std: torch.Tensor | None = None) -> torch.Tensor:
        """Add a drawn anomaly to images, without clipping.

        Args:
            images: (B, C, H, W), in [0, 1] or normalised.
            anomaly: (B, C, H, W), in units of an image in [0, 1].
            std: (C,) standard deviation by which the images were divided; None where they were not.

        Returns:
            (B, C, H, W) in the images' precision.
        """
        if std is not None:
            anomaly = anomaly / std.to(anomaly.device).view(1, -1, 1, 1)
        return (images.float() + anomaly).to(images.dtype)

    def __call__(
        self,
        images: torch.Tensor,
        *,
        generator: torch.Generator,
        std: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw and add fresh anomalies.

        Args:
            images: (B, C, H, W), in [0, 1] or normalised, on the generator's device.
            generator: Source of randomness.
            std: (C,) standard deviation by which the images were divided; None where they were not.

        Returns:
            The images with anomalies, and where these are, (B, 1, H, W), bool.
        """
        foreground = foreground_mask(images) if self.foreground else None
        parameters = self.sample(images.shape, generator=generator, foreground=foreground)
        anomaly, mask = self.render(parameters, images.shape, foreground)
        return self.apply(images, anomaly, std), mask


def _range(
    name: str,
    value: Any,  # numbers or sequences, as YAML gives them
    *,
    low: float,
    high: float = math.inf,
    open_low: bool = False,
) -> tuple[float, float]:
    """A number, or two in order, as two floats within bounds."""
    values = list(value) if isinstance(value, (list, tuple)) else [value, value]
    allowed = f"{'above' if open_low else 'at least'} {low}" + ("" if high == math.inf else f" and at most {high}")
    fits = (
        len(values) == 2  # noqa: PLR2004
        and all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in values)
        and (values[0] > low if open_low else values[0] >= low)
        and values[0] <= values[1] <= high
    )
    if not fits:
        msg = f"{name} must be a number {allowed}, or two of them in order, got {value!r}"
        raise ValueError(msg)
    return float(values[0]), float(values[1])
