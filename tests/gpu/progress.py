"""Writes the progress of a training."""

__all__ = ["Progress"]

import json
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class Progress(Callback):
    """Appends a line of JSON, ``steps`` and ``seconds`` since the first step began, every ``every`` steps.

    It waits for an accelerator only then.

    Args:
        file: File.
        every: Number of steps.
    """

    def __init__(self, file: str, every: int = 250) -> None:
        self.file = Path(file)
        self.every = every
        self._start = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._start = time.perf_counter()
        self._write(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Write a line, if one is due."""
        del args
        if trainer.global_step % self.every == 0:
            self._write(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the last line."""
        self._write(trainer, pl_module, ended=True)

    def _write(self, trainer: Trainer, pl_module: LightningModule, **more: Any) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        line = {"steps": trainer.global_step, "seconds": time.perf_counter() - self._start, **more}
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
