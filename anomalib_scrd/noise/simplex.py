"""Simplex noise in three dimensions, for a batch of patches at once.

The lattice is that of K. Perlin's simplex noise in the form of S. Gustavson, "Simplex noise demystified" (2005).
Instead of a lookup in a shuffled table, every lattice point is hashed together with a seed of its image and octave: no
gather, no period, and as many independent fields as there are seeds.
"""

__all__ = ["AMPLITUDE", "STRETCH", "simplex"]

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from anomalib_scrd.noise.hashing import PRIMES, constant, hash_lattice

# The paper's generator is OpenSimplex (2014), whose lattice is coarser than this one at the same frequency and whose
# sum is scaled differently. These two constants match the moments of both fields, as tests/noise measures them: the
# autocorrelation (0.983, 0.951, 0.878, 0.722, 0.414 at lags 1, 2, 4, 8, 16) and the standard deviation (0.410) of six
# octaves with persistence 0.6 and period 32.
STRETCH = 0.48
AMPLITUDE = 0.773

_SKEW = constant(1.0 / 3.0)
_UNSKEW = 1.0 / 6.0
_PRIMES = tuple(constant(prime) for prime in PRIMES)
_RADIUS = constant(0.6)
_NORMAL = 16.0  # brings the sum over the four corners into [-1, 1]; gradients are twice as long as Perlin's

# Increments of an offset from corner to corner: along the axis of the step, and along the two others.
_ALONG, _ASIDE = constant(_UNSKEW - 1.0), constant(_UNSKEW)


def _edge(bits: int) -> dict[int, int]:
    """Perlin's table of gradients (2002), edges of a cube: four bits choose two axes and the signs along them."""
    first = 0 if bits < 8 else 1  # noqa: PLR2004
    second = 1 if bits < 4 else 0 if bits in {12, 14} else 2  # noqa: PLR2004
    return {first: -1 if bits & 1 else 1, second: -1 if bits & 2 else 1}


def _gradients(axis: int) -> torch.Tensor:
    """One axis of the sixteen gradients, packed into an integer: two bits each, the first gradient's at the top.

    They are the sign and the highest bit of the exponent of a float32: followed by zeros they are 2, -2 or 0.
    """
    codes = {0: 0b00, 1: 0b01, -1: 0b11}
    table = sum(codes[_edge(bits).get(axis, 0)] << (30 - 2 * bits) for bits in range(16))
    return constant(table - 2**32 if table >= 2**31 else table)


_GRADIENTS = tuple(_gradients(axis) for axis in range(3))
_LOW_BITS, _TOP_BITS, _TWICE, _SIGN = constant(15), constant(-(2**30)), constant(2), constant(31)


@dataclass
class _Axis:
    """Values of an axis, which are sorted to find the tetrahedron of a point.

    Attributes:
        fraction: Position in the cell along the axis, float32.
        step: Change of the hash by a step along the axis, int32.
        gradients: Gradients along the axis, packed, int32; the same for all points before sorting.
    """

    fraction: torch.Tensor
    step: torch.Tensor
    gradients: torch.Tensor


def _exchange(one: _Axis, other: _Axis) -> None:
    """Swap two axes at the points where the second has the larger fraction.

    Exclusive or with the differing bits swaps two integers; comparisons and ``torch.where`` take a CPU several times as
    long.
    """
    # all bits where the difference is negative, else none
    swap = (one.fraction - other.fraction).view(torch.int32).bitwise_right_shift_(_SIGN)
    larger, smaller = torch.maximum(one.fraction, other.fraction), torch.minimum(one.fraction, other.fraction)
    one.fraction, other.fraction = larger, smaller
    change = (one.step ^ other.step).bitwise_and_(swap)
    one.step.bitwise_xor_(change)
    other.step.bitwise_xor_(change)
    change = swap.bitwise_and_(one.gradients ^ other.gradients)
    one.gradients, other.gradients = one.gradients ^ change, other.gradients ^ change


def _dot(one: Iterable[torch.Tensor], other: Iterable[torch.Tensor]) -> torch.Tensor:
    """Scalar product of two vectors, given by their components."""
    components = zip(one, other, strict=True)
    first, second = next(components)
    total = first * second
    for first, second in components:
        total.addcmul_(first, second)
    return total


@torch.no_grad()
def simplex(z: torch.Tensor, y: torch.Tensor, x: torch.Tensor, seed: torch.Tensor) -> torch.Tensor:
    """Simplex noise at points.

    Args:
        z: First coordinate, float32, in periods; the three and the seed broadcast against each other.
        y: Second coordinate.
        x: Third coordinate.
        seed: int32, chooses the field.

    Returns:
        float32 in [-AMPLITUDE, AMPLITUDE], mean 0, without gradient.
    """
    z, y, x = STRETCH * z, STRETCH * y, STRETCH * x
    skew = (z + y) * _SKEW + x * _SKEW
    mixed, path = seed, []
    for coordinate, prime, gradients in zip((x, y, z), _PRIMES, _GRADIENTS, strict=True):
        position = skew + coordinate
        cell = position.floor()
        here = cell.to(torch.int32).mul_(prime)
        mixed = mixed ^ here
        path.append(_Axis(position.sub_(cell), (here + prime).bitwise_xor_(here), gradients))
    unskew = (path[0].fraction + path[1].fraction).add_(path[2].fraction).mul_(_ASIDE)

    # The order of the fractions determines the tetrahedron: step first along the largest, then along the second.
    _exchange(path[0], path[1])
    _exchange(path[1], path[2])
    _exchange(path[0], path[1])

    offset = [axis.fraction.sub_(unskew) for axis in path]
    total = torch.zeros_like(mixed, dtype=torch.float32)
    for corner in range(4):
        if corner:
            mixed.bitwise_xor_(path[corner - 1].step)
            for number, part in enumerate(offset, start=1):
                part.add_(_ALONG if number == corner else _ASIDE)
        place = hash_lattice(mixed).bitwise_and_(_LOW_BITS).mul_(_TWICE)
        gradient = ((axis.gradients << place).bitwise_and_(_TOP_BITS).view(torch.float32) for axis in path)
        # the fourth power of max(radius - squared distance, 0); an even power needs no sign
        fade = _dot(offset, offset).sub_(_RADIUS).clamp_max_(0).square_().square_()
        total.addcmul_(fade, _dot(gradient, offset))
    return total.mul_(AMPLITUDE * _NORMAL)
