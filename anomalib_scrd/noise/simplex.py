"""Simplex noise in three dimensions, for a batch of patches at once.

The lattice is that of K. Perlin's simplex noise in the form of S. Gustavson, "Simplex noise demystified" (2005). In
place of a shuffled table every lattice point is hashed together with a seed of its image and octave: no gather, no
period, and as many independent fields as there are seeds.
"""

__all__ = ["AMPLITUDE", "STRETCH", "simplex"]

import torch

from anomalib_scrd.noise.hashing import PRIMES, hash_lattice

# The paper's generator is OpenSimplex (2014), whose lattice is coarser than this one at the same frequency and whose
# sum is scaled otherwise. These two constants bring the fields together in the moments that tests/noise measures:
# the autocorrelation (0.983, 0.951, 0.878, 0.722, 0.414 at lags 1, 2, 4, 8, 16) and the standard deviation (0.410) of
# six octaves with persistence 0.6 and period 32.
STRETCH = 0.48
AMPLITUDE = 0.773

_SKEW = 1.0 / 3.0
_UNSKEW = 1.0 / 6.0
_RADIUS = 0.6
_XY_AGAIN = 12
_NORMAL = 32.0  # brings the sum over the four corners into [-1, 1]


def _corner(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
    """What one corner adds: a gradient along one of the twelve edges of a cube, faded to zero at the radius."""
    bits = hash_lattice(mixed)
    # Perlin's table of edges (2002), by the four lowest bits: 0..3 xy, 4..7 xz, 8..15 yz but 12 and 14, which are xy.
    first = torch.where((bits & 8) == 0, x, y)
    second = torch.where((bits & 12) == 0, y, torch.where((bits & 13) == _XY_AGAIN, x, z))
    first = torch.where((bits & 1) == 0, first, -first)
    second = torch.where((bits & 2) == 0, second, -second)
    fade = (_RADIUS - (x * x + y * y + z * z)).clamp_min(0).square()
    return fade.square() * (first + second)


def simplex(z: torch.Tensor, y: torch.Tensor, x: torch.Tensor, seed: torch.Tensor) -> torch.Tensor:
    """Simplex noise at points.

    Args:
        z: First coordinate, float32, in periods; the three and the seed broadcast against each other.
        y: Second coordinate.
        x: Third coordinate.
        seed: int32, chooses the field.

    Returns:
        float32 in [-AMPLITUDE, AMPLITUDE], mean 0, differentiable in the coordinates.
    """
    z, y, x = STRETCH * z, STRETCH * y, STRETCH * x
    skew = (x + y + z) * _SKEW
    i, j, k = torch.floor(x + skew), torch.floor(y + skew), torch.floor(z + skew)
    unskew = (i + j + k) * _UNSKEW
    x, y, z = x - i + unskew, y - j + unskew, z - k + unskew
    a, b, c = (n.to(torch.int32) * prime for n, prime in zip((i, j, k), PRIMES, strict=True))

    # The order of the fractions names the tetrahedron: step first along the largest, then along the second.
    x_y, y_z, x_z = x >= y, y >= z, x >= z
    largest = (x_y & x_z, ~x_y & y_z, ~(x_z | y_z))
    not_smallest = (x_y | x_z, ~x_y | y_z, ~(x_z & y_z))

    total = _corner(x, y, z, a ^ b ^ c ^ seed)
    for number, steps in enumerate((largest, not_smallest), start=1):
        shift = number * _UNSKEW
        mixed = seed
        offsets = []
        for step, position, base, prime in zip(steps, (x, y, z), (a, b, c), PRIMES, strict=True):
            offsets.append(position - step.to(position.dtype) + shift)
            mixed = mixed ^ (base + step.to(torch.int32) * prime)
        total = total + _corner(offsets[0], offsets[1], offsets[2], mixed)
    last = 3 * _UNSKEW - 1
    mixed = (a + PRIMES[0]) ^ (b + PRIMES[1]) ^ (c + PRIMES[2]) ^ seed
    return AMPLITUDE * _NORMAL * (total + _corner(x + last, y + last, z + last, mixed))
