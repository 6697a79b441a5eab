"""Contents of this model's checkpoints, and their loading."""

__all__ = ["ModelCheckpoints", "keep_own_evaluator"]

from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from typing_extensions import Self

from anomalib_scrd.data.stored_window import share_window
from anomalib_scrd.integration.mixin_base import ModelMixin
from anomalib_scrd.options import GROUPS, over_saved
from anomalib_scrd.tiling import Tiling
from anomalib_scrd.training.checkpoint_damage import explained_damage

_STATE = "anomalib_scrd"
_EVALUATOR = "evaluator."


class ModelCheckpoints(ModelMixin):
    """State of :class:`~anomalib_scrd.lightning_model.ScaleAwareCRD` in checkpoints, beyond anomalib's module.

    Attributes:
        window: Preparation of the training's files, from ``MedicalFolder``; None for 8-bit images read by anomalib.
    """

    window: dict[str, Any] | None = None
    _seed: int | None
    _batches_seen: int
    _epoch_began: int

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the position in the training, for a resumed run, and the preparation and tiling of images."""
        super().on_save_checkpoint(checkpoint)
        ended = self._batches_seen - self._epoch_began >= getattr(self._trainer, "num_training_batches", 0)
        tiling: Tiling | None = cast("Any", self.model).tiling
        checkpoint[_STATE] = {
            "seed": self._seed,
            "batches_seen": self._batches_seen,
            "epoch_began": self._batches_seen if ended else self._epoch_began,
            "pre_trained": self.hparams["pre_trained"],
            "window": self.window,
            "tiling": None if tiling is None else tiling.to_dict(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore this state, and the argument that :meth:`load_from_checkpoint` replaced."""
        super().on_load_checkpoint(checkpoint)
        keep_own_evaluator(self, checkpoint)
        state = checkpoint.get(_STATE, {})
        self._seed = state.get("seed", self._seed)
        self._batches_seen = state.get("batches_seen", 0)
        self._epoch_began = state.get("epoch_began", self._batches_seen)
        if "pre_trained" in state:
            self.hparams["pre_trained"] = state["pre_trained"]
        self.window = state.get("window")
        if state.get("tiling") is not None:
            cast("Any", self.model).tiling = Tiling.from_dict(state["tiling"])
        share_window(self, self._trainer, loaded=True)

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: str | Path, *args: Any, **kwargs: Any) -> Self:  # type: ignore[override]
        """Load a trained model; arguments as in ``AnomalibModule.load_from_checkpoint``.

        The checkpoint holds the teacher's weights, so nothing is downloaded. Given fields of a group override those of
        the checkpoint, which override the preset's.

        Raises:
            ValueError: If the file is not a complete checkpoint of this model, or an argument is out of range; the
                message names the file.
        """
        kwargs.setdefault("pre_trained", False)
        with explained_damage(checkpoint_path):
            if any(name in GROUPS for name in kwargs):
                saved = torch.load(checkpoint_path, map_location="cpu", weights_only=True)["hyper_parameters"]
                kwargs = over_saved(kwargs, saved)
            return cast("Self", super().load_from_checkpoint(checkpoint_path, *args, **kwargs))


def keep_own_evaluator(model: nn.Module, checkpoint: MutableMapping[str, Any]) -> None:
    """Make a checkpoint loadable into a model with another evaluator.

    Some metrics store a setting in the state dict (``evaluator.test_metrics.0.fpr_limit``), and loading is strict. As
    in anomalib, the loading model keeps its evaluator; its state is never taken from a checkpoint.

    Args:
        model: The model that will load the checkpoint.
        checkpoint: Lightning's checkpoint, with a ``state_dict``; changed in place.
    """
    state = checkpoint["state_dict"]
    for name in [name for name in state if name.startswith(_EVALUATOR)]:
        del state[name]
    state.update((name, value) for name, value in model.state_dict().items() if name.startswith(_EVALUATOR))
