"""One seed for the weights of a new model and for the order of its training images."""

__all__ = ["seed_epoch", "seeded_weights"]

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from anomalib_scrd.noise import step_generator


@contextmanager
def seeded_weights(seed: int | None) -> Iterator[None]:
    """Draw random weights from a seed, without changing the global random state.

    Args:
        seed: The seed; None draws from the global random state.
    """
    if seed is None:
        yield
        return
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def seed_epoch(seed: int, batches: int, rank: int) -> None:
    """Seed torch's global random state for an epoch, from numbers that a checkpoint stores.

    The loader of the training images draws its order, and the seeds of its workers, from this state. (Under a
    distributed strategy Lightning replaces the sampler by one with its own seed, ``PL_GLOBAL_SEED``.)

    Args:
        seed: Seed of the run.
        batches: Batches of the training before this epoch.
        rank: Number of the process.
    """
    # Distinct from the generators of the synthetic anomalies, which belong to steps 0, 1, ...
    torch.manual_seed(step_generator(seed, -1 - batches, rank).initial_seed())
