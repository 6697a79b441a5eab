"""What an export costs in detection quality: exported models on the same test images, by the same metrics."""

__all__ = ["predict_exported"]

from pathlib import Path

import torch
from anomalib.models.components import AnomalibModule

from anomalib_scrd.benchmark.exported_models import FILES, export_model, openvino_core
from anomalib_scrd.benchmark.quality.config import Export
from anomalib_scrd.benchmark.quality.predictions import PredictionCollector
from anomalib_scrd.benchmark.quality.splits import Splits


@torch.no_grad()
def predict_exported(
    model: AnomalibModule, export: Export, splits: Splits, size: tuple[int, int], folder: Path
) -> PredictionCollector:
    """Export a trained model and predict the test images with the file, in float32 where it is not quantised.

    Args:
        model: The trained model.
        export: How to export it. The held-out normal images calibrate a quantisation: no test image does.
        splits: The data.
        size: (height, width) of the input.
        folder: Where a folder with the file is written.

    Returns:
        Raw scores and maps of the test images.
    """
    training, device = model.training, model.device
    try:
        path = export_model(model.cpu(), FILES[export], folder / export, size, splits.module)
    finally:
        model.to(device).train(training)
    core = openvino_core()
    predict = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    collector = PredictionCollector()
    for batch in splits.loader(splits.test):
        outputs = predict([batch.image.numpy()])
        found = {name: torch.from_numpy(outputs[name]) for name in ("pred_score", "anomaly_map")}
        collector.add(batch.update(**found))
    return collector
