"""One real training step of a Lightning module, without the loop around it."""

__all__ = ["TrainingStep", "random_images"]

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from anomalib.data import ImageBatch
from lightning.pytorch import LightningModule

from anomalib_scrd.benchmark.speed.config import Precision, SpeedConfig
from anomalib_scrd.benchmark.speed.released import ReleasedSchedule
from anomalib_scrd.lightning_model import ScaleAwareCRD

# A step like nearly all of a training: the channels' standardisation learns in the first few.
_BATCHES_BEFORE = 1000

_DTYPES = {"bf16": torch.bfloat16, "16": torch.float16}


@dataclass(eq=False)
class _Trainer:
    """What a step asks its trainer for."""

    global_rank: int = 0
    world_size: int = 1
    global_step: int = 0
    log_every_n_steps: int = 50
    estimated_stepping_batches: int = 40_000
    gradient_clip_val: float | None = None


def random_images(config: SpeedConfig, batch: int, size: tuple[int, int]) -> torch.Tensor:
    """Images as a pre-processor leaves them, (B, 3, H, W), on the device."""
    images = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(config.seed))
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    return images.to(config.torch_device, memory_format=layout)


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Autocast as Lightning's mixed precision has it; none for float32."""
    return torch.autocast(device.type, dtype=_DTYPES.get(precision, torch.bfloat16), enabled=precision in _DTYPES)


class TrainingStep:
    """The module's own training step, backward, optimiser and learning rate schedule; only logging is a stub.

    Args:
        module: Module with ``training_step`` and ``configure_optimizers``.
        config: Device, precision, layout, compilation.
        images: Batch of the steps; random images of the configured size by default.
        rank: Number of the process.
        wrap: Turns the function batch -> loss into another one, for instance a distributed one.
    """

    def __init__(
        self,
        module: Any,
        config: SpeedConfig,
        *,
        images: torch.Tensor | None = None,
        rank: int = 0,
        wrap: Callable[[Any], Callable[[ImageBatch], Any]] | None = None,
    ) -> None:
        self.device = config.torch_device
        self.precision = config.precision
        layout = torch.channels_last if config.channels_last else torch.preserve_format
        self.module: Any = module.to(self.device, memory_format=layout).train()
        self.trainer = _Trainer(global_rank=rank)  # the module keeps a weak reference only
        if isinstance(module, ReleasedSchedule):
            module.form.trainer = self.trainer  # type: ignore[assignment]  # what its optimiser asks
        if isinstance(module, LightningModule):
            self.module.trainer = self.trainer
            self.module.log = self.module.log_dict = _no_log
            self.module.on_fit_start()
        if isinstance(module, ScaleAwareCRD):
            module._batches_seen = _BATCHES_BEFORE  # noqa: SLF001 - as a checkpoint would
        self.compiled = config.compile
        if self.compiled:
            self.module.model.compile()
        found = self.module.configure_optimizers()
        self.optimizer = found["optimizer"] if isinstance(found, dict) else found
        self.scheduler = found["lr_scheduler"]["scheduler"] if isinstance(found, dict) else None
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "16")
        self.images = random_images(config, config.batch, config.image_size) if images is None else images
        self.paths = [str(number) for number in range(len(self.images))]
        if getattr(self.module, "feature_cache", None) is not None:
            self.module.feature_cache.begin(len(self.images))
        self._step = self.module.training_step if wrap is None else wrap(self.module)

    def __call__(self) -> None:
        """Make a step, in Lightning's order."""
        loss = self.forward()
        self.optimizer.zero_grad()
        self.backward(loss)
        self.update()

    def forward(self) -> torch.Tensor:
        """The loss."""
        with self.autocast():
            loss = self._step(ImageBatch(image=self.images, image_path=self.paths))
        return loss["loss"] if isinstance(loss, dict) else loss

    def backward(self, loss: torch.Tensor) -> None:
        """The gradients."""
        self.scaler.scale(loss).backward()

    def update(self) -> None:
        """The optimiser's step, and the schedule's."""
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.scheduler is not None:
            self.scheduler.step()
        self.trainer.global_step += 1

    def autocast(self) -> torch.autocast:
        """The precision of the forward pass."""
        return autocast(self.device, self.precision)


def _no_log(*args: Any, **kwargs: Any) -> None:
    del args, kwargs
