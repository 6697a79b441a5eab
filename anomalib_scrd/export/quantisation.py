"""INT8 export: the networks are quantised, preparation of the input and comparison of features are not.

anomalib quantises the complete graph. The product of two squared norms under the root of the cosine then has 256 steps,
most positions round to zero, and every image gets the same map and score. The map cannot be quantised either: its range
is calibrated on mostly normal images, and anomalies would be clipped.
"""

__all__ = [
    "comparison_nodes",
    "compress_weights",
    "preparation_nodes",
    "quantise",
    "quantise_with_accuracy_control",
]

from collections.abc import Callable, Iterable
from typing import Any

import torch
from anomalib.data import ImageBatch
from anomalib.metrics import F1Score
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader
from torchmetrics import Metric
from torchvision.transforms.v2.functional import resize

_CONVOLUTIONS = {"Convolution", "GroupConvolution"}


def comparison_nodes(model: Any) -> list[str]:
    """Names of the nodes after the networks that stay in floating point: the cosines and all nodes after them.

    These are the nodes after sums over channels and maxima over prototypes, and the products that enter them. If a
    backbone has such sums, its later layers stay in floating point too, which costs speed but no accuracy. The
    whitening of the teacher's features is included: a convolution whose result is both compared and processed further.

    Args:
        model: ``openvino.Model``.

    Returns:
        Names, sorted.

    Raises:
        ValueError: If the model has no such sums: it would be quantised completely.
    """
    networks = _behind(_convolutions(model), lambda _: True)
    sums = [node for node in model.get_ops() if _is_sum(node) and node.get_friendly_name() in networks]
    if not sums:
        msg = (
            "the model has no sums over channels after its convolutions, by which the comparison of teacher and "
            "student is found: it would be quantised completely, and its scores would be wrong"
        )
        raise ValueError(msg)
    nearest = [
        node for node in model.get_ops() if node.get_type_name() == "ReduceMax" and node.get_friendly_name() in networks
    ]
    products = [node.input_value(0).get_node() for node in [*sums, *nearest]]
    compared = _behind([*sums, *products], lambda _: True)
    whitening = [
        node.get_friendly_name()
        for node in _convolutions(model)
        if len({target.get_friendly_name() in compared for target in _targets(node)}) > 1
    ]
    return sorted({*compared, *whitening})


def preparation_nodes(model: Any) -> list[str]:
    """Names of the nodes before the first convolutions: resize and normalisation of the images.

    Nodes that are also after convolutions (the check of the images' range) are not included.

    Args:
        model: ``openvino.Model``.

    Returns:
        Names, sorted.
    """
    inputs = [parameter.get_node() for parameter in model.inputs]
    before = set(_behind(inputs, lambda node: node.get_type_name() not in _CONVOLUTIONS))
    return sorted(before - set(_behind(_convolutions(model), lambda _: True)))


def compress_weights(model: Any) -> Any:
    """Weights in INT8, activations in floating point (``INT8``).

    Args:
        model: ``openvino.Model``.

    Returns:
        The compressed model.

    Raises:
        ValueError: If the comparison is not found, see :func:`comparison_nodes`.
    """
    import nncf

    return nncf.compress_weights(model, ignored_scope=_ignored(model))


def quantise(model: Any, images: DataLoader) -> Any:
    """Post-training quantisation (``INT8_PTQ``).

    Args:
        model: ``openvino.Model``, for one image or for any number.
        images: Normal images for the ranges of activations, in batches of one.

    Returns:
        The quantised model.

    Raises:
        ValueError: If the comparison is not found, see :func:`comparison_nodes`.
    """
    import nncf

    return nncf.quantize(model, _dataset(images, model), ignored_scope=_ignored(model))


def quantise_with_accuracy_control(
    model: Any,
    images: DataLoader,
    labelled: DataLoader,
    *,
    metric: Metric | None,
    max_drop: float,
) -> Any:
    """Quantisation that reverts operations until a metric drops by at most ``max_drop`` (``INT8_ACQ``).

    anomalib's own version selects on the test images and never resets the metric, so that it compares the mean of all
    trials so far.

    Args:
        model: ``openvino.Model``, for one image or for any number.
        images: As for :func:`quantise`.
        labelled: Validation images for the metric, in batches of one.
        metric: An anomalib metric, higher is better; None for the F1 score of images.
        max_drop: Largest drop of the metric, in [0, 1].

    Returns:
        The quantised model.

    Raises:
        ValueError: If the comparison is not found, see :func:`comparison_nodes`.
    """
    import nncf

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
                size = predictions["anomaly_map"].shape[-2:]
                mask = F.interpolate(mask[:, None].float(), size=size)[:, 0].bool()
            metric.update(ImageBatch(image=image, gt_label=batch.gt_label, gt_mask=mask, **predictions))
        return float(metric.compute()), None

    return nncf.quantize_with_accuracy_control(
        model,
        _dataset(images, model),
        nncf.Dataset(labelled),
        measure,
        max_drop=max_drop,
        ignored_scope=_ignored(model),
    )


def _dataset(images: DataLoader, model: Any) -> Any:
    import nncf

    return nncf.Dataset(images, lambda batch: _fitting(batch.image, model).numpy())


def _ignored(model: Any) -> Any:
    import nncf

    # The names are those of OpenVINO's graph; NNCF's graph omits nodes that only compute shapes.
    return nncf.IgnoredScope(names=[*comparison_nodes(model), *preparation_nodes(model)], validate=False)


def _fitting(images: Any, model: Any) -> torch.Tensor:
    """Images, (B, 3, H, W), resized to the model's input if its size is fixed."""
    height, width = (model.input(0).partial_shape[axis] for axis in (2, 3))
    if height.is_dynamic or width.is_dynamic:
        return images
    return resize(images, [height.get_length(), width.get_length()], antialias=True)


def _convolutions(model: Any) -> list[Any]:
    return [node for node in model.get_ops() if node.get_type_name() in _CONVOLUTIONS]


def _is_sum(node: Any) -> bool:
    return node.get_type_name() == "ReduceSum"


def _behind(nodes: Iterable[Any], enter: Callable[[Any], bool]) -> set[str]:
    """Names of nodes and of all nodes after them, as far as ``enter`` allows, without the model's results."""
    waiting = list(nodes)
    names: set[str] = set()
    while waiting:
        node = waiting.pop()
        name = node.get_friendly_name()
        if name not in names and node.get_type_name() != "Result" and enter(node):
            names.add(name)
            waiting += _targets(node)
    return names


def _targets(node: Any) -> list[Any]:
    return [target.get_node() for output in node.outputs() for target in output.get_target_inputs()]
