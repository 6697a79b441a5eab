"""Noise fields of every kind: octaves over (channel, row, column)."""

__all__ = ["NOISE_KINDS", "NoiseState", "noise_field", "sample_state"]

from typing import NamedTuple

import torch

from anomalib_scrd.noise.perlin import perlin
from anomalib_scrd.noise.simplex import simplex
from anomalib_scrd.noise.white import white

NOISE_KINDS = ("simplex", "perlin", "gaussian")

# Fields begin anywhere in this many periods of their first octave: far from each other, near enough for float32.
_SPAN = 64.0

# Points computed at a time: what the cache of a processor holds, and what bounds the memory on other devices.
_POINTS_CPU = 2**16
_POINTS = 2**22


class NoiseState(NamedTuple):
    """All that is random in N fields.

    Attributes:
        seeds: (N, octaves) int32, one for each field and octave.
        offsets: (N, octaves, 3) float32, where in the noise a field begins, in periods. Without them every octave of
            every field would be zero in its first corner, a point of the lattice.
    """

    seeds: torch.Tensor
    offsets: torch.Tensor


def sample_state(count: int, octaves: int, generator: torch.Generator) -> NoiseState:
    """Draw what makes N fields, on the generator's device."""
    device = generator.device
    seeds = torch.randint(-(2**31), 2**31, (count, octaves), generator=generator, device=device, dtype=torch.int64)
    offsets = _SPAN * torch.rand(count, octaves, 3, generator=generator, device=device)
    return NoiseState(seeds.to(torch.int32), offsets)


def noise_field(
    kind: str,
    state: NoiseState,
    channels: int,
    height: int,
    width: int,
    *,
    period: float,
    persistence: float,
) -> torch.Tensor:
    """Compute noise fields.

    ``sum_o persistence**o * noise(2**o * (c, i, j) / period)``, unnormalised, as the paper's generator adds them.
    ``gaussian`` is white: it has no octaves and no period, only the first seed counts.

    Args:
        kind: ``simplex``, ``perlin`` or ``gaussian``.
        state: What is random, for N fields.
        channels: Number of channels; neighbouring ones are neighbours in the noise.
        height: Rows.
        width: Columns.
        period: Period of the first octave in pixels, above 0.
        persistence: Amplitude of an octave relative to the one before.

    Returns:
        (N, channels, height, width) float32 with a standard deviation of about 0.41 at six octaves and persistence 0.6.

    Raises:
        ValueError: If ``kind`` is unknown.
    """
    if kind not in NOISE_KINDS:
        msg = f"noise must be one of {NOISE_KINDS}, got {kind!r}"
        raise ValueError(msg)
    device = state.seeds.device
    shapes = ((1, channels, 1, 1), (1, 1, height, 1), (1, 1, 1, width))
    steps = [torch.arange(max(shape), device=device).view(shape) for shape in shapes]
    if kind == "gaussian":
        z, y, x = (step.to(torch.int32) for step in steps)
        return white(z, y, x, state.seeds[:, 0].view(-1, 1, 1, 1))
    # Every octave is computed as a field of its own.
    octaves = torch.arange(state.seeds.shape[1], device=device)
    frequency = ((1 << octaves) / period).repeat(len(state.seeds)).view(-1, 1, 1, 1)
    offsets = state.offsets.view(-1, 3, 1, 1, 1).unbind(1)
    points = [
        *(offset + frequency * step for offset, step in zip(offsets, steps, strict=True)),
        state.seeds.view(-1, 1, 1, 1),
    ]
    function = simplex if kind == "simplex" else perlin
    pieces = zip(*(axis.split(_fields_at_once(channels * height * width, device)) for axis in points), strict=True)
    fields = torch.cat([function(*piece) for piece in pieces])
    weights = (persistence**octaves).view(-1, 1, 1, 1)
    return (fields.view(*state.seeds.shape, channels, height, width) * weights).sum(dim=1)


def _fields_at_once(points: int, device: torch.device) -> int:
    """How many fields of so many points to compute at a time."""
    if torch.compiler.is_compiling():
        return 2**62  # the compiler cuts the work itself
    return max(1, (_POINTS_CPU if device.type == "cpu" else _POINTS) // points)
