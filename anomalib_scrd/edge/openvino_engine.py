"""OpenVINO: .xml and .onnx files, with asynchronous requests."""

__all__ = ["OpenVINOEngine"]

import sys
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from anomalib_scrd.edge.engine import Hint, batch_for, check_outputs, fill, trimmed
from anomalib_scrd.edge.facts import KEY, ModelFacts

_ANY_SIDE = 128  # side of the warm-up image for a model of any size


class _Request:
    """See :class:`~anomalib_scrd.edge.engine.Request`; images are written to OpenVINO's input tensor."""

    def __init__(self, request: Any, engine: "OpenVINOEngine") -> None:
        self._request = request
        self._engine = engine
        self._count = 0

    def put(self, image: np.ndarray) -> bool:
        if self._engine.size is None:
            self._request.get_input_tensor().shape = [1, 3, *image.shape[:2]]
        fill(self._request.get_input_tensor().data[self._count], image)
        self._count += 1
        return self._count < self._engine.batch

    def start(self) -> None:
        self._request.start_async()

    def result(self) -> dict[str, np.ndarray]:
        try:
            self._request.wait()
            outputs = {name: self._request.get_tensor(name).data for name in self._engine.outputs}
            return {name: trimmed(name, data, self._count) for name, data in outputs.items()}
        finally:
            self.cancel()

    def cancel(self) -> None:
        self._engine.idle.put(self._request)


class OpenVINOEngine:
    """A model in OpenVINO; see :class:`~anomalib_scrd.edge.engine.Engine`.

    Args:
        path: The .xml or .onnx file.
        hint: ``throughput`` or ``latency``.
        precision: ``INFERENCE_PRECISION_HINT``.
        device: Name of the device.
        threads: Number of CPU threads.
        maps: Whether anomaly maps are needed.

    Raises:
        ValueError: If OpenVINO is missing, or refuses the file or a setting.
    """

    def __init__(self, path: Path, *, hint: Hint, precision: str, device: str, threads: int, maps: bool) -> None:
        openvino = _import()
        self.name = f"OpenVINO {openvino.__version__.split('-')[0]}"
        config: dict[str, Any] = {"PERFORMANCE_HINT": hint.upper(), "INFERENCE_PRECISION_HINT": precision}
        if device == "CPU":
            config["INFERENCE_NUM_THREADS"] = threads
        try:
            core = openvino.Core()
            model = core.read_model(path)
            self.facts = ModelFacts.read(_document(model), path)
            names = {name for output in model.outputs for name in output.names}
            self.outputs = check_outputs(names, path, maps=maps)
            for node in model.get_results():
                if not node.output(0).names & set(self.outputs):
                    model.remove_result(node)
            self.size = _size(model, self.facts)
            self.batch = batch_for(self.size, hint)
            if self.size is not None:  # a static shape doubles the speed
                model.reshape([self.batch, 3, *self.size])
            compiled = core.compile_model(model, device, config)
            self.labels = "pred_label" in self.outputs
            self.parallel = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
            self.idle: SimpleQueue[Any] = SimpleQueue()
            for _ in range(self.parallel + (hint == "throughput")):  # one more is filled while the others compute
                self.idle.put(compiled.create_infer_request())
            # Two threads that pass the first array of a process can deadlock: one holds the interpreter's lock, the
            # other that of a static variable of OpenVINO 2026.4's binding.
            first = _Request(self.idle.get(), self)
            first.put(np.zeros(self.size or (_ANY_SIDE, _ANY_SIDE), np.float32))
            first.start()
            first.result()
        except (RuntimeError, UnicodeDecodeError) as error:  # the latter for a name or an entry that is not text
            msg = f"OpenVINO cannot load {str(path)!r} on {device!r}: {str(error).strip().splitlines()[-1]}"
            raise ValueError(msg) from None

    def request(self, *, wait: bool = True) -> _Request | None:
        """See :class:`~anomalib_scrd.edge.engine.Engine`."""
        try:
            return _Request(self.idle.get(block=wait), self)
        except Empty:
            return None

    def close(self) -> None:
        """Do nothing: OpenVINO releases its threads itself."""


def _import() -> Any:
    """Import OpenVINO without its telemetry, which reports every import to a server."""
    if "openvino" not in sys.modules:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # its import fails, as intended
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


def _size(model: Any, facts: ModelFacts) -> tuple[int, int] | None:
    """The size of the model's input, or the training's in the metadata."""
    shape = model.input(0).partial_shape
    if shape[2].is_static and shape[3].is_static:
        return shape[2].get_length(), shape[3].get_length()
    return facts.size if facts.resized_before else None
