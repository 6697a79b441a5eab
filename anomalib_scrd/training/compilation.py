"""Compiled forms of modules during a training, and CUDA graphs of its synthetic anomalies."""

__all__ = ["REDUCE_OVERHEAD", "CompiledModules"]

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from anomalib_scrd.noise import MIXED

REDUCE_OVERHEAD = "reduce-overhead"
"""Mode of ``torch.compile`` with CUDA graphs."""

_GRAPHS_ON = {"cuda"}


class CompiledModules(Callback):
    """Compiles modules during a training. The modules themselves are unchanged, for validation and export.

    Args:
        modules: Modules to compile.
        mode: Mode of ``torch.compile``; None for its default.
    """

    def __init__(self, *modules: nn.Module, mode: str | None = None) -> None:
        self._modules = modules
        self._mode = mode
        self._drop()

    def _drop(self) -> None:
        self._compiled: dict[nn.Module, Any] = {}
        self._recorded: dict[Any, _Recorded] = {}

    def __call__(self, module: nn.Module) -> Any:
        """The compiled form of a module, or the module itself outside of a training."""
        return self._compiled.get(module, module)

    def begin_step(self) -> None:
        """Mark the outputs of the previous step as free for CUDA graphs."""
        if self._compiled and self._mode == REDUCE_OVERHEAD:
            torch.compiler.cudagraph_mark_step_begin()

    def anomalies(
        self, make: Callable[..., Any], images: Tensor, *, generator: torch.Generator, turn: int, **arguments: Any
    ) -> tuple[Tensor, Tensor]:
        """Make synthetic anomalies; where CUDA graphs are wanted, their hundreds of small kernels are one launch.

        The compiler would have to draw other random numbers. A graph draws those of the call that it was recorded from,
        with the seed that its generator has at the time.

        Args:
            make: See :class:`~anomalib_scrd.noise.SyntheticAnomalies`; the other arguments are its own.
            images: (B, C, H, W).
            generator: A freshly seeded generator.
            turn: Number of the batch.
            **arguments: The same ones in every call.

        Returns:
            The images with anomalies and the places of these, until the next call.
        """
        if not self._compiled or self._mode != REDUCE_OVERHEAD or images.device.type not in _GRAPHS_ON:
            return make(images, generator=generator, turn=turn, **arguments)
        turn %= len(MIXED)
        key = images.shape, images.dtype, turn
        if key not in self._recorded:
            self._recorded[key] = _record(make, images, turn=turn, **arguments)
        graph, shown, own, found = self._recorded[key]
        shown.copy_(images)
        own.manual_seed(generator.initial_seed())
        graph.replay()
        return found

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compile; the compiler runs with the first call.

        Raises:
            ValueError: If gradients are to be accumulated in the memory of CUDA graphs, where the next batch overwrites
                them (https://github.com/pytorch/pytorch/issues/169545).
        """
        del pl_module
        batches = trainer.accumulate_grad_batches
        if self._modules and self._mode == REDUCE_OVERHEAD and batches > 1:
            msg = f"compile_model {REDUCE_OVERHEAD!r} needs accumulate_grad_batches 1, got {batches}: give it true"
            raise ValueError(msg)
        self._compiled = {module: torch.compile(module, mode=self._mode) for module in self._modules}

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop the compiled forms."""
        del trainer, pl_module
        self._drop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Drop the compiled forms."""
        del exception
        self.on_fit_end(trainer, pl_module)


class _Recorded(NamedTuple):
    """A CUDA graph, and the memory and the generator that it works with."""

    graph: torch.cuda.CUDAGraph
    images: Tensor
    generator: torch.Generator
    found: tuple[Tensor, Tensor]


def _record(make: Callable[..., Any], images: Tensor, **arguments: Any) -> _Recorded:
    """Record the kernels of a call, after one that loads them."""
    shown, generator = images.clone(), torch.Generator(images.device)
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        make(shown, generator=generator, **arguments)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(generator)
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        found = make(shown, generator=generator, **arguments)
    return _Recorded(graph, shown, generator, found)
