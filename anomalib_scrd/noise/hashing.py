"""Random bits for the points of a lattice, without a table."""

__all__ = ["PRIMES", "constant", "hash_lattice", "uniform"]

import torch

# Odd multipliers with well spread bits, as signed 32-bit numbers: multiplication modulo 2**32 wraps.
PRIMES = (0x27D4EB2D, 0x165667B1, 0x1B873593)


def constant(value: float) -> torch.Tensor:
    """A number as a tensor, int32 or float32, (), for formulas of many small operations.

    PyTorch converts a Python number to the other operand's type in every operation, which takes as long as the
    operation itself. A tensor without dimensions combines with tensors on any device.
    """
    return torch.tensor(value, dtype=torch.int32 if isinstance(value, int) else torch.float32, device="cpu")


_FIRST_SHIFT, _SECOND_SHIFT, _LAST_SHIFT = constant(15), constant(12), constant(11)
_FIRST_FACTOR, _SECOND_FACTOR = constant(0x2C1B3C6D), constant(PRIMES[0])


def hash_lattice(mixed: torch.Tensor) -> torch.Tensor:
    """Spread the bits of 32-bit integers; the result's low bits look random.

    Args:
        mixed: int32, the exclusive or of the multiplied lattice coordinates and the seed.

    Returns:
        int32 of the same shape.
    """
    # in place from the first new tensor on, which is still in the processor's cache
    mixed = (mixed >> _FIRST_SHIFT).bitwise_xor_(mixed).mul_(_FIRST_FACTOR)
    mixed = (mixed >> _SECOND_SHIFT).bitwise_xor_(mixed).mul_(_SECOND_FACTOR)
    return mixed.bitwise_right_shift_(_LAST_SHIFT)


def uniform(bits: torch.Tensor) -> torch.Tensor:
    """Numbers in (0, 1) from hashed bits, float32."""
    return ((bits & 0xFFFFF).float() + 0.5) / 2**20
