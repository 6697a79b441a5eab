"""What a run costs, in memory and parameters, and on what machine it ran."""

__all__ = ["PeakMemory", "machine", "model_size"]

import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

_MEBI = 2**20


class PeakMemory:
    """Highest memory since the last reset, in MiB.

    On a GPU the allocator's peak, otherwise the resident memory of this process (which holds the libraries as well).

    Args:
        device: Device that the model runs on.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @property
    def kind(self) -> str:
        """What is measured."""
        return "CUDA allocator" if self.device.type == "cuda" else "resident set"

    def reset(self) -> None:
        """Forget the peak. Where the system doesn't allow it (outside Linux), the peak of the process stays."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        except OSError:
            return

    def read(self) -> float:
        """The peak in MiB, NaN where it can't be told."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / _MEBI
        try:
            status = Path("/proc/self/status").read_text(encoding="utf-8")
            return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024
        except (OSError, StopIteration):
            pass
        try:
            import resource
        except ImportError:
            return float("nan")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / _MEBI if sys.platform == "darwin" else peak / 1024


def model_size(model: nn.Module, optimizers: Iterable[torch.optim.Optimizer]) -> dict[str, float]:
    """Size of a model after training.

    Args:
        model: The torch model.
        optimizers: The optimisers that trained it. What none of them holds was not trained, whatever its
            ``requires_grad`` says (anomalib's feature extractors keep theirs).

    Returns:
        ``parameters``, ``trainable`` (numbers) and ``size_mib`` (parameters and buffers, memory banks included).
    """
    trained = {
        id(tensor): tensor.numel()
        for optimizer in optimizers
        for group in optimizer.param_groups
        for tensor in group["params"]
        if tensor.requires_grad
    }
    tensors = [*model.parameters(), *model.buffers()]
    return {
        "parameters": sum(tensor.numel() for tensor in model.parameters()),
        "trainable": sum(trained.values()),
        "size_mib": sum(tensor.numel() * tensor.element_size() for tensor in tensors) / _MEBI,
    }


def machine(device: torch.device) -> dict[str, str | int]:
    """The machine and the libraries of a run, in words."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    return {
        "device": name,
        "cpu_count": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "anomalib": importlib.metadata.version("anomalib"),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
