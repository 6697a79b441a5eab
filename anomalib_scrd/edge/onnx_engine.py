"""ONNX Runtime: the .onnx file of the same export, with the same metadata."""

__all__ = ["ONNXEngine"]

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import BoundedSemaphore

import numpy as np

from anomalib_scrd.edge.engine import Hint, batch_for, check_outputs, fill, trimmed
from anomalib_scrd.edge.facts import KEY, ModelFacts


class _Request:
    """See :class:`~anomalib_scrd.edge.engine.Request`."""

    def __init__(self, engine: "ONNXEngine") -> None:
        self._engine = engine
        self._images: list[np.ndarray] = []
        self._future: Future[list[np.ndarray]] | None = None

    def put(self, image: np.ndarray) -> bool:
        self._images.append(image)
        return len(self._images) < self._engine.batch

    def start(self) -> None:
        images = np.empty((len(self._images), 3, *self._images[0].shape[:2]), np.float32)
        for target, image in zip(images, self._images, strict=True):
            fill(target, image)
        self._future = self._engine.submit(images)

    def result(self) -> dict[str, np.ndarray]:
        try:
            data = self._future.result() if self._future is not None else []
            named = zip(self._engine.outputs, data, strict=True)
            return {name: trimmed(name, values, len(self._images)) for name, values in named}
        finally:
            self.cancel()

    def cancel(self) -> None:
        self._engine.places.release()


class ONNXEngine:
    """A model in ONNX Runtime on the CPU; see :class:`~anomalib_scrd.edge.engine.Engine`.

    Args:
        path: The .onnx file.
        hint: ``throughput``: as many requests at once as threads, one thread each; ``latency``: one request with all
            threads.
        threads: Number of threads.
        maps: Whether anomaly maps are needed.

    Raises:
        ValueError: If ONNX Runtime is missing or refuses the file, or the file has a fixed batch of more than one
            image.
    """

    def __init__(self, path: Path, *, hint: Hint, threads: int, maps: bool) -> None:
        try:
            import onnxruntime
        except ImportError:
            msg = "engine onnxruntime needs the package onnxruntime: pip install onnxruntime"
            raise ValueError(msg) from None
        self._path = path
        self.name = f"ONNX Runtime {onnxruntime.__version__}"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1 if hint == "throughput" else threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            metadata = self._session.get_modelmeta().custom_metadata_map.get(KEY)
            names = {output.name for output in self._session.get_outputs()}
            entries = self._session.get_inputs()
            shapes = [entry.shape for entry in entries]
        except Exception as error:  # noqa: BLE001 - many types without a common base, also for names that are not text
            msg = f"ONNX Runtime cannot load {str(path)!r}: {str(error).strip().splitlines()[0]}"
            raise ValueError(msg) from None
        self.facts = ModelFacts.read(metadata, path)
        self.outputs = check_outputs(names, path, maps=maps)
        self.labels = "pred_label" in self.outputs
        if len(shapes) != 1 or len(shapes[0]) != 4:  # noqa: PLR2004
            msg = f"{str(path)!r} has inputs {shapes}; a model of this project has one, (N, 3, H, W)"
            raise ValueError(msg)
        batch, _, height, width = shapes[0]
        if isinstance(batch, int) and batch != 1:
            msg = f"{str(path)!r} takes batches of {batch} images; export it for one, or for any number"
            raise ValueError(msg)
        self._input = entries[0].name
        stated = self.facts.size if self.facts.resized_before else None
        self.size = (height, width) if isinstance(height, int) and isinstance(width, int) else stated
        self.batch = 1 if batch == 1 else batch_for(self.size, hint)
        self.parallel = threads if hint == "throughput" else 1
        self._pool = ThreadPoolExecutor(self.parallel, thread_name_prefix="onnxruntime")
        self.places = BoundedSemaphore(self.parallel + 1)

    def request(self, *, wait: bool = True) -> _Request | None:
        """See :class:`~anomalib_scrd.edge.engine.Engine`."""
        return _Request(self) if self.places.acquire(blocking=wait) else None

    def submit(self, images: np.ndarray) -> "Future[list[np.ndarray]]":
        """Run the model on (N, 3, H, W) in one of the engine's threads."""
        return self._pool.submit(self._run, images)

    def _run(self, images: np.ndarray) -> list[np.ndarray]:
        try:
            return self._session.run(self.outputs, {self._input: images})
        except Exception as error:  # noqa: BLE001 - many types without a common base
            msg = f"ONNX Runtime cannot run {str(self._path)!r}: {str(error).strip().splitlines()[0]}"
            raise ValueError(msg) from None

    def close(self) -> None:
        """Release the threads."""
        self._pool.shutdown()
