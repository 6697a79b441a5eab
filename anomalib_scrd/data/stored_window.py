"""Passes the window between data module and model: a training stores it in the model, later stages read it."""

__all__ = ["share_window"]

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from anomalib_scrd.data.medical import MedicalFolder


def share_window(model: LightningModule, trainer: Trainer | None, *, loaded: bool = False) -> None:
    """Set the same window in the model and its data module.

    A new training uses the data module's window. A resumed training and all other stages use the model's if it has one.

    Args:
        model: The model; its attribute ``window`` is a plain dictionary, or None.
        trainer: Its trainer, with the data module; no effect if None.
        loaded: Whether the model's window was just loaded from a checkpoint.

    Raises:
        ValueError: If the model's window does not fit the data module.
    """
    datamodule: Any = getattr(trainer, "datamodule", None)
    if trainer is None or not isinstance(datamodule, MedicalFolder):
        return
    window = getattr(model, "window", None)
    if window is not None and (loaded or trainer.state.fn != TrainerFn.FITTING):
        datamodule.use_window(window)
    elif trainer.state.fn == TrainerFn.FITTING:
        model.window = datamodule.window_state  # type: ignore[assignment]
