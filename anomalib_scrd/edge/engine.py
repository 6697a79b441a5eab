"""What runs an exported model: one interface, two engines."""

__all__ = ["ENGINES", "Engine", "Hint", "Pending", "check_outputs", "load_engine"]

import os
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from anomalib_scrd.edge.facts import ModelFacts

Hint = Literal["throughput", "latency"]
ENGINES = ("openvino", "onnxruntime")
WANTED = ("pred_score", "anomaly_map")
OPTIONAL = ("pred_label",)


class Pending(Protocol):
    """A request on its way."""

    def result(self) -> dict[str, np.ndarray]:
        """Wait for it.

        Returns:
            Outputs by name, the caller's own: ``pred_score`` (1,), ``anomaly_map`` (1, 1, h, w), where the model has
            it ``pred_label`` (1,).
        """


class Engine(Protocol):
    """A loaded model.

    Attributes:
        name: Name of the engine and its version.
        facts: What the file says about itself.
        size: (height, width) to which images are resized before; None where the model takes any size and does not say
            which it was trained at.
        labels: Whether the model decides itself (``pred_label``).
        parallel: Requests that keep all cores busy.
    """

    name: str
    facts: ModelFacts
    size: tuple[int, int] | None
    labels: bool
    parallel: int

    def submit(self, image: np.ndarray, *, wait: bool = True) -> Pending | None:
        """Start a request.

        Args:
            image: (1, 3, H, W) float32 in [0, 1]. It must stay as it is until the result is there.
            wait: Whether to wait for a free request.

        Returns:
            The request, or None where none is free and it was not to be waited for.
        """

    def close(self) -> None:
        """Let go of threads."""


def load_engine(
    path: Path,
    *,
    engine: str = "auto",
    hint: Hint = "throughput",
    precision: str = "f32",
    device: str = "CPU",
    threads: int | None = None,
) -> Engine:
    """Load an exported model.

    Args:
        path: An .xml or .onnx file.
        engine: ``openvino``, ``onnxruntime`` (.onnx only), or ``auto``: ONNX Runtime for an .onnx file where it is
            installed, OpenVINO otherwise.
        hint: ``throughput``: many requests at once, a thread each; ``latency``: one request, all threads.
        precision: OpenVINO's ``INFERENCE_PRECISION_HINT``: f32, bf16 or f16. ONNX Runtime computes in the file's own.
        device: OpenVINO's device.
        threads: Threads, by default one per core.

    Returns:
        The engine.

    Raises:
        ValueError: If there is no such file, it is no model of this project, or its engine is not installed.
    """
    if engine not in {"auto", *ENGINES}:
        msg = f"engine must be one of {('auto', *ENGINES)}, got {engine!r}"
        raise ValueError(msg)
    if path.suffix.lower() not in {".xml", ".onnx"} or not path.is_file():
        msg = f"MODEL must be an existing .xml or .onnx file, got {str(path)!r}"
        raise ValueError(msg)
    if engine == "auto":
        engine = "onnxruntime" if path.suffix.lower() == ".onnx" and _has_onnxruntime() else "openvino"
    count = threads or _cores()
    if engine == "onnxruntime":
        if path.suffix.lower() != ".onnx":
            msg = f"engine onnxruntime reads .onnx files, got {str(path)!r}"
            raise ValueError(msg)
        if precision != "f32" or device != "CPU":
            msg = f"engine onnxruntime computes on the CPU in f32, got precision {precision!r}, device {device!r}"
            raise ValueError(msg)
        from anomalib_scrd.edge.onnx_engine import ONNXEngine

        return ONNXEngine(path, hint=hint, threads=count)
    from anomalib_scrd.edge.openvino_engine import OpenVINOEngine

    return OpenVINOEngine(path, hint=hint, precision=precision, device=device, threads=count)


def check_outputs(names: set[str], path: Path) -> list[str]:
    """Outputs that are read of those that a model has.

    Args:
        names: Names of all its outputs.
        path: The file, for the message.

    Returns:
        Names.

    Raises:
        ValueError: If the score or the map is missing.
    """
    if not names >= set(WANTED):
        msg = f"{str(path)!r} has the outputs {sorted(names)}; a model of this project has {list(WANTED)}"
        raise ValueError(msg)
    return [name for name in (*WANTED, *OPTIONAL) if name in names]


def _has_onnxruntime() -> bool:
    from importlib.util import find_spec

    return find_spec("onnxruntime") is not None


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
