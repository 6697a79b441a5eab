"""One training, read out in several ways: what map and score are made of costs no training of its own."""

__all__ = ["ReadOuts", "check_read_outs"]

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader
from torch.utils.hooks import RemovableHandle

from anomalib_scrd.benchmark.comparison import compare
from anomalib_scrd.benchmark.quality.predictions import PredictionCollector
from anomalib_scrd.benchmark.speed.timing import device_clock
from anomalib_scrd.lightning_model import ScaleAwareCRD
from anomalib_scrd.scoring.map_and_score import ReadOut
from anomalib_scrd.torch_model import ScaleAwareCRDModel, TrainingFeatures

_SCALES_TO_CHECK = 2


def check_read_outs(variants: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise ValueError for arguments that are not those of a read-out, or out of range."""
    for name, arguments in variants.items():
        unknown = arguments.keys() - set(_argument_names())
        if unknown:
            msg = f"{name} has {sorted(unknown)}; allowed are {_argument_names()}"
            raise ValueError(msg)
        try:
            ReadOut(_SCALES_TO_CHECK, **arguments)
        except (TypeError, ValueError) as error:
            msg = f"{name}: {error}"
            raise ValueError(msg) from error


class ReadOuts(Callback):
    """Read-outs of a model beside its own, calibrated while it is trained, as its own is.

    The training is the same with them and without: nothing in it depends on a read-out.

    Args:
        variants: Arguments of each that differ from the model's own, by name.

    Attributes:
        seconds: Time that they took of the training.
    """

    def __init__(self, variants: Mapping[str, Mapping[str, Any]]) -> None:
        self.variants = variants
        self.read_outs: dict[str, ReadOut] = {}
        self.seconds = 0.0
        self._hook: RemovableHandle | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Build them and follow the model."""
        del trainer
        assert isinstance(pl_module, ScaleAwareCRD)
        own = {name: pl_module.hparams[name] for name in _argument_names()}
        scales = len(pl_module.model.teacher.layers)
        for name, arguments in self.variants.items():
            self.read_outs[name] = ReadOut(scales, **(own | dict(arguments))).to(pl_module.device)
        self._hook = pl_module.model.register_forward_hook(self._update)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let go of the model."""
        del trainer, pl_module
        assert self._hook is not None
        self._hook.remove()

    def predict(self, model: ScaleAwareCRD, batches: DataLoader, *, keep_maps: bool) -> dict[str, PredictionCollector]:
        """Predict images in one pass.

        Args:
            model: The trained model.
            batches: Images.
            keep_maps: Whether maps and masks are kept.

        Returns:
            Raw predictions by name.
        """
        collectors = {name: PredictionCollector(keep_maps=keep_maps) for name in self.read_outs}
        for read_out in self.read_outs.values():
            read_out.to(model.device)  # which the end of the training may have changed
        with torch.no_grad(), model.trainer.precision_plugin.predict_step_context():
            for batch, size, *compared in compare(model, batches):
                for name, read_out in self.read_outs.items():
                    collectors[name].add(batch.update(**read_out(*compared, size)._asdict()))
        return collectors

    def _update(self, model: ScaleAwareCRDModel, arguments: tuple[torch.Tensor, ...], output: Any) -> None:
        if not isinstance(output, TrainingFeatures):
            return
        del model
        images = arguments[0]
        clock = device_clock(images.device)
        started = clock()
        for read_out in self.read_outs.values():
            read_out.update(output.clean, output.student, images.shape[-2:])
        self.seconds += clock() - started


def _argument_names() -> list[str]:
    return [name for name in inspect.signature(ReadOut).parameters if name != "num_scales"]
