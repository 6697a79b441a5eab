"""Compiled forms of modules during a training."""

__all__ = ["REDUCE_OVERHEAD", "CompiledModules"]

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

REDUCE_OVERHEAD = "reduce-overhead"
"""Mode of ``torch.compile`` with CUDA graphs."""


class CompiledModules(Callback):
    """Compiles modules during a training. The modules themselves are unchanged, for validation and export.

    Args:
        modules: Modules to compile.
        mode: Mode of ``torch.compile``; None for its default.
    """

    def __init__(self, *modules: nn.Module, mode: str | None = None) -> None:
        self._modules = modules
        self._mode = mode
        self._compiled: dict[nn.Module, Any] = {}

    def __call__(self, module: nn.Module) -> Any:
        """The compiled form of a module, or the module itself outside of a training."""
        return self._compiled.get(module, module)

    def begin_step(self) -> None:
        """Mark the outputs of the previous step as free for CUDA graphs."""
        if self._compiled and self._mode == REDUCE_OVERHEAD:
            torch.compiler.cudagraph_mark_step_begin()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compile the modules; the compiler runs at the first call."""
        del trainer, pl_module
        self._compiled = {module: torch.compile(module, mode=self._mode) for module in self._modules}

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop the compiled forms."""
        del trainer, pl_module
        self._compiled = {}

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Drop the compiled forms."""
        del exception
        self.on_fit_end(trainer, pl_module)
