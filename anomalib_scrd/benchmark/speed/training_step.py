"""A complete training step of a Lightning module, without Lightning's loop."""

__all__ = ["TrainingStep", "autocast", "build_contender", "random_images"]

import copy
from types import SimpleNamespace
from typing import Any

import torch
from anomalib.data import ImageBatch

from anomalib_scrd.benchmark.machine import resolve_device
from anomalib_scrd.benchmark.models import build_model
from anomalib_scrd.benchmark.speed.config import SpeedConfig

# State of a typical step: only the first steps update the standardisation of the teacher's channels.
_STATE = {"state_dict": {}, "anomalib_scrd": {"batches_seen": 1000, "seed": 0}}


def random_images(config: SpeedConfig, batch: int, side: int) -> torch.Tensor:
    """Images in [0, 1], (B, 3, side, side), on the device."""
    images = torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(config.seed))
    return images.to(resolve_device(config.device))


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Autocast as in Lightning's mixed precision; disabled for float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def build_contender(config: SpeedConfig, name: str, side: int) -> Any:
    """Build the model of a contender for square images of a side, on the CPU, with the configuration's seed."""
    torch.manual_seed(config.seed)
    contender = config.contenders[name]
    return build_model(contender.class_path, contender.init_args, (side, side), post_processor=True)


class TrainingStep:
    """A contender's training step, backward pass, optimiser and learning rate schedule; only logging is a stub."""

    def __init__(self, config: SpeedConfig, name: str, side: int) -> None:
        contender = config.contenders[name]
        self.precision = contender.precision
        self.images = random_images(config, config.batch, side)
        self.module: Any = build_contender(config, name, side).to(self.images.device).train()
        # the trainer's attributes that a step reads; the module keeps only a weak reference
        self.trainer: Any = SimpleNamespace(
            **dict.fromkeys(("global_rank", "global_step", "current_epoch"), 0),
            **dict.fromkeys(("estimated_stepping_batches", "max_steps"), 40_000),
            **dict.fromkeys(("max_epochs", "gradient_clip_val"), None),
            world_size=1,
            log_every_n_steps=50,
            should_stop=False,
        )
        self.module.trainer = self.trainer
        self.module.log = self.module.log_dict = lambda *_args, **_kwargs: None
        self.module.on_load_checkpoint(copy.deepcopy(_STATE))
        self.module.on_fit_start()
        if getattr(self.module, "feature_cache", None) is not None:
            self.module.feature_cache.begin(len(self.images))
        if contender.compile:
            self.module.model.compile()
        found = self.module.configure_optimizers()
        self.optimizer = found["optimizer"] if isinstance(found, dict) else found
        self.scheduler = found["lr_scheduler"]["scheduler"] if isinstance(found, dict) else None

    def __call__(self) -> None:
        """Run a step, in Lightning's order."""
        batch = ImageBatch(image=self.images, image_path=[str(number) for number in range(len(self.images))])
        with autocast(self.images.device, self.precision):
            loss = self.module.training_step(batch, 0)
        self.optimizer.zero_grad()
        (loss["loss"] if isinstance(loss, dict) else loss).backward()
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        self.trainer.global_step += 1
