"""Exports a model as anomalib does and opens the file with an engine."""

__all__ = ["FILES", "export_model", "file_size", "open_model", "openvino_core"]

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from anomalib.data import AnomalibDataModule
from anomalib.deploy.export import CompressionType
from anomalib.models.components import AnomalibModule

from anomalib_scrd.benchmark.speed.config import Engine, SpeedConfig
from anomalib_scrd.benchmark.speed.training_step import autocast, random_images

FILES: dict[Engine, str] = {
    "torch": "torch",
    "compile": "torch",
    "onnx": "onnx",
    "openvino-f32": "openvino",
    "openvino-bf16": "openvino",
    "openvino-int8-weights": "openvino-int8-weights",
    "openvino-int8": "openvino-int8",
}
"""Which exported file an engine reads."""

# What the exporter writes in any case; anomalib's default of 14 makes it try to go back, with a traceback.
_ONNX: dict[str, Any] = {"opset_version": 18}
_COMPRESSIONS = {
    "openvino": None,
    "openvino-int8-weights": CompressionType.INT8,
    "openvino-int8": CompressionType.INT8_PTQ,
}


def export_model(
    model: AnomalibModule, file: str, folder: Path, size: tuple[int, int], data: AnomalibDataModule | None
) -> Path:
    """Export a model by anomalib's own functions.

    Args:
        model: The model.
        file: One of the values of :data:`FILES`.
        folder: Where to; nothing else is in it.
        size: (height, width) of the input.
        data: Images for a quantisation.

    Returns:
        The file.
    """
    model.eval()
    if file == "torch":
        return model.to_torch(folder)
    if file == "onnx":
        return model.to_onnx(folder, input_size=size, **_ONNX)
    return model.to_openvino(
        folder, input_size=size, compression_type=_COMPRESSIONS[file], datamodule=data, onnx_kwargs=dict(_ONNX)
    )


def file_size(path: Path) -> int:
    """Bytes of an exported model, with the weights that lie beside it."""
    return sum(file.stat().st_size for file in path.parent.iterdir() if file.is_file())


def open_model(engine: Engine, path: Path, batch: int, size: tuple[int, int], config: SpeedConfig) -> Callable[[], Any]:
    """Load an exported model.

    Args:
        engine: What runs it.
        path: Its file.
        batch: Images of a prediction.
        size: (height, width) of the input.
        config: Device and precision of torch, threads.

    Returns:
        Predicts a batch of random images, always the same.

    Raises:
        ModuleNotFoundError: If the engine is not installed.
    """
    images = random_images(config, batch, size)
    if FILES[engine] == "torch":
        return _open_torch(path, images, config, compiled=engine == "compile")
    array = images.cpu().contiguous().numpy()
    if engine == "onnx":
        return _open_onnx(path, array)
    return _open_openvino(engine, path, array)


def _open_torch(path: Path, images: torch.Tensor, config: SpeedConfig, *, compiled: bool) -> Callable[[], Any]:
    # The file is this process's own export, and holds a whole module as anomalib writes it.
    model = torch.load(path, map_location=config.torch_device, weights_only=False)["model"].eval()
    if config.channels_last:
        model.to(memory_format=torch.channels_last)
    if compiled:
        model.compile()

    def predict() -> Any:
        with torch.inference_mode(), autocast(config.torch_device, config.precision):
            return model(images)

    return predict


def _open_onnx(path: Path, images: Any) -> Callable[[], Any]:
    if find_spec("onnxruntime") is None:
        msg = "onnxruntime is not installed: pip install 'anomalib-scrd[benchmark]'"
        raise ModuleNotFoundError(msg)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: images})


@cache
def openvino_core() -> Any:
    """OpenVINO's ``Core``, one for the whole process.

    Each core of its own would give the thread another signal stack (OpenVINO 2026.4, CPU plugin), and put the one that
    it found back at its end. Cores that end in the order in which they began leave a stack that is gone, and the next
    signal, of a child process that ends for instance, kills the process without a word.
    """
    import openvino

    return openvino.Core()


def _open_openvino(engine: Engine, path: Path, images: Any) -> Callable[[], Any]:
    core = openvino_core()
    model = core.read_model(path)
    model.reshape(list(images.shape))  # a fixed shape: what a deployment with one camera has
    precision = "bf16" if engine == "openvino-bf16" else "f32"
    properties = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    request = core.compile_model(model, "CPU", properties).create_infer_request()
    return lambda: request.infer([images], share_inputs=True)
