"""Compiled forms of modules, for the time of a training."""

__all__ = ["CompiledModules"]

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn


class CompiledModules(Callback):
    """Compiles modules while a training runs. The modules themselves stay as they are, for validation and export.

    Args:
        modules: What is compiled.
    """

    def __init__(self, *modules: nn.Module) -> None:
        self._modules = modules
        self._compiled: dict[nn.Module, Any] = {}

    def __call__(self, module: nn.Module) -> Any:
        """The compiled form of a module, or the module where there is none."""
        return self._compiled.get(module, module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compile; the compiler runs with the first call."""
        del trainer, pl_module
        self._compiled = {module: torch.compile(module) for module in self._modules}

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop the compiled forms."""
        del trainer, pl_module
        self._compiled = {}

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Drop the compiled forms."""
        del exception
        self.on_fit_end(trainer, pl_module)
