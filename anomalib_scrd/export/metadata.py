"""Metadata of an exported file: Model API's ``model_info``, and one JSON document of this project.

Both are in OpenVINO's ``rt_info`` and in ONNX's ``metadata_props``. Model API (Geti's runtime) reads the first. The
second describes the file for other users: the range of its input, the size of the training, the thresholds, the model's
arguments and the training data.
"""

__all__ = ["DOCUMENT", "description", "write_onnx_metadata", "write_openvino_metadata"]

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path, PurePath
from typing import Any

import anomalib_scrd
from anomalib_scrd.export.resizing import network_size, resized

DOCUMENT = "anomalib_scrd"
"""Key of the JSON document."""

_FORMAT = 1
_OUTPUTS = ("pred_score", "pred_label", "anomaly_map", "pred_mask")
_RANGE = 255  # range of Model API's pixels
_PROBES = ((61, 89), (89, 61))
_ROUNDING = 1e-4


def description(model: Any, fixed_size: tuple[int, int] | None) -> dict[str, Any]:
    """Describe a model for the users of its exported file.

    Args:
        model: ``ScaleAwareCRD``.
        fixed_size: (height, width) of the only images that the file takes; None if it takes any.

    Returns:
        The document, of plain values. ``input.height`` and ``input.width`` are the size to which the graph resizes, or
        ``fixed_size``. ``input.resized_before`` is True if images that were resized to it beforehand, with
        anti-aliasing, get the same scores and a map of the complete image; False if the pre-processor crops.
    """
    post = model.post_processor
    transform = getattr(model.pre_processor, "transform", None)
    size = fixed_size or network_size(transform)
    resizes = transform is not None and (fixed_size is None or _changes(transform, fixed_size))
    height, width = (None, None) if size is None else size
    labels = post is not None and getattr(post, "enable_thresholding", True) and getattr(post, "has_thresholds", True)
    image, pixel = _thresholds(post) if labels else (None, None)
    thresholds = {
        "image": image,
        "pixel": pixel,
        "false_alarm_rate": _number(getattr(post, "false_alarm_rate", None)) if labels else None,
    }
    return {
        "format": _FORMAT,
        "version": anomalib_scrd.__version__,
        "input": {
            "range": [0, 1],
            "layout": "NCHW",
            "height": height,
            "width": width,
            "resize": "in graph, anti-aliased" if resizes else "none",
            "resized_before": size is not None and _may_be_resized_before(transform, size),
        },
        "window": _plain(getattr(model, "window", None)),
        "thresholds": thresholds,
        "normalized": bool(getattr(post, "enable_normalization", False)),
        "outputs": list(_OUTPUTS if labels else _OUTPUTS[::2]),
        "arguments": _plain(dict(model.hparams)) | _tiling(model),
        "training": _plain(model.training_facts),
    }


def write_openvino_metadata(model: Any, document: Mapping[str, Any], *, any_size: bool) -> None:
    """Write both parts to an OpenVINO model.

    Args:
        model: ``openvino.Model``; changed in place.
        document: From :func:`description`.
        any_size: Whether the model takes images of any size.
    """
    for name, value in _model_info(document, any_size=any_size).items():
        model.set_rt_info(value, ["model_info", name])
    model.set_rt_info(json.dumps(document), DOCUMENT)


def write_onnx_metadata(path: Path, document: Mapping[str, Any], *, any_size: bool) -> None:
    """Write both parts to an ONNX file.

    The exporter's notes on each node are removed: they contain paths of the exporting machine. So are inputs that no
    node reads.

    Args:
        path: The file; changed in place. Weights in a separate file stay there.
        document: From :func:`description`.
        any_size: Whether the model takes images of any size.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    entries = {f"model_info {name}": value for name, value in _model_info(document, any_size=any_size).items()}
    for name, value in (entries | {DOCUMENT: json.dumps(document)}).items():
        model.metadata_props.add(key=name, value=value)
    for node in (*model.graph.node, *(node for function in model.functions for node in function.node)):
        del node.metadata_props[:]
    read = {name for node in model.graph.node for name in node.input}
    for unread in [entry for entry in model.graph.input if entry.name not in read]:
        model.graph.input.remove(unread)
    onnx.save(model, path)


def _model_info(document: Mapping[str, Any], *, any_size: bool) -> dict[str, str]:
    """Configuration of Model API's ``AnomalyDetection``.

    Model API recognises the model by its outputs, even without an entry. If its scores would differ from the
    training's, the entry is an unknown type, whose name gives the reason in Model API's error message.
    """
    if not any_size:
        return {"model_type": "none: the file takes images of one size, and Model API resizes without anti-aliasing"}
    if "pred_label" not in document["outputs"]:
        return {"model_type": "none: the file has no threshold, and Model API needs labels"}
    if not document["normalized"]:
        return {"model_type": "none: scores and maps of the file are raw, and Model API needs them in [0, 1]"}
    thresholds = document["thresholds"]
    return {
        "model_type": "AnomalyDetection",
        "task": "segmentation",
        "labels": "Normal Anomaly",
        "image_threshold": str(thresholds["image"]),
        "pixel_threshold": str(thresholds["pixel"]),
        "normalization_scale": "1.0",  # scores and maps are normalised in the graph
        "resize_type": "standard",
        "scale_values": " ".join([f"{_RANGE:.1f}"] * 3),
        "reverse_input_channels": "False",  # RGB, as the training's images
    }


def _changes(transform: Any, size: tuple[int, int]) -> bool:
    """Whether a transform changes the size of images of this size."""
    import torch

    return tuple(transform(torch.zeros(1, 3, *size)).shape[-2:]) != tuple(size)


def _may_be_resized_before(transform: Any, size: tuple[int, int]) -> bool:
    """Whether a transform gives the same result for an image resized beforehand with anti-aliasing."""
    import torch

    if transform is None:
        return True
    images = [torch.rand(1, 3, *probe, generator=torch.Generator().manual_seed(0)) for probe in _PROBES]
    pairs = [(transform(resized(x, size)), transform(x)) for x in images]
    # A resize that keeps the aspect ratio gives another shape.
    return all(one.shape == other.shape and torch.allclose(one, other, atol=_ROUNDING) for one, other in pairs)


def _tiling(model: Any) -> dict[str, Any]:
    """Tiles of the graph; empty without tiles."""
    tiling = getattr(model.model, "tiling", None)
    return {} if tiling is None else {"tiling": tiling.to_dict()}


def _thresholds(post: Any) -> tuple[float | None, float | None]:
    """Thresholds of score and map in the unit of the outputs."""
    if hasattr(post, "output_thresholds"):
        image, pixel = post.output_thresholds
    else:
        prefix = "normalized_" if getattr(post, "enable_normalization", True) else ""
        image, pixel = (getattr(post, f"{prefix}{part}_threshold", None) for part in ("image", "pixel"))
    return _number(image), _number(pixel)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _plain(value: Any) -> Any:
    """Convert a value to JSON types, without paths of this machine."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    text = value.name if isinstance(value, Enum) else str(value)
    return PurePath(text).name if PurePath(text).is_absolute() else text
