"""Exports models with anomalib and opens the files with an engine."""

__all__ = ["export_model", "file_of", "file_size", "open_file", "openvino_core", "predict_file"]

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomalib.data import AnomalibDataModule
from anomalib.deploy.export import CompressionType
from anomalib.models.components import AnomalibModule
from numpy.typing import NDArray

from anomalib_scrd.export.openvino_core import openvino_core

# The exporter always writes this opset; anomalib's default of 14 causes a failing conversion with a traceback.
_ONNX: dict[str, Any] = {"opset_version": 18}
_COMPRESSIONS = {"openvino-int8-weights": CompressionType.INT8, "openvino-int8": CompressionType.INT8_PTQ}


def file_of(engine: str) -> str:
    """The engine whose file this one reads: bfloat16 is only a hint to OpenVINO, without its own file."""
    return "openvino-f32" if engine == "openvino-bf16" else engine


def export_model(
    model: AnomalibModule, engine: str, folder: Path, size: tuple[int, int], data: AnomalibDataModule | None
) -> Path:
    """Export a model by anomalib's functions; its device and its mode are restored.

    Args:
        model: The model.
        engine: Engine that will open the file: onnx, openvino-f32, openvino-int8-weights or openvino-int8.
        folder: Folder for the file only.
        size: (height, width) of the input.
        data: Data module whose validation images calibrate ``openvino-int8``.
    """
    training, device = model.training, model.device
    try:
        model.cpu().eval()
        if engine == "onnx":
            return model.to_onnx(folder, input_size=size, **_ONNX)
        compression = _COMPRESSIONS.get(engine)
        return model.to_openvino(
            folder, input_size=size, compression_type=compression, datamodule=data, onnx_kwargs=dict(_ONNX)
        )
    finally:
        model.to(device).train(training)


def file_size(path: Path) -> int:
    """Bytes of an exported model, including separate files of weights."""
    return sum(file.stat().st_size for file in path.parent.iterdir() if file.is_file())


def open_file(engine: str, path: Path, images: NDArray[np.float32], threads: int) -> Callable[[], Any]:
    """Load an exported model on the CPU; return a function that predicts the images, (B, 3, H, W)."""
    if engine == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda: session.run(None, {name: images})
    model = openvino_core().read_model(path)
    model.reshape(list(images.shape))  # a fixed shape, as in a deployment with one camera
    precision = "bf16" if engine == "openvino-bf16" else "f32"
    properties = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads}
    request = openvino_core().compile_model(model, "CPU", properties).create_infer_request()
    return lambda: request.infer([images], share_inputs=True)


def predict_file(path: Path, batches: Iterable[Any]) -> Iterator[Any]:
    """Predict batches with an OpenVINO file, in float32 if it is not quantised; yield them with scores and maps."""
    core = openvino_core()
    predict = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for batch in batches:
        outputs = predict([batch.image.numpy()])
        yield batch.update(**{name: torch.from_numpy(outputs[name]) for name in ("pred_score", "anomaly_map")})
