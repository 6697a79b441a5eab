"""A generator for one training step, seeded by numbers that a checkpoint stores."""

__all__ = ["step_generator"]

import torch

_MASK = 2**64 - 1


def _mix(value: int) -> int:
    """The finaliser of SplitMix64 (Steele et al., 2014): every bit of the input reaches every bit of the output."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK
    return value ^ (value >> 31)


def step_generator(seed: int, step: int, rank: int = 0, device: torch.device | str | None = "cpu") -> torch.Generator:
    """A generator that depends only on seed, step and process.

    A resumed run draws the same numbers in step n as an uninterrupted one; processes of one run draw different numbers.

    Args:
        seed: Seed of the run.
        step: Number of the batch.
        rank: Number of the process.
        device: Where the numbers are drawn.

    Returns:
        A freshly seeded generator.
    """
    state = 0
    for part in (seed, step, rank):
        state = _mix(((state ^ part) + 0x9E3779B97F4A7C15) & _MASK)
    return torch.Generator(device or "cpu").manual_seed(state >> 1)
