"""OpenVINO: .xml and .onnx files, asynchronous requests."""

__all__ = ["OpenVINOEngine"]

import sys
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from anomalib_scrd.edge.engine import Hint, check_outputs
from anomalib_scrd.edge.facts import KEY, ModelFacts

_ANY_SIDE = 128  # of the first image for a model of any size


class _Request:
    """A request that gives itself back when its result is taken."""

    def __init__(self, request: Any, image: np.ndarray, outputs: list[str], idle: "SimpleQueue[Any]") -> None:
        self._request = request
        self._image = image  # shared with OpenVINO, which does not keep it
        self._outputs = outputs
        self._idle = idle
        request.start_async([image], share_inputs=True)

    def result(self) -> dict[str, np.ndarray]:
        """See :class:`~anomalib_scrd.edge.engine.Pending`."""
        try:
            self._request.wait()
            return {name: np.array(self._request.get_tensor(name).data) for name in self._outputs}
        finally:
            self._idle.put(self._request)


class OpenVINOEngine:
    """A model in OpenVINO; see :class:`~anomalib_scrd.edge.engine.Engine`.

    Args:
        path: The .xml or .onnx file.
        hint: ``throughput`` or ``latency``.
        precision: ``INFERENCE_PRECISION_HINT``.
        device: Name of the device.
        threads: Threads of the CPU.

    Raises:
        ValueError: If OpenVINO is missing, or refuses the file or a setting.
    """

    def __init__(self, path: Path, *, hint: Hint, precision: str, device: str, threads: int) -> None:
        openvino = _import()
        self.name = f"OpenVINO {openvino.__version__.split('-')[0]}"
        config: dict[str, Any] = {"PERFORMANCE_HINT": hint.upper(), "INFERENCE_PRECISION_HINT": precision}
        if device == "CPU":
            config["INFERENCE_NUM_THREADS"] = threads
        try:
            core = openvino.Core()
            model = core.read_model(path)
            self.facts = ModelFacts.read(_document(model), path)
            self._outputs = check_outputs({name for output in model.outputs for name in output.names}, path)
            self.size = _fix_shape(model, self.facts)
            compiled = core.compile_model(model, device, config)
            self.labels = "pred_label" in self._outputs
            self.parallel = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
            self._idle: SimpleQueue[Any] = SimpleQueue()
            for _ in range(self.parallel + (hint == "throughput")):  # one more is filled while all others compute
                self._idle.put(compiled.create_infer_request())
            # Two threads that pass an array for the first time in a process can wait for each other without end: one
            # holds the lock of the interpreter, the other that of a static variable of OpenVINO 2026.4's binding.
            self._submit_one().result()
        except RuntimeError as error:
            msg = f"OpenVINO cannot load {str(path)!r} on {device!r}: {str(error).strip().splitlines()[-1]}"
            raise ValueError(msg) from None

    def submit(self, image: np.ndarray, *, wait: bool = True) -> _Request | None:
        """See :class:`~anomalib_scrd.edge.engine.Engine`."""
        try:
            request = self._idle.get(block=wait)
        except Empty:
            return None
        try:
            return _Request(request, image, self._outputs, self._idle)
        except BaseException:
            self._idle.put(request)
            raise

    def _submit_one(self) -> _Request:
        size = self.size or (_ANY_SIDE, _ANY_SIDE)
        return _Request(self._idle.get(), np.zeros((1, 3, *size), np.float32), self._outputs, self._idle)

    def close(self) -> None:
        """Nothing to let go of."""


def _import() -> Any:
    """Import OpenVINO without its telemetry, which reports every import to a server: nothing leaves this machine."""
    if "openvino" not in sys.modules:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # an import of it fails, as meant
    try:
        import openvino
    except ImportError:
        msg = "engine openvino needs the package openvino: pip install openvino"
        raise ValueError(msg) from None
    return openvino


def _document(model: Any) -> str | None:
    """The project's entry: OpenVINO keeps an ONNX file's metadata under ``framework``."""
    for where in ([KEY], ["model_info", KEY], ["framework", KEY]):
        if model.has_rt_info(where):
            return str(model.get_rt_info(where).astype(str))
    return None


def _fix_shape(model: Any, facts: ModelFacts) -> tuple[int, int] | None:
    """Give the input one shape, which doubles the speed, where it has or states one size; gives that size."""
    shape = model.input(0).partial_shape
    size = facts.size
    if shape[2].is_static and shape[3].is_static:
        size = shape[2].get_length(), shape[3].get_length()
    if size is not None:
        model.reshape([1, 3, *size])
    return size
