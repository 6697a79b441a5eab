"""Random bits for the points of a lattice, without a table."""

__all__ = ["PRIMES", "hash_lattice", "uniform"]

import torch

# Odd multipliers with well spread bits, as signed 32-bit numbers: multiplication modulo 2**32 wraps.
PRIMES = (0x27D4EB2D, 0x165667B1, 0x1B873593)
_MIX = 0x2C1B3C6D


def hash_lattice(mixed: torch.Tensor) -> torch.Tensor:
    """Spread the bits of 32-bit integers; the result's low bits are random to the eye.

    Args:
        mixed: int32, the exclusive or of the multiplied lattice coordinates and the seed.

    Returns:
        int32 of the same shape.
    """
    mixed = (mixed ^ (mixed >> 15)) * _MIX
    return (mixed ^ (mixed >> 12)) * PRIMES[0] >> 11


def uniform(bits: torch.Tensor) -> torch.Tensor:
    """Numbers in (0, 1) from hashed bits, float32."""
    return ((bits & 0xFFFFF).float() + 0.5) / 2**20
