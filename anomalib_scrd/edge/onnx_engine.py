"""ONNX Runtime: the .onnx file of the same export, with the same metadata."""

__all__ = ["ONNXEngine"]

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import BoundedSemaphore

import numpy as np

from anomalib_scrd.edge.engine import Hint, check_outputs
from anomalib_scrd.edge.facts import KEY, ModelFacts


class _Request:
    """A request that gives its place back when its result is taken."""

    def __init__(self, names: list[str], future: "Future[list[np.ndarray]]", places: BoundedSemaphore) -> None:
        self._names = names
        self._future = future
        self._places = places

    def result(self) -> dict[str, np.ndarray]:
        """See :class:`~anomalib_scrd.edge.engine.Pending`."""
        try:
            return dict(zip(self._names, self._future.result(), strict=True))
        finally:
            self._places.release()


class ONNXEngine:
    """A model in ONNX Runtime on the CPU; see :class:`~anomalib_scrd.edge.engine.Engine`.

    Args:
        path: The .onnx file.
        hint: ``throughput``: as many requests at once as threads, one thread each; ``latency``: one with all of them.
        threads: Threads.

    Raises:
        ValueError: If ONNX Runtime is missing or refuses the file, or the file wants a batch of more than one.
    """

    def __init__(self, path: Path, *, hint: Hint, threads: int) -> None:
        try:
            import onnxruntime
        except ImportError:
            msg = "engine onnxruntime needs the package onnxruntime: pip install onnxruntime"
            raise ValueError(msg) from None
        self.name = f"ONNX Runtime {onnxruntime.__version__}"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1 if hint == "throughput" else threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001 - of many kinds, without a common one
            msg = f"ONNX Runtime cannot load {str(path)!r}: {str(error).strip().splitlines()[0]}"
            raise ValueError(msg) from None
        self.facts = ModelFacts.read(self._session.get_modelmeta().custom_metadata_map.get(KEY), path)
        self._outputs = check_outputs({output.name for output in self._session.get_outputs()}, path)
        self.labels = "pred_label" in self._outputs
        (entry,) = self._session.get_inputs()
        batch, _, height, width = entry.shape
        if isinstance(batch, int) and batch != 1:
            msg = f"{str(path)!r} takes batches of {batch} images; export it for one, or for any number"
            raise ValueError(msg)
        self._input = entry.name
        self.size = (height, width) if isinstance(height, int) and isinstance(width, int) else self.facts.size
        self.parallel = threads if hint == "throughput" else 1
        self._pool = ThreadPoolExecutor(self.parallel, thread_name_prefix="onnxruntime")
        self._places = BoundedSemaphore(self.parallel + 1)

    def submit(self, image: np.ndarray, *, wait: bool = True) -> _Request | None:
        """See :class:`~anomalib_scrd.edge.engine.Engine`."""
        if not self._places.acquire(blocking=wait):
            return None
        try:
            future = self._pool.submit(self._session.run, self._outputs, {self._input: image})
        except BaseException:
            self._places.release()
            raise
        return _Request(self._outputs, future, self._places)

    def close(self) -> None:
        """Let go of the threads."""
        self._pool.shutdown()
