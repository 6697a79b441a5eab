"""The machine of a measurement and the state that it was in."""

__all__ = ["describe"]

import importlib.metadata
import os
import platform
from datetime import datetime, timezone
from typing import Any

import torch

from anomalib_scrd.benchmark import machine as measure
from anomalib_scrd.benchmark.speed.config import SpeedConfig


def describe(config: SpeedConfig) -> dict[str, Any]:
    """What the times depend on and the configuration does not say."""
    device = config.torch_device
    cpu = measure.machine(torch.device("cpu"))
    found: dict[str, Any] = {
        "cpu": cpu["device"],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else "none",
        "device": str(device),
        "system": platform.platform(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": cpu["python"],
        "torch": str(torch.__version__),
        **{name: _version(name) for name in ("anomalib", "openvino", "nncf", "onnxruntime", "timm")},
    }
    if device.type == "cuda":
        found |= {
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "cudnn benchmark": torch.backends.cudnn.benchmark,
            "tf32 convolutions": torch.backends.cudnn.allow_tf32,
            "float32 products": torch.get_float32_matmul_precision(),
        }
    if hasattr(os, "getloadavg"):
        # More than the measurement itself takes: something else was running.
        found["load average at the start"] = round(os.getloadavg()[0], 2)
    return found


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
