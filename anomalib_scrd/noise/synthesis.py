"""Synthetic anomalies for training the student and for fitting the weights of the scales."""

__all__ = ["NOISE_KINDS", "Normalisation", "SyntheticAnomalies"]

from collections.abc import Sequence
from typing import NamedTuple

import torch

from anomalib_scrd.noise.kinds import altered_ellipse, foreign_texture, pasted_patch
from anomalib_scrd.noise.simplex_patches import SimplexPatches

NOISE_KINDS = ("mixed", "simplex")

# An image is grey if its channels differ by less than this.
_GREY = 0.02


class Normalisation(NamedTuple):
    """Mean and standard deviation by which images in [0, 1] were normalised.

    Attributes:
        mean: (C,) or (1,) float32.
        std: (C,) or (1,) float32, above 0.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def undo(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, C, H, W) in [0, 1], float32, from normalised ones."""
        return images.float() * self.std.view(-1, 1, 1) + self.mean.view(-1, 1, 1)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised images from images (B, C, H, W) in [0, 1]."""
        return (images - self.mean.view(-1, 1, 1)) / self.std.view(-1, 1, 1)


class SyntheticAnomalies:
    """Puts one synthetic anomaly into each image.

    ``simplex`` is the published kind: a rectangle of additive simplex noise, not clipped
    (:class:`~anomalib_scrd.noise.simplex_patches.SimplexPatches`). ``mixed`` gives a quarter of the images each of
    four kinds: simplex noise (grey in grey images), a pasted patch of another image, a soft ellipse that is brighter,
    darker, of other contrast or blurred, and an irregular patch of foreign texture
    (:mod:`~anomalib_scrd.noise.kinds`).

    Args:
        kind: ``mixed`` or ``simplex``.
        strength: Factor of the simplex noise in units of an image in [0, 1], at least 0, or a range (low, high).
        size: Smallest and largest extent of an anomaly relative to the image, in (0, 1]; one number for both.
        period: Period of the first octave of the noise relative to the image's height, above 0.
        octaves: Number of octaves of the noise, at least 1.
        persistence: Amplitude of an octave relative to the one before, above 0.

    Raises:
        ValueError: If the kind is unknown. The ranges are those of :class:`~anomalib_scrd.options.NoiseOptions`.
    """

    def __init__(
        self,
        kind: str,
        strength: float | Sequence[float],
        size: float | Sequence[float],
        period: float,
        octaves: int,
        persistence: float,
    ) -> None:
        if kind not in NOISE_KINDS:
            msg = f"noise.kind must be one of {NOISE_KINDS}, got {kind!r}"
            raise ValueError(msg)
        self.kind = kind
        self.strength = _pair(strength)
        self.size = _pair(size)
        self.period = period
        self.octaves = octaves
        self.persistence = persistence

    def __call__(
        self,
        images: torch.Tensor,
        *,
        generator: torch.Generator,
        normalisation: Normalisation | None = None,
        turn: int = 0,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw anomalies and put them into images.

        Args:
            images: (B, C, H, W), in [0, 1] or normalised, on the generator's device. Patches and textures come from
                the same images.
            generator: Source of randomness.
            normalisation: How the images were normalised; None where they were not.
            turn: Number of the batch; it rotates the order of the kinds, so that all are equally frequent if the number
                of images is no multiple of four.

        Returns:
            The images with anomalies, in the images' precision, and the places of these, (B, 1, H, W) bool.
        """
        plain = images.float() if normalisation is None else normalisation.undo(images)
        if self.kind == "simplex":
            spoilt, mask = self._patches(self.size)(plain, generator=generator)
        else:
            first = turn % len(MIXED)
            order = [*MIXED[first:], *MIXED[:first]]
            pieces = [
                self.spoil(piece, plain, name, self.size, generator)
                for name, piece in zip(order, plain.tensor_split(len(order)), strict=True)
                if len(piece)
            ]
            spoilt, mask = (torch.cat(parts) for parts in zip(*pieces, strict=True))
        spoilt = spoilt if normalisation is None else normalisation(spoilt)
        return spoilt.to(images.dtype), mask

    def spoil(
        self,
        images: torch.Tensor,
        pool: torch.Tensor,
        name: str,
        extent: tuple[float, float],
        generator: torch.Generator,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put anomalies of one kind and extent into images.

        Args:
            images: (B, C, H, W) in [0, 1].
            pool: (N, C, H, W), normal images in [0, 1] that patches and textures come from.
            name: One of :data:`MIXED`.
            extent: Smallest and largest extent relative to the image.
            generator: Source of randomness, on the images' device.

        Returns:
            The images with anomalies, (B, C, H, W) in [0, 1], and the places of these, (B, 1, H, W) bool.
        """
        images, pool = images.clamp(0, 1), pool.clamp(0, 1)
        if name == "simplex":
            spoilt, mask = self._patches(extent)(images, generator=generator)
            grey = (images - images.mean(dim=1, keepdim=True)).abs().amax(dim=(1, 2, 3), keepdim=True) < _GREY
            spoilt = torch.where(grey, images + (spoilt - images).mean(dim=1, keepdim=True), spoilt)
            return spoilt.clamp(0, 1), mask
        spoilt, places = _FUNCTIONS[name](images, pool, extent, generator)
        return spoilt, places.unsqueeze(1)

    def _patches(self, size: Sequence[float]) -> SimplexPatches:
        return SimplexPatches(self.strength, size, self.period, self.octaves, self.persistence)


_FUNCTIONS = {"paste": pasted_patch, "ellipse": altered_ellipse, "texture": foreign_texture}

MIXED = ("simplex", *_FUNCTIONS)
"""Names of the mixed kinds."""


def _pair(value: float | Sequence[float]) -> tuple[float, float]:
    low, high = value if isinstance(value, Sequence) else (value, value)
    return float(low), float(high)
