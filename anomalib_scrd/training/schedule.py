"""Optimiser and learning rate."""

__all__ = ["cosine_with_warmup", "optimiser_and_schedule"]

import logging
import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

logger = logging.getLogger(__name__)


def optimiser_and_schedule(
    parameters: Iterable[nn.Parameter], options: Mapping[str, Any], trainer: Trainer, cycles: Sequence[int] = ()
) -> OptimizerLRScheduler:
    """Build AdamW and its learning rate.

    Args:
        parameters: Trained parameters.
        options: Values of :class:`~anomalib_scrd.options.OptimiserOptions`.
        trainer: The trainer, for the length of the training.
        cycles: Steps of each cycle of a cosine; empty, the default, for one cycle over the training.

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
    lengths = cycles or ([int(steps)] if known else [])
    scheduler = cosine_with_warmup(optimizer, lengths, options["warmup_steps"])
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def cosine_with_warmup(optimizer: Optimizer, cycles: Sequence[int], warmup_steps: int) -> LambdaLR:
    """Cycles of a linear warm-up, then half a cosine down to zero at the last step of the cycle.

    Args:
        optimizer: Optimiser.
        cycles: Steps of each cycle; empty if the length is unknown, and then the rate stays constant after the warm-up.
        warmup_steps: Steps of each warm-up; at most the first half of a cycle.

    Returns:
        A scheduler to be stepped once per optimiser step.
    """
    ends = list(accumulate(cycles))

    def factor(step: int) -> float:
        if not ends:
            return min(1.0, (step + 1) / (warmup_steps + 1))
        cycle = min(bisect_right(ends, step), len(ends) - 1)
        length = cycles[cycle]
        step -= ends[cycle] - length
        warmup = min(warmup_steps, length // 2)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        progress = (step - warmup) / max(1, length - warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return LambdaLR(optimizer, factor)
