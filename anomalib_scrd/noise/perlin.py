"""Classic gradient noise (K. Perlin, "Improving noise", 2002) in three dimensions, for a batch of patches at once."""

__all__ = ["AMPLITUDE", "perlin"]

import torch

from anomalib_scrd.noise.hashing import PRIMES, hash_lattice

# Brings the standard deviation of six octaves to that of the simplex field, so that a strength means the same.
AMPLITUDE = 0.99


def _fade(t: torch.Tensor) -> torch.Tensor:
    return t * t * t * (t * (t * 6 - 15) + 10)


def perlin(z: torch.Tensor, y: torch.Tensor, x: torch.Tensor, seed: torch.Tensor) -> torch.Tensor:
    """Gradient noise at points; arguments and result as in :func:`anomalib_scrd.noise.simplex.simplex`."""
    cells = [torch.floor(axis) for axis in (z, y, x)]
    fractions = [axis - cell for axis, cell in zip((z, y, x), cells, strict=True)]
    bases = [cell.to(torch.int32) * prime for cell, prime in zip(cells, PRIMES, strict=True)]
    fades = [_fade(fraction) for fraction in fractions]
    total = torch.zeros((), device=x.device)
    for corner in range(8):
        steps = (corner >> 2 & 1, corner >> 1 & 1, corner & 1)
        mixed, weight, offsets = seed, torch.ones((), device=x.device), []
        for step, base, prime, fraction, fade in zip(steps, bases, PRIMES, fractions, fades, strict=True):
            mixed = mixed ^ (base + step * prime)
            weight = weight * (fade if step else 1 - fade)
            offsets.append(fraction - step)
        bits = hash_lattice(mixed)
        # gradients towards the eight corners of a cube: three signs
        signs = [1.0 - 2.0 * (bits >> shift & 1).float() for shift in range(3)]
        total = total + weight * sum(sign * offset for sign, offset in zip(signs, offsets, strict=True))
    return AMPLITUDE * total
