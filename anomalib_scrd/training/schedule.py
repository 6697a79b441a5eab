"""Length of a training, optimiser and learning rate."""

__all__ = ["DEFAULT_STEPS", "cosine_with_warmup", "has_no_length", "optimiser_and_schedule", "set_default_length"]

import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

logger = logging.getLogger(__name__)

DEFAULT_STEPS = 40_000
"""Published length of a training, in optimiser steps."""

# Lightning's values for a fit without a length (`lightning.pytorch.loops.utilities._parse_loop_limits`).
_LIGHTNING_DEFAULT = (1000, -1)


def has_no_length(trainer: Trainer) -> bool:
    """Whether a trainer was created without a number of steps or epochs.

    To be called when the trainer is attached to the model: later Lightning sets 1000 epochs, or the time limit.

    Args:
        trainer: The trainer.
    """
    return trainer.max_epochs is None and trainer.max_steps == -1


def set_default_length(trainer: Trainer, steps: int = DEFAULT_STEPS) -> bool:
    """Set the default length of a training without a length and without a time limit.

    Args:
        trainer: The trainer, while it sets up a fit.
        steps: Optimiser steps after which the training ends.

    Returns:
        Whether the length was set here.
    """
    if (trainer.max_epochs, trainer.max_steps) != _LIGHTNING_DEFAULT:
        return False
    trainer.fit_loop.max_epochs = -1
    trainer.fit_loop.epoch_loop.max_steps = steps
    logger.info("No length was given: the training ends after the published %d steps.", steps)
    return True


def optimiser_and_schedule(
    parameters: Iterable[nn.Parameter], options: Mapping[str, Any], trainer: Trainer
) -> OptimizerLRScheduler:
    """Build AdamW and its learning rate.

    Args:
        parameters: Trained parameters.
        options: Values of :class:`~anomalib_scrd.options.OptimiserOptions`.
        trainer: The trainer, for the length of the training.

    Returns:
        The result of ``configure_optimizers``.
    """
    optimizer = torch.optim.AdamW(
        parameters,
        lr=options["learning_rate"],
        betas=tuple(options["betas"]),
        weight_decay=options["weight_decay"],
        # One kernel instead of many; Lightning refuses gradient clipping under mixed precision together with it.
        fused=not trainer.gradient_clip_val,
    )
    if options["schedule"] == "none":
        return optimizer
    steps = trainer.estimated_stepping_batches
    known = math.isfinite(steps)
    if not known:
        logger.warning(
            "optimiser.schedule 'cosine' needs the number of steps, which trainer.max_time alone does not give: the "
            "learning rate stays constant after the warm-up; give trainer.max_steps or trainer.max_epochs as well",
        )
    scheduler = cosine_with_warmup(optimizer, int(steps) if known else None, options["warmup_steps"])
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def cosine_with_warmup(optimizer: Optimizer, total_steps: int | None, warmup_steps: int) -> LambdaLR:
    """Linear warm-up, then half a cosine down to zero at the last step.

    Args:
        optimizer: Optimiser.
        total_steps: Steps of the training; None if unknown, and then the rate stays constant after the warm-up.
        warmup_steps: Steps of the warm-up; at most the first half of the training.

    Returns:
        A scheduler to be stepped once per optimiser step.
    """
    warmup = warmup_steps if total_steps is None else min(warmup_steps, total_steps // 2)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if total_steps is None:
            return 1.0
        progress = (step - warmup) / max(1, total_steps - warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return LambdaLR(optimizer, factor)
