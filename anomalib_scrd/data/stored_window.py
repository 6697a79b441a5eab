"""Passes the window between data module and model: training stores it on the model, later stages take it from there."""

__all__ = ["share_window"]

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from anomalib_scrd.data.medical import MedicalFolder


def share_window(model: LightningModule, trainer: Trainer | None, *, loaded: bool = False) -> None:
    """Give the model and its data module the same window.

    A training takes the data module's window, unless it goes on from a checkpoint; everything else, and a training that
    goes on, takes the model's where it has one.

    Args:
        model: The model; its attribute ``window`` is a plain dictionary, or None.
        trainer: Its trainer, with the data module; None changes nothing.
        loaded: Whether the model's window has just come from a checkpoint.

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
