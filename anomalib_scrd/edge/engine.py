"""Engines that run an exported model: one interface for OpenVINO and ONNX Runtime."""

__all__ = [
    "ENGINES",
    "Engine",
    "Hint",
    "Request",
    "batch_for",
    "check_outputs",
    "fill",
    "load_engine",
    "threshold_of",
    "trimmed",
]

import os
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from anomalib_scrd.edge.facts import ModelFacts

Hint = Literal["throughput", "latency"]
ENGINES = ("openvino", "onnxruntime")
_NEEDED = ("pred_score", "anomaly_map")
_THRESHOLD = 0.5  # of anomalib's post-processor
_BATCH, _BATCH_PIXELS = 8, 8 * 128 * 128


class Request(Protocol):
    """One call of the model for some images; one thread fills it, starts it and waits for it."""

    def put(self, image: np.ndarray) -> bool:
        """Add an image.

        Args:
            image: (H, W) or (H, W, 3) float32 in [0, 1], of the engine's ``size`` if it has one.

        Returns:
            Whether there is room for another image.
        """

    def start(self) -> None:
        """Start the computation."""

    def result(self) -> dict[str, np.ndarray]:
        """Wait for the result; afterwards the request can be used again.

        Returns:
            Copies of the outputs by name, for the N images of the request: ``pred_score`` (N,), ``pred_label`` (N,) if
            the model has it, and ``anomaly_map`` (N, h, w) if requested.
        """

    def cancel(self) -> None:
        """Release the request without a result."""


class Engine(Protocol):
    """A loaded model.

    Attributes:
        name: Name of the engine and its version.
        facts: Metadata of the file.
        size: (height, width) of the input; None if the model takes any size and its metadata have no size of the
            training.
        labels: Whether the model has labels (``pred_label``).
        parallel: Number of requests that keep all cores busy.
        batch: Largest number of images per request.
    """

    name: str
    facts: ModelFacts
    size: tuple[int, int] | None
    labels: bool
    parallel: int
    batch: int

    def request(self, *, wait: bool = True) -> Request | None:
        """Get a request. A caller that has one must not wait for another: this could deadlock.

        Args:
            wait: Whether to wait for a free request (default).

        Returns:
            The request, or None if none is free and ``wait`` is False.
        """

    def close(self) -> None:
        """Release threads."""


def load_engine(
    path: Path,
    *,
    engine: str = "auto",
    hint: Hint = "throughput",
    precision: str = "f32",
    device: str = "CPU",
    threads: int | None = None,
    maps: bool = True,
) -> Engine:
    """Load an exported model.

    Args:
        path: An .xml or .onnx file.
        engine: ``openvino``, ``onnxruntime`` (.onnx only), or ``auto`` (default): ONNX Runtime for an .onnx file if it
            is installed, otherwise OpenVINO.
        hint: ``throughput`` (default): many requests at once, one thread each; ``latency``: one request with all
            threads.
        precision: OpenVINO's ``INFERENCE_PRECISION_HINT``: f32 (default), bf16 or f16. ONNX Runtime uses the file's
            precision.
        device: OpenVINO's device.
        threads: Number of threads; None, the default, for one per core.
        maps: Whether anomaly maps are needed. Otherwise OpenVINO omits their computation.

    Returns:
        The engine.

    Raises:
        ValueError: If there is no such file, it is not a model of this project, or its engine is not installed.
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

        return ONNXEngine(path, hint=hint, threads=count, maps=maps)
    from anomalib_scrd.edge.openvino_engine import OpenVINOEngine

    return OpenVINOEngine(path, hint=hint, precision=precision, device=device, threads=count, maps=maps)


def check_outputs(names: set[str], path: Path, *, maps: bool) -> list[str]:
    """Names of the outputs to read.

    Args:
        names: Names of all outputs.
        path: The file, for the message.
        maps: Whether maps are needed.

    Returns:
        Names.

    Raises:
        ValueError: If the score or the map is missing.
    """
    if not names >= set(_NEEDED):
        msg = f"{str(path)!r} has the outputs {sorted(names)}; a model of this project has {list(_NEEDED)}"
        raise ValueError(msg)
    wanted = ("pred_score", "pred_label", "anomaly_map") if maps else ("pred_score", "pred_label")
    return [name for name in wanted if name in names]


def threshold_of(engine: Engine) -> float | None:
    """Score above which the model labels an image anomalous.

    Args:
        engine: The loaded model.

    Returns:
        The threshold in the file's metadata; without metadata anomalib's 0.5 if the model has labels; otherwise None.
    """
    return engine.facts.image_threshold if engine.facts.version else _THRESHOLD if engine.labels else None


def batch_for(size: tuple[int, int] | None, hint: Hint) -> int:
    """Number of images per request.

    With single small images a core waits between operations; several large ones exceed its caches.

    Args:
        size: (height, width), None if it differs between images.
        hint: ``latency`` gives 1.

    Returns:
        1 to 8, with at most the pixels of eight images of 128 x 128.
    """
    if size is None or hint == "latency":
        return 1
    return max(1, min(_BATCH, _BATCH_PIXELS // (size[0] * size[1])))


def fill(target: np.ndarray, image: np.ndarray) -> None:
    """Copy an image to a model's input, a grey one to all channels.

    Args:
        target: (3, H, W).
        image: (H, W) or (H, W, 3).
    """
    target[...] = image if image.ndim == 2 else image.transpose(2, 0, 1)  # noqa: PLR2004


def trimmed(name: str, data: np.ndarray, count: int) -> np.ndarray:
    """Copy an output without unused rows and axes of length 1.

    Args:
        name: Its name.
        data: (B, ...), or without the batch axis if the model drops it.
        count: Number N of images.

    Returns:
        (N, h, w) of a map, (N,) of anything else.
    """
    rows = data.reshape(-1, *data.shape[-2:]) if name == "anomaly_map" else data.reshape(-1)
    return rows[:count].copy()


def _has_onnxruntime() -> bool:
    from importlib.util import find_spec

    return find_spec("onnxruntime") is not None


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
