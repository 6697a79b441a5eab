"""Machine, libraries and code on which a result depends in addition to its settings, and the memory of a model."""

__all__ = ["PeakMemory", "code_digest", "describe", "model_size", "resolve_device"]

import hashlib
import os
import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import distributions
from pathlib import Path

import torch
from torch import nn

from anomalib_scrd.benchmark.models import find_class

_MEBI = 2**20
_LIBRARIES = ("anomalib", "timm", "openvino", "onnxruntime")


@dataclass
class PeakMemory:
    """Highest memory since the last reset, in MiB.

    On a GPU the allocator's peak, otherwise the resident memory of this process, libraries included (Linux only).

    Args:
        device: Device that the model runs on.
    """

    device: torch.device

    def reset(self) -> None:
        """Reset the peak."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif Path("/proc/self/clear_refs").exists():
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    def read(self) -> float:
        """The peak in MiB, NaN if the system does not report it."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / _MEBI
        return next((int(value.split()[0]) / 1024 for value in _proc("/proc/self/status", "VmHWM")), float("nan"))

    def of(self, work: Callable[[], object]) -> float:
        """Peak memory of a call beyond the memory in use before it, in MiB."""
        self.reset()
        before = self.read()
        work()
        return self.read() - before


def resolve_device(name: str) -> torch.device:
    """Turn ``auto``, a name of torch's or one of Lightning's accelerators into a device."""
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device({"auto": auto, "gpu": "cuda"}.get(name, name))


def model_size(model: nn.Module, optimizers: Iterable[torch.optim.Optimizer]) -> dict[str, float]:
    """Numbers of ``parameters`` and of ``trainable`` ones, and ``size_mib`` (with buffers, such as memory banks).

    A parameter is trainable if an optimiser has it: anomalib's feature extractors leave ``requires_grad`` set on frozen
    ones.
    """
    groups = [group["params"] for optimizer in optimizers for group in optimizer.param_groups]
    trained = {id(tensor): tensor.numel() for group in groups for tensor in group if tensor.requires_grad}
    return {
        "parameters": sum(tensor.numel() for tensor in model.parameters()),
        "trainable": sum(trained.values()),
        "size_mib": sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers())) / _MEBI,
    }


def describe(device: torch.device) -> dict[str, str | int]:
    """Describe the machine and the libraries for a device."""
    cpu = next(_proc("/proc/cpuinfo", "model name"), platform.processor() or platform.machine())
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        **{found.name: found.version for found in distributions() if found.name in _LIBRARIES},
    }


def _proc(file: str, name: str) -> Iterator[str]:
    """Values of a name in a file of Linux's ``/proc``; none on other systems."""
    lines = Path(file).read_text(encoding="utf-8").splitlines() if Path(file).exists() else []
    return (line.partition(":")[2].strip() for line in lines if line.startswith(name))


def code_digest(class_path: str) -> str:
    """Eight hexadecimal digits of the code of a class's package; of this benchmark only its models are included."""
    package = find_class(class_path, object, "anomalib.models").__module__.partition(".")[0]
    digest, own = hashlib.sha256(), Path(__file__).parent
    for root in map(Path, import_module(package).__path__):
        for file in sorted(root.rglob("*.py")):
            if own not in file.parents or file.name == "baselines.py":
                digest.update(file.relative_to(root).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()[:8]
