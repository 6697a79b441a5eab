"""Order of the images in a resumed training, independent of validations."""

__all__ = ["ResumedOrder", "loader_starts_again"]

from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class ResumedOrder(Callback):
    """Gives a resumed training the same images in the same order as an uninterrupted one.

    From a checkpoint within an epoch, Lightning continues with the first batch of its loader, and ends the epoch as
    many batches early. This callback reads the batches before the checkpoint again and skips them, so that order and
    augmentations of all later batches are unchanged. Loaders that restore their own position, by ``state_dict`` and
    ``load_state_dict``, are not changed.

    A validation draws from torch's random state, and when it runs can depend on the clock, so the state is restored
    after it. Lightning starts the validation loader before the first batch of a resumed training, so that batch is read
    first, and the state is restored.

    The model's ``batches_of_epoch`` is the number of batches to skip, or None without a seed; its ``saw(batch)`` is
    called with the last skipped batch.
    """

    def __init__(self) -> None:
        self._state: torch.Tensor | None = None
        self._resumes = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Skip the batches before the checkpoint."""
        count = getattr(pl_module, "batches_of_epoch", None)
        self._resumes = trainer.ckpt_path is not None and count is not None
        if trainer.ckpt_path is not None and count is not None:
            self._skip_batches(trainer, pl_module, count)
        self._state = torch.get_rng_state()

    def _skip_batches(self, trainer: Trainer, model: Any, count: int) -> None:
        fetcher: Any = trainer.fit_loop._data_fetcher  # noqa: SLF001 - there is no public access to the started loader
        if any(hasattr(loader, "load_state_dict") for loader in fetcher.combined_loader.flattened):
            return
        batch = None
        for _ in range(count):
            batch, _, _ = next(fetcher)
        fetcher.fetched, fetcher.done = 0, False  # Lightning adds the checkpoint's progress
        if batch is not None:
            model.saw(trainer.strategy.batch_to_device(batch))
        fetcher.iterator = _read_ahead(fetcher.iterator)
        next(fetcher.iterator)

    def on_train_batch_start(self, *_: Any) -> None:
        """Restore the random state of the start in a resumed training."""
        if self._resumes and self._state is not None:
            torch.set_rng_state(self._state)
        self._resumes = False

    def on_train_batch_end(self, *_: Any) -> None:
        """Store the random state before a validation: its loader draws before its start hooks are called."""
        self._state = torch.get_rng_state()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the random state."""
        del trainer, pl_module
        if self._state is not None:
            torch.set_rng_state(self._state)

    def on_train_end(self, *_: Any) -> None:
        """Ignore validations outside of a training."""
        self._state = None

    def on_exception(self, *_: Any) -> None:
        """Ignore validations outside of a training."""
        self._state = None


def _read_ahead(iterator: Iterator[Any]) -> Iterator[Any]:
    """Read the first item and yield None, then yield this item and all others."""
    first = next(iterator, None)
    yield None
    while first is not None:
        yield first
        first = next(iterator, None)


def loader_starts_again(trainer: Trainer) -> bool:
    """Whether the training loader is started for this epoch after ``on_train_epoch_start``.

    The loader of the first epoch is started before this hook, also in a resumed training, except if Lightning ends the
    epoch of the checkpoint first.

    Args:
        trainer: Trainer.
    """
    loop = trainer.fit_loop
    return trainer.current_epoch > 0 and not loop.is_resuming and not loop.epoch_loop.restarting
