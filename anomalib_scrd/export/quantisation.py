"""INT8 export with quantised activations: the networks are quantised, what compares them is not.

anomalib quantises the whole graph. The product of two squared norms under the root of the cosine then has 256 steps,
most positions round to zero, and every image gets the same map and score. The map itself does not fit either: its
range is calibrated on mostly normal images, and what stands out is clipped.
"""

__all__ = ["comparison_nodes", "quantise", "quantise_with_accuracy_control"]

from collections.abc import Iterable
from typing import Any

import torch
from anomalib.data import AnomalibDataModule, ImageBatch
from anomalib.metrics import F1Score
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader
from torchmetrics import Metric
from torchvision.transforms.v2.functional import resize


def comparison_nodes(model: Any) -> list[str]:
    """Names of the nodes that stay in floating point: the cosine and everything computed from it.

    They are what flows out of sums over channels, and the products that are summed. A backbone with such sums of its
    own would lose its speed behind them, never its scores.

    Args:
        model: ``openvino.Model``.

    Returns:
        Names, sorted.
    """
    waiting = []
    for node in model.get_ops():
        if node.get_type_name() == "ReduceSum":
            waiting += [node, node.input_value(0).get_node()]
    names: set[str] = set()
    while waiting:
        node = waiting.pop()
        if node.get_friendly_name() not in names and node.get_type_name() != "Result":
            names.add(node.get_friendly_name())
            waiting += [target.get_node() for output in node.outputs() for target in output.get_target_inputs()]
    return sorted(names)


def quantise(model: Any, datamodule: AnomalibDataModule | None) -> Any:
    """Post-training quantisation (``INT8_PTQ``).

    Args:
        model: ``openvino.Model``.
        datamodule: Its validation images calibrate the ranges.

    Returns:
        The quantised model.

    Raises:
        ValueError: If there are no validation images.
    """
    import nncf

    images = nncf.Dataset(_validation(datamodule, model, "INT8_PTQ"), lambda batch: _fitting(batch.image, model))
    return nncf.quantize(model, images, ignored_scope=_ignored(model))


def quantise_with_accuracy_control(
    model: Any,
    datamodule: AnomalibDataModule | None,
    metric: Metric | None,
    max_drop: float,
) -> Any:
    """Quantisation that takes operations back until a metric is near enough to the original's (``INT8_ACQ``).

    anomalib's own version never resets the metric: what it compares is the mean over all its trials so far.

    Args:
        model: ``openvino.Model``.
        datamodule: Its validation images calibrate the ranges, its test images are scored.
        metric: An anomalib metric, higher is better; None takes the F1 score of images.
        max_drop: Largest drop of the metric, in [0, 1].

    Returns:
        The quantised model.

    Raises:
        ValueError: If there are no validation images, or max_drop is out of range.
    """
    import nncf

    if not 0 <= max_drop <= 1:
        msg = f"max_drop must lie in [0, 1], got {max_drop}"
        raise ValueError(msg)
    validation = _validation(datamodule, model, "INT8_ACQ")
    metric = F1Score(fields=["pred_label", "gt_label"]) if metric is None else metric

    def measure(compiled: Any, batches: Iterable[ImageBatch]) -> tuple[float, None]:
        metric.reset()
        for batch in batches:
            image = _fitting(batch.image, model)
            outputs = compiled(image.numpy())
            predictions: dict[str, Any] = {
                name: torch.from_numpy(outputs[name])
                for name in ("pred_score", "pred_label", "anomaly_map", "pred_mask")
                if name in outputs
            }
            mask = batch.gt_mask
            if mask is not None:
                mask = F.interpolate(mask[:, None].float(), size=image.shape[-2:])[:, 0].bool()
            metric.update(ImageBatch(image=image, gt_label=batch.gt_label, gt_mask=mask, **predictions))
        return float(metric.compute()), None

    return nncf.quantize_with_accuracy_control(
        model,
        nncf.Dataset(validation, lambda batch: _fitting(batch.image, model)),
        nncf.Dataset(datamodule.test_dataloader()),  # type: ignore[union-attr]  # _validation refuses None
        measure,
        max_drop=max_drop,
        ignored_scope=_ignored(model),
    )


def _ignored(model: Any) -> Any:
    import nncf

    # The names lie in OpenVINO's graph; NNCF's leaves out nodes that only compute shapes.
    return nncf.IgnoredScope(names=comparison_nodes(model), validate=False)


def _validation(datamodule: AnomalibDataModule | None, model: Any, kind: str) -> DataLoader:
    """Loader of the validation images, in the batches that the model takes."""
    if datamodule is not None:
        datamodule.setup("fit")
    if datamodule is None or not hasattr(datamodule, "val_data"):
        msg = f"{kind} needs a datamodule with validation images, got {datamodule!r}"
        raise ValueError(msg)
    batch = model.input(0).partial_shape[0]
    if batch.is_static:
        datamodule.eval_batch_size = batch.get_length()
    return datamodule.val_dataloader()


def _fitting(images: Any, model: Any) -> torch.Tensor:
    """Images, (B, 3, H, W), at the size of the model's input where that is fixed, as training resized them."""
    height, width = (model.input(0).partial_shape[axis] for axis in (2, 3))
    if height.is_dynamic or width.is_dynamic:
        return images
    return resize(images, [height.get_length(), width.get_length()], antialias=True)
