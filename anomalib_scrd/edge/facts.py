"""Metadata of an exported file: one JSON document."""

__all__ = ["KEY", "ModelFacts"]

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KEY = "anomalib_scrd"
"""Key of the document in OpenVINO's ``rt_info`` and in ONNX's ``metadata_props``."""

_FORMAT = 1


@dataclass(frozen=True)
class ModelFacts:
    """The parts of the document that inference and report use; empty if a file has none.

    Args:
        version: Version of the project that wrote the file, "" if unknown.
        size: (height, width) to which the model's training resized images, None if unknown.
        resized_before: Whether images that were resized to ``size`` beforehand, with anti-aliasing, get the training's
            scores and a map of the complete image; False if the graph crops. None if unknown.
        window: Preparation of the files, see ``Preparation.from_dict`` of :mod:`anomalib_scrd.imaging`; None for plain
            8-bit images.
        image_threshold: Score above which an image is anomalous, None if the model writes raw scores.
        pixel_threshold: The same for the map.
        false_alarm_rate: Requested share of normal images above the threshold, in (0, 1), None if unknown.
        arguments: Arguments of the model's class.
        training: Facts of the training: images, steps, hashes.
    """

    version: str = ""
    size: tuple[int, int] | None = None
    resized_before: bool | None = None
    window: Mapping[str, Any] | None = None
    image_threshold: float | None = None
    pixel_threshold: float | None = None
    false_alarm_rate: float | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, text: str | None, path: Path) -> "ModelFacts":
        """Read a document.

        Args:
            text: The JSON text, None if the file has no such entry.
            path: The exported file, for messages.

        Returns:
            The facts.

        Raises:
            ValueError: If the text is not a document of this format.
        """
        if text is None:
            return cls()
        try:
            document = json.loads(text)
            version = document["format"]
        except (ValueError, KeyError, TypeError, RecursionError):
            msg = f"the metadata {KEY!r} of {str(path)!r} is damaged: it is not a JSON document with a format"
            raise ValueError(msg) from None
        if version != _FORMAT:
            msg = f"{str(path)!r} has metadata of format {version!r}; this version reads {_FORMAT}"
            raise ValueError(msg)
        try:
            entry = document.get("input") or {}
            height, width = entry.get("height"), entry.get("width")
            thresholds = document.get("thresholds") or {}
            return cls(
                version=str(document.get("version", "")),
                size=None if height is None or width is None else (_above_zero(height), _above_zero(width)),
                resized_before=entry.get("resized_before"),
                window=document.get("window"),
                image_threshold=_number(thresholds.get("image")),
                pixel_threshold=_number(thresholds.get("pixel")) or None,
                false_alarm_rate=_number(thresholds.get("false_alarm_rate")),
                arguments=dict(document.get("arguments") or {}),
                training=dict(document.get("training") or {}),
            )
        except (AttributeError, TypeError, ValueError):
            msg = f"the metadata {KEY!r} of {str(path)!r} is damaged: {text[:200]}"
            raise ValueError(msg) from None


def _above_zero(value: Any) -> int:
    if int(value) < 1:
        raise ValueError
    return int(value)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
