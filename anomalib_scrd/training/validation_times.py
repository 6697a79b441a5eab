"""Times at which a fit validates, finds thresholds and writes its checkpoint."""

__all__ = ["ValidationTimes"]

import math
import time
from typing import Any

import torch
from anomalib.callbacks import ModelCheckpoint
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, Timer
from lightning.pytorch.callbacks import ModelCheckpoint as LightningModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from anomalib_scrd.training.modes import evaluation_mode

# A batch number that no training reaches, so that Lightning itself never starts a validation.
_NEVER = 2**62
_LONGEST_WITHOUT = 1800.0  # seconds
_CLOCK_EVERY = 50  # batches between two checks of the time, which synchronise the processes
_MOST_FOR_VALIDATION = 0.1  # of the time since the start ...
_WORTH_SAVING = 5.0  # ... if it is more than these seconds
_DEFAULT_FILES = {None, "model"}  # names of the default checkpoints of Lightning and anomalib


class ValidationTimes(Callback):
    """Plans the validations of a fit; a checkpoint is written after each.

    By default Lightning validates, and anomalib writes a checkpoint, at the end of every epoch: hundreds of times with
    short epochs, never if a fit ends within its first epoch, and not after the last step of a fit that ends within an
    epoch. With this callback a fit of known length (steps, epochs or time) validates after each quarter of it, at the
    end of an epoch if epochs are short, and after its last step. It also validates half an hour after the last
    validation. A validation in the middle of a fit is skipped if the earlier ones took more than a tenth of the time
    (and more than five seconds). The checkpoint is written after a validation, so that its thresholds match its
    weights.

    The user's own plan has priority: ``check_val_every_n_epoch`` or ``val_check_interval`` with another value than
    Lightning's default, ``EarlyStopping``, or a checkpoint callback other than the default. Then this callback only
    adds a missing validation after the last step, and ensures that checkpoints of that step are written after it.

    A fit without validation (``limit_val_batches=0``, or no validation images at all) finds its thresholds from the
    held-out images at the same times.

    Before each validation, or each search for thresholds without one, the model's ``before_thresholds()`` is called, in
    evaluation mode and without gradients, on every process.

    Args:
        parts: Number of equal parts of a fit of known length, each ending with a validation; default 4.
    """

    def __init__(self, parts: int = 4) -> None:
        self.parts = parts
        self._own_plan = False
        self._settings: tuple[Any, Any] | None = None
        self._first_step = self._step_of_thresholds = -1
        self._part = 0
        self._waiting = False
        self._started = self._last = self._validation_started = 0.0
        self._spent = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose between the user's plan and the one described above."""
        del pl_module
        self._settings = trainer.check_val_every_n_epoch, trainer.val_check_batch
        self._own_plan = not _user_has_a_plan(trainer)
        self._first_step = self._step_of_thresholds = trainer.global_step
        self._part = math.floor(self._progress(trainer) * self.parts)
        self._waiting = False
        self._spent = 0.0
        self._started = self._last = time.monotonic()
        if self._own_plan:
            # Counted in batches of the fit; checkpoints follow validations instead of epochs.
            trainer.check_val_every_n_epoch = None
            # A resumed fit reads this value before its first batch: its checkpoint was written in a validation, and
            # Lightning continues after that validation if it was due. Each batch sets the value again.
            trainer.val_check_batch = 1

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Decide whether a validation follows this batch."""
        del outputs, batch
        last = _is_last(trainer, batch_idx)
        if self._own_plan:
            due = last or self._is_due(trainer, batch_idx)
            trainer.val_check_batch = 1 if due else _NEVER
        else:
            due = last
            if last:
                _validate_after_this_batch(trainer)
        if due and not trainer.enable_validation:
            self._find_thresholds_without_validation(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, and call the model's ``before_thresholds``."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._validation_started = time.monotonic()
            _call_before_thresholds(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        del pl_module
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._done(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate if no validation followed the last step, because the fit was stopped between two batches."""
        if trainer.global_step in {self._first_step, self._step_of_thresholds}:
            return
        if trainer.enable_validation:
            written = [c for c in trainer.checkpoint_callbacks if _has_written(c, trainer.global_step)]
            trainer.validating = True
            trainer.fit_loop.epoch_loop.val_loop.run()
            trainer.training = True
        else:
            written = trainer.checkpoint_callbacks
            self._find_thresholds_without_validation(trainer, pl_module)
        for callback in written:
            for path in {callback.best_model_path, getattr(callback, "last_model_path", "")} - {""}:  # type: ignore[attr-defined]
                trainer.save_checkpoint(path)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the trainer's own settings."""
        del pl_module
        if stage == "fit":
            self._restore(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the trainer's own settings."""
        del pl_module, exception
        self._restore(trainer)

    def _restore(self, trainer: Trainer) -> None:
        if self._settings is not None:
            trainer.check_val_every_n_epoch, trainer.val_check_batch = self._settings
            self._settings = None

    def _find_thresholds_without_validation(self, trainer: Trainer, pl_module: LightningModule) -> None:
        find = getattr(getattr(pl_module, "post_processor", None), "fit_to_held_out", None)
        self._validation_started = time.monotonic()
        # The loader of held-out images draws random numbers; the training's order must not depend on it.
        with evaluation_mode(pl_module), torch.no_grad(), torch.random.fork_rng(devices=[]):
            _call_before_thresholds(pl_module)
            if find is not None:
                find(trainer, pl_module)
        if self._own_plan:
            for callback in trainer.checkpoint_callbacks:
                callback.on_validation_end(trainer, pl_module)
        self._done(trainer)

    def _done(self, trainer: Trainer) -> None:
        self._step_of_thresholds = trainer.global_step
        self._last = time.monotonic()
        self._spent += self._last - self._validation_started

    def _is_due(self, trainer: Trainer, batch_idx: int) -> bool:
        """Whether a validation in the middle of a fit follows this batch."""
        progress = self._progress(trainer)
        part = math.floor(progress * self.parts)
        if part > self._part:
            self._part = part
            most = max(_WORTH_SAVING, _MOST_FOR_VALIDATION * (time.monotonic() - self._started))
            self._waiting = trainer.strategy.broadcast(self._spent <= most)
        elif (trainer.fit_loop.total_batch_idx + 1) % _CLOCK_EVERY == 0:
            late = time.monotonic() - self._last > _LONGEST_WITHOUT
            self._waiting = trainer.strategy.broadcast(late) or self._waiting
        if not self._waiting or self._step_of_thresholds == trainer.global_step:
            return False
        if (batch_idx + 1) % trainer.accumulate_grad_batches and not _ends_epoch(trainer, batch_idx):
            return False  # a checkpoint does not hold accumulated gradients
        epochs = trainer.current_epoch + (batch_idx + 1) / trainer.num_training_batches
        short = epochs > 0 and progress / epochs <= 0.5 / self.parts
        if short and not _ends_epoch(trainer, batch_idx):
            return False
        self._waiting = False
        return True

    def _progress(self, trainer: Trainer) -> float:
        """Share of the fit that is done, in [0, 1]; 0 where its length is unknown."""
        shares = [0.0]
        if trainer.max_steps > 0:
            shares.append(trainer.global_step / trainer.max_steps)
        if trainer.max_epochs is not None and trainer.max_epochs > 0 and math.isfinite(trainer.num_training_batches):
            done = (trainer.fit_loop.total_batch_idx + 1) / max(trainer.num_training_batches, 1)
            shares.append(done / trainer.max_epochs)
        for timer in _callbacks(trainer):
            if isinstance(timer, Timer) and timer.time_remaining() is not None:
                elapsed = timer.time_elapsed()
                share = elapsed / max(elapsed + max(timer.time_remaining() or 0.0, 0.0), 1e-9)
                shares.append(trainer.strategy.broadcast(share))
        return min(max(shares), 1.0)


def _callbacks(trainer: Trainer) -> list[Callback]:
    return trainer.callbacks  # type: ignore[attr-defined]  # set by a connector


def _call_before_thresholds(model: LightningModule) -> None:
    before = getattr(model, "before_thresholds", None)
    if before is not None:
        before()


def _ends_epoch(trainer: Trainer, batch_idx: int) -> bool:
    return batch_idx + 1 == trainer.num_training_batches or trainer.is_last_batch


def _is_last(trainer: Trainer, batch_idx: int) -> bool:
    """Whether the fit ends with this batch."""
    if 0 <= trainer.max_steps <= trainer.global_step:
        return True
    ends_epoch = _ends_epoch(trainer, batch_idx)
    if ends_epoch and trainer.max_epochs is not None and 0 <= trainer.max_epochs <= trainer.current_epoch + 1:
        return True
    epochs = trainer.current_epoch + (1 if ends_epoch else 0)
    return (
        trainer.should_stop and epochs >= (trainer.min_epochs or 0) and trainer.global_step >= (trainer.min_steps or 0)
    )


def _validate_after_this_batch(trainer: Trainer) -> None:
    """Make Lightning validate after the last batch, also if it was not planned."""
    every = trainer.check_val_every_n_epoch
    if every is not None and (trainer.current_epoch + 1) % every:
        trainer.check_val_every_n_epoch = None
    if trainer.val_check_batch is not None:  # None: by time; `on_train_end` handles that case
        trainer.val_check_batch = 1


def _user_has_a_plan(trainer: Trainer) -> bool:
    # Validations by time leave no interval in batches.
    if trainer.check_val_every_n_epoch != 1 or getattr(trainer, "val_check_interval", None) != 1.0:
        return True
    if any(isinstance(callback, EarlyStopping) for callback in _callbacks(trainer)):
        return True
    return not all(map(_is_default, trainer.checkpoint_callbacks)) or len(trainer.checkpoint_callbacks) > 1


def _is_default(callback: Checkpoint) -> bool:
    """Whether a checkpoint callback is the default one of anomalib's engine or Lightning's trainer."""
    if type(callback) not in {ModelCheckpoint, LightningModelCheckpoint}:
        return False
    default = type(callback)()
    names = ("state_key", "save_last", "save_top_k", "save_weights_only", "save_on_exception")
    same = all(getattr(callback, name) == getattr(default, name) for name in names)
    return same and getattr(callback, "filename", None) in _DEFAULT_FILES


def _has_written(callback: Checkpoint, step: int) -> bool:
    return getattr(callback, "_last_global_step_saved", None) == step
