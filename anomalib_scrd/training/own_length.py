"""Length of a training without a given one: it ends when the student stops improving on held-out images."""

__all__ = ["CYCLES", "DEFAULT_STEPS", "LEAST_FALL", "OwnLength", "has_no_length"]

import logging
from itertools import accumulate
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from anomalib_scrd.loss import scale_distances
from anomalib_scrd.training.console import say
from anomalib_scrd.training.modes import evaluation_mode

logger = logging.getLogger(__name__)

CYCLES = (1000, 2000, 4000)
"""Optimiser steps of each cycle of the learning rate; a training ends after one of them."""

LEAST_FALL = 0.05
"""Smallest relative fall of the held-out distance over a cycle for a further cycle."""

DEFAULT_STEPS = 40_000
"""Published length of a training, in optimiser steps, for a learning rate without cycles."""

# Lightning's values for a fit without a length (`lightning.pytorch.loops.utilities._parse_loop_limits`).
_LIGHTNING_DEFAULT = (1000, -1)


def has_no_length(trainer: Trainer) -> bool:
    """Whether a trainer was created without a number of steps or epochs.

    To be called when the trainer is attached to the model: later Lightning sets 1000 epochs, or the time limit.

    Args:
        trainer: The trainer.
    """
    return trainer.max_epochs is None and trainer.max_steps == -1


class OwnLength(Callback):
    """Ends a fit without a given length; a length or a time limit of the user has priority.

    The learning rate falls to zero over cycles of 1,000, 2,000 and 4,000 steps (warm restarts; Loshchilov and Hutter,
    ICLR 2017), so that the student is fully trained at the end of each. The mean distance of teacher and student on the
    held-out normal images is measured at these ends. The fit ends if it is not at least 5 % smaller than at the end of
    the cycle before, and at the latest after 7,000 steps. A fit without held-out images always takes 7,000 steps.

    With a constant learning rate (``optimiser.schedule: none``, as in the preset ``published``) there are no cycles:
    the fit ends after the published 40,000 steps.

    A checkpoint stores the last distance and the length once it is decided: a resumed fit ends at the same step as an
    uninterrupted one.

    Attributes:
        cycles: Steps of each cycle; empty if the user sets the length or the learning rate is constant.
    """

    def __init__(self) -> None:
        self._begin(())

    def _begin(self, cycles: tuple[int, ...]) -> None:
        self.cycles = cycles
        self._finished = 0  # cycles
        self._distance: float | None = None
        self._decided: int | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Set the largest length before optimiser and schedule read it.

        Args:
            trainer: The trainer.
            pl_module: The model; its ``without_length`` is True if the trainer was created without one.
            stage: The length is set for ``fit`` only.
        """
        model: Any = pl_module
        if stage != "fit":
            return
        self._begin(())
        if not model.without_length or (trainer.max_epochs, trainer.max_steps) != _LIGHTNING_DEFAULT:
            return
        if model.hparams["optimiser"]["schedule"] == "cosine":
            self._begin(CYCLES)
        trainer.fit_loop.max_epochs = -1
        _end_after(trainer, sum(self.cycles) or DEFAULT_STEPS)
        rule = f"at most {sum(self.cycles)} steps" if self.cycles else f"the published {DEFAULT_STEPS} steps"
        logger.info("No length was given: the training ends after %s.", rule)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the length of a resumed fit if it was decided before."""
        del pl_module
        if self.cycles and self._decided is not None:
            _end_after(trainer, self._decided)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Decide at the end of a cycle whether another one follows."""
        ends = list(accumulate(self.cycles))
        if self._decided is not None or trainer.global_step not in ends[self._finished : -1]:
            return
        self._finished += 1
        images = len(pl_module.held_out)  # type: ignore[arg-type]
        if not images:
            return
        before, self._distance = self._distance, trainer.strategy.broadcast(held_out_distance(pl_module))
        if before is None:
            return
        fall = 1 - self._distance / before
        further = fall >= LEAST_FALL
        if not further:
            self._decided = trainer.global_step
            _end_after(trainer, self._decided)
        if trainer.is_global_zero:
            step, last = ends[self._finished - 1], ends[self._finished - 2]
            plan = f"training continues to step {ends[self._finished]}" if further else "training ends"
            change = f"fell by {fall:.1%} from step {last} to {step}"
            say(f"length: the distance on {images} held-out images {change}: {plan}")

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {"finished": self._finished, "distance": self._distance, "decided": self._decided}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self._finished, self._distance = state_dict["finished"], state_dict["distance"]
        self._decided = state_dict["decided"]


@torch.no_grad()
def held_out_distance(model: Any) -> float:
    """Mean distance of teacher and student on the held-out images, over images and scales.

    Args:
        model: The Lightning model, with held-out images; its mode is restored.

    Returns:
        Mean in [0, 2] up to rounding.
    """
    network = model.model
    with evaluation_mode(network), torch.autocast(model.device.type, enabled=False):
        distances = [
            scale_distances(*network.compared(network.tiles(images))[:2]).mean(dim=1)
            for images in model.held_out.images(model)
        ]
    return torch.cat(distances).mean().item()


def _end_after(trainer: Trainer, steps: int) -> None:
    trainer.fit_loop.epoch_loop.max_steps = steps
