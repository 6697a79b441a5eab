"""Fields of simplex noise: octaves over (channel, row, column)."""

__all__ = ["NoiseState", "noise_at", "sample_state"]

from typing import NamedTuple

import torch

from anomalib_scrd.noise.patches import Points
from anomalib_scrd.noise.simplex import simplex

# Range of the random offsets, in periods: fields are far from each other, and float32 is precise enough.
_SPAN = 64.0

# Numbers computed at a time: they fit a CPU's cache, and bound the memory on other devices.
_AT_ONCE_CPU = 2**16
_AT_ONCE = 2**22


class NoiseState(NamedTuple):
    """Random state of N fields.

    Attributes:
        seeds: (N, octaves) int32, one for each field and octave.
        offsets: (N, octaves, 3) float32, the origin of each octave in the noise, in periods. Without offsets every
            octave would be zero in the first corner, a point of the lattice.
    """

    seeds: torch.Tensor
    offsets: torch.Tensor


def sample_state(count: int, octaves: int, generator: torch.Generator) -> NoiseState:
    """Draw the random state of ``count`` fields, on the generator's device."""
    device = generator.device
    seeds = torch.randint(-(2**31), 2**31, (count, octaves), generator=generator, device=device, dtype=torch.int64)
    offsets = _SPAN * torch.rand(count, octaves, 3, generator=generator, device=device)
    return NoiseState(seeds.to(torch.int32), offsets)


def noise_at(
    state: NoiseState,
    points: Points,
    channels: int,
    *,
    period: float,
    persistence: float,
) -> torch.Tensor:
    """Compute noise fields at some of their points.

    ``sum_o persistence**o * noise(2**o * (c, i, j) / period)``, unnormalised, as the paper's generator adds them; the
    standard deviation is about 0.41 at six octaves and persistence 0.6. Adjacent channels are adjacent in the noise.

    Args:
        state: What is random, for N fields.
        points: P points of these fields.
        channels: Number of channels C, computed at every point.
        period: Period of the first octave in pixels, above 0.
        persistence: Amplitude of an octave relative to the one before.

    Returns:
        (C, P) float32.
    """
    device = state.seeds.device
    channel = torch.arange(channels, device=device).view(-1, 1)
    seeds, offsets = state.seeds.t(), state.offsets.permute(2, 1, 0)  # (octaves, N) and (3, octaves, N)
    octave = torch.arange(len(seeds), device=device).view(-1, 1, 1)
    frequency, weight = (1 << octave) / period, persistence**octave

    def compute(field: torch.Tensor, row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
        starts = offsets.index_select(2, field).unsqueeze(2)
        # all octaves at once: few kernels on a GPU
        z, y, x = (start + frequency * step for start, step in zip(starts, (channel, row, column), strict=True))
        octaves = simplex(z, y, x, seeds.index_select(1, field).unsqueeze(1))  # (octaves, C, P)
        return octaves.mul_(weight).sum(dim=0)

    size = _points_at_once(seeds.shape[0] * channels, device)
    return torch.cat([compute(*piece) for piece in zip(*(part.split(size) for part in points), strict=True)], dim=1)


def _points_at_once(numbers: int, device: torch.device) -> int:
    """Number of points to compute at a time, with ``numbers`` values per point."""
    if torch.compiler.is_compiling():
        return 2**62  # the compiler splits the work itself
    return max(1, (_AT_ONCE_CPU if device.type == "cpu" else _AT_ONCE) // numbers)
