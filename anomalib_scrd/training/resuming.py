"""Order of the images in a training that is resumed, or interrupted by validations."""

__all__ = ["ResumedOrder", "loader_starts_again"]

from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class ResumedOrder(Callback):
    """Lets a resumed training see the images that the uninterrupted one would have seen.

    Lightning begins the epoch of a checkpoint that was written within it with the first batch of its loader, and ends
    it as many batches earlier. Here the batches before the checkpoint are read again and left out, so that order and
    augmentations of all that follow are as they would have been. Loaders that restore their own position, by
    Lightning's ``state_dict`` and ``load_state_dict``, are left alone.

    A validation draws from torch's random state, and where it takes place can depend on the clock: the state of before
    is restored after it. Lightning starts the loader of validations before the first batch of a resumed training: that
    batch is read before, and the state restored.

    The model's ``batches_of_epoch`` says how many batches are left out, None for an order that no seed fixes; its
    ``saw(batch)`` gets the last of them.
    """

    def __init__(self) -> None:
        self._state: torch.Tensor | None = None
        self._resumes = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave out what has been seen."""
        count = getattr(pl_module, "batches_of_epoch", None)
        self._resumes = trainer.ckpt_path is not None and count is not None
        if trainer.ckpt_path is not None and count is not None:
            self._leave_out(trainer, pl_module, count)
        self._state = torch.get_rng_state()

    def _leave_out(self, trainer: Trainer, model: Any, count: int) -> None:
        fetcher: Any = trainer.fit_loop._data_fetcher  # noqa: SLF001 - there is no public way to the started loader
        if any(hasattr(loader, "load_state_dict") for loader in fetcher.combined_loader.flattened):
            return
        batch = None
        for _ in range(count):
            batch, _, _ = next(fetcher)
        fetcher.fetched, fetcher.done = 0, False  # Lightning adds what the checkpoint's progress says
        if batch is not None:
            model.saw(trainer.strategy.batch_to_device(batch))
        fetcher.iterator = _read_ahead(fetcher.iterator)
        next(fetcher.iterator)

    def on_train_batch_start(self, *_: Any) -> None:
        """Restore the random state of the start, in a resumed training."""
        if self._resumes and self._state is not None:
            torch.set_rng_state(self._state)
        self._resumes = False

    def on_train_batch_end(self, *_: Any) -> None:
        """Note the random state before a validation can follow: its loader draws before the hooks of its start."""
        self._state = torch.get_rng_state()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore it."""
        del trainer, pl_module
        if self._state is not None:
            torch.set_rng_state(self._state)

    def on_train_end(self, *_: Any) -> None:
        """Leave validations that belong to no training alone."""
        self._state = None

    def on_exception(self, *_: Any) -> None:
        """Leave validations that belong to no training alone."""
        self._state = None


def _read_ahead(iterator: Iterator[Any]) -> Iterator[Any]:
    """Give None when the first item has been read, then this item and all others."""
    first = next(iterator, None)
    yield None
    while first is not None:
        yield first
        first = next(iterator, None)


def loader_starts_again(trainer: Trainer) -> bool:
    """Tell, in ``on_train_epoch_start``, whether the loader of training images is started for this epoch.

    That of a training's first epoch has started before. So has that of a resumed training, except where Lightning ends
    the epoch of the checkpoint first.

    Args:
        trainer: Trainer.
    """
    loop = trainer.fit_loop
    return trainer.current_epoch > 0 and not loop.is_resuming and not loop.epoch_loop.restarting
