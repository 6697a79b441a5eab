"""White Gaussian noise that can be replayed from a seed, like the other kinds."""

__all__ = ["STANDARD_DEVIATION", "white"]

import math

import torch

from anomalib_scrd.noise.hashing import PRIMES, hash_lattice, uniform

# That of the simplex field with six octaves and persistence 0.6, so that a strength means the same.
STANDARD_DEVIATION = 0.41


def white(z: torch.Tensor, y: torch.Tensor, x: torch.Tensor, seed: torch.Tensor) -> torch.Tensor:
    """Independent normal numbers, one for each integer point.

    Args:
        z: First index, int32; the three and the seed broadcast against each other.
        y: Second index.
        x: Third index.
        seed: int32, chooses the field.

    Returns:
        float32, mean 0, standard deviation 0.41.
    """
    mixed = (z * PRIMES[0]) ^ (y * PRIMES[1]) ^ (x * PRIMES[2]) ^ seed
    first, second = uniform(hash_lattice(mixed)), uniform(hash_lattice(mixed ^ PRIMES[1]))
    return STANDARD_DEVIATION * (-2 * first.log()).sqrt() * torch.cos(2 * math.pi * second)
