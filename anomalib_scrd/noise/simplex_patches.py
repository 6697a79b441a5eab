"""The published synthetic anomaly: a rectangle of simplex noise that is added to a normal image."""

__all__ = ["PatchParameters", "SimplexPatches"]

from collections.abc import Sequence
from typing import NamedTuple

import torch

from anomalib_scrd.noise.fields import NoiseState, noise_at, sample_state
from anomalib_scrd.noise.patches import covered_points, sample_rectangles


class PatchParameters(NamedTuple):
    """Random parameters of the patches of a batch; rendering them again gives the same patches.

    Attributes:
        rectangles: (B, 4) int64: top, left, height, width in pixels.
        strengths: (B,) float32.
        noise: State of the B fields.
    """

    rectangles: torch.Tensor
    strengths: torch.Tensor
    noise: NoiseState


class SimplexPatches:
    """Adds ``strength * noise`` inside one random rectangle of each image (Li et al., ICLR 2025).

    Published: a rectangle of 10 to 31 pixels of 256, simplex noise of period 32 pixels, 6 octaves, persistence 0.6,
    strength 0.2. All lengths are relative to the image, so that they mean the same at another input size.

    Args:
        strength: Range of the factor of the noise, in units of an image in [0, 1], drawn uniformly.
        size: Smallest and largest side of a rectangle relative to the image's, in (0, 1], drawn uniformly in whole
            pixels.
        period: Period of the first octave relative to the image's height, above 0.
        octaves: Number of octaves, at least 1.
        persistence: Amplitude of an octave relative to the one before, above 0.
    """

    def __init__(
        self,
        strength: Sequence[float],
        size: Sequence[float],
        period: float,
        octaves: int,
        persistence: float,
    ) -> None:
        self.strength = (float(strength[0]), float(strength[1]))
        self.size = (float(size[0]), float(size[1]))
        self.period = period
        self.octaves = octaves
        self.persistence = persistence

    def sample(self, shape: Sequence[int], *, generator: torch.Generator) -> PatchParameters:
        """Draw the patches of a batch.

        Args:
            shape: Shape of the images, (B, C, H, W).
            generator: Source of randomness; the result is on its device.

        Returns:
            The parameters.
        """
        batch, _, height, width = shape
        rectangles = sample_rectangles(batch, (height, width), self._sides(height), self._sides(width), generator)
        draw = torch.rand(batch, generator=generator, device=generator.device)
        strengths = self.strength[0] + draw * (self.strength[1] - self.strength[0])
        return PatchParameters(rectangles, strengths, sample_state(batch, self.octaves, generator))

    def render(self, parameters: PatchParameters, shape: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the anomalies that are added to the images.

        The noise is computed inside the rectangles only, or on a window of the largest possible one, never on the
        complete image: see :func:`~anomalib_scrd.noise.patches.covered_points`.

        Args:
            parameters: Result of :meth:`sample`.
            shape: Shape of the images, (B, C, H, W).

        Returns:
            The additive anomaly (B, C, H, W) float32 in units of an image in [0, 1], zero outside the rectangles; and
            the places of the rectangles, (B, 1, H, W) bool.
        """
        batch, channels, height, width = shape
        rectangles = parameters.rectangles
        device = rectangles.device
        steps = [torch.arange(self._sides(length)[1], device=device) for length in (height, width)]
        rows, columns = (step < rectangles[:, axis, None] for axis, step in enumerate(steps, start=2))
        strengths = parameters.strengths.view(-1, 1, 1) * (rows.unsqueeze(2) & columns.unsqueeze(1))  # (B, h, w)

        points = covered_points(strengths != 0)
        noise = noise_at(
            parameters.noise, points, channels, period=self.period * height, persistence=self.persistence
        )  # (C, P)
        strength = strengths[points.field, points.row, points.column]
        top, left = rectangles[points.field, :2].unbind(dim=1)
        # Points outside the image wrap around to its other side, where their strength is 0.
        place = (top + points.row) % height * width + (left + points.column) % width

        # Every point of a patch has its own place, so that the result does not depend on an order.
        present = torch.zeros(batch * height * width, dtype=torch.bool, device=device)
        present.scatter_(0, points.field * (height * width) + place, strength != 0)
        channel = points.field * channels + torch.arange(channels, device=device).unsqueeze(1)  # (C, P)
        anomaly = torch.zeros(batch * channels * height * width, device=device)
        anomaly.scatter_(0, (channel * (height * width) + place).flatten(), (noise * strength).flatten())
        return anomaly.view(batch, channels, height, width), present.view(batch, 1, height, width)

    def __call__(self, images: torch.Tensor, *, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw patches and add them to images, without clipping.

        Args:
            images: (B, C, H, W) in [0, 1], on the generator's device.
            generator: Source of randomness.

        Returns:
            The images with anomalies, float32, and the places of these, (B, 1, H, W) bool.
        """
        anomaly, mask = self.render(self.sample(images.shape, generator=generator), images.shape)
        return images.float() + anomaly, mask

    def _sides(self, length: int) -> tuple[int, int]:
        """Smallest and largest side of a rectangle in pixels along an axis of the image."""
        low, high = (min(length, max(1, round(share * length))) for share in self.size)
        return low, high
