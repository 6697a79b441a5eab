"""How long a training is and how its learning rate runs."""

__all__ = ["DEFAULT_STEPS", "SCHEDULES", "cosine_with_warmup", "end_by_itself"]

import inspect
import logging
import math

from lightning.pytorch import Trainer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

logger = logging.getLogger(__name__)

DEFAULT_STEPS = 40_000
"""Published length of a training, in optimiser steps."""

SCHEDULES = ("none", "cosine")

# What Lightning fills in where no length is given (`lightning.pytorch.loops.utilities._parse_loop_limits`).
_LIGHTNING_DEFAULT_EPOCHS = 1000


def end_by_itself(trainer: Trainer, steps: int = DEFAULT_STEPS) -> bool:
    """Give a training that was started without a length the default one.

    Args:
        trainer: The trainer, while it sets up a fit. Where it is not an anomalib engine's, exactly 1000 epochs count as
            no length: Lightning fills them in and keeps no record of it.
        steps: Optimiser steps after which the training ends.

    Returns:
        Whether the length was set here.
    """
    # A length in epochs, steps or time, or a debugging run, leaves another pair of values here.
    if (trainer.max_epochs, trainer.max_steps) != (_LIGHTNING_DEFAULT_EPOCHS, -1):
        return False
    if _asked_epochs(trainer) is not None:
        return False
    trainer.fit_loop.max_epochs = -1
    trainer.fit_loop.epoch_loop.max_steps = steps
    logger.info("No length was given: the training ends after the published %d steps.", steps)
    return True


def _asked_epochs(trainer: Trainer) -> int | None:
    """Epochs that the user gave to the engine of this trainer, None without an engine or without epochs.

    Only the engine keeps what it was asked for, and a trainer does not know its engine: it is found among the callers.
    """
    # Not at the top: where anomalib.engine is what is imported first, its import is what imported this module.
    from anomalib.engine import Engine

    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, Engine) and caller._trainer is trainer:  # noqa: SLF001 - the property raises before a fit
            return caller._cache.args.get("max_epochs")  # noqa: SLF001 - there is no public way
        frame = frame.f_back
    return None


def cosine_with_warmup(optimizer: Optimizer, total_steps: int | None, warmup_steps: int) -> LambdaLR:
    """Linear rise over the warm-up, then half a cosine down to zero at the last step.

    Args:
        optimizer: Optimiser.
        total_steps: Steps of the whole training; None where nobody knows them: no cosine follows the rise.
        warmup_steps: Steps of the rise; at most ``total_steps`` of them count.

    Returns:
        A scheduler to be stepped once per optimiser step.
    """
    warmup = warmup_steps if total_steps is None else min(warmup_steps, total_steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if total_steps is None:
            return 1.0
        progress = (step - warmup) / max(1, total_steps - warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return LambdaLR(optimizer, factor)
