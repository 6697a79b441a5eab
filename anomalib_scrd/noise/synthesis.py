"""Synthetic anomalies: what the student learns to remove and the weights of the scales are fitted on."""

__all__ = ["NOISE_KINDS", "Normalisation", "SyntheticAnomalies"]

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from anomalib_scrd.noise.kinds import altered_ellipse, foreign_texture, pasted_patch
from anomalib_scrd.noise.simplex_patches import SimplexPatches

NOISE_KINDS = ("mixed", "simplex")

# Strength of the simplex patches among the mixed kinds, where `strength` is None.
_MIXED_STRENGTH = (0.2, 0.5)
_MIXED_SIZE = (0.03, 0.5)
_PUBLISHED_STRENGTH = 0.2
_PUBLISHED_SIZE = (10 / 256, 31 / 256)
# Channels that differ by less than this are those of a grey image.
_GREY = 0.02
_MOST_OCTAVES = 16


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
        strength: Factor of the simplex noise in units of an image in [0, 1], at least 0, or a range (low, high). None
            for the kind's own: 0.2 (published) for ``simplex``, (0.2, 0.5) for ``mixed``.
        size: Smallest and largest extent of an anomaly relative to the image, in (0, 1]. None for the kind's own:
            10 to 31 of 256 pixels (published) for ``simplex``, (0.03, 0.5) for ``mixed``.
        period: Period of the first octave of the noise relative to the image's height, above 0.
        octaves: Number of octaves of the noise, 1 to 16.
        persistence: Amplitude of an octave relative to the one before, above 0.

    Raises:
        ValueError: If an argument is out of range; the message names it.
    """

    def __init__(
        self,
        kind: str = "mixed",
        strength: float | Sequence[float] | None = None,
        size: Sequence[float] | None = None,
        period: float = 32 / 256,
        octaves: int = 6,
        persistence: float = 0.6,
    ) -> None:
        if kind not in NOISE_KINDS:
            msg = f"noise.kind must be one of {NOISE_KINDS}, got {kind!r}"
            raise ValueError(msg)
        mixed = kind == "mixed"
        if strength is None:
            strength = _MIXED_STRENGTH if mixed else _PUBLISHED_STRENGTH
        if size is None:
            size = _MIXED_SIZE if mixed else _PUBLISHED_SIZE
        if isinstance(octaves, bool) or not isinstance(octaves, int) or not 1 <= octaves <= _MOST_OCTAVES:
            msg = f"noise.octaves must be a whole number from 1 to {_MOST_OCTAVES}, got {octaves!r}"
            raise ValueError(msg)
        self.kind = kind
        self.size = _range("noise.size", size, low=0.0, high=1.0, open_low=True)
        self.strength = _range("noise.strength", strength, low=0.0)
        self.period = _range("noise.period", period, low=0.0, open_low=True)[0]
        self.octaves = octaves
        self.persistence = _range("noise.persistence", persistence, low=0.0, open_low=True)[0]

    def __call__(
        self,
        images: torch.Tensor,
        *,
        generator: torch.Generator,
        normalisation: Normalisation | None = None,
        turn: int = 0,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put fresh anomalies into images.

        Args:
            images: (B, C, H, W), in [0, 1] or normalised, on the generator's device. Patches and textures come from
                the same images.
            generator: Source of randomness.
            normalisation: How the images were normalised; None where they were not.
            turn: Number of the batch: the kinds take turns in going first, so that batches whose size is no multiple
                of four have as many of each in the long run.

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
