"""Scored pictures for display: image, map and mask, turned upright."""

__all__ = ["Case", "Cases", "picture_uri"]

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from anomalib_scrd.edge.files import read_map
from anomalib_scrd.edge.inputs import Inputs
from anomalib_scrd.edge.names import Names
from anomalib_scrd.edge.records import Record
from anomalib_scrd.edge.report.truth import Truth
from anomalib_scrd.edge.resizing import resize
from anomalib_scrd.edge.sources import SourceFile
from anomalib_scrd.imaging import Orientation, PictureInfo, UnreadableImageError

_QUALITY = 80


@dataclass(frozen=True)
class Case:
    """A picture that was scored.

    Args:
        record: Its result.
        anomalous: The truth; None if it is not known.
        image: (H, W) or (H, W, 3) in [0, 1].
        anomaly_map: (H, W).
        mask: (H, W) bool, all False for a normal image; None if it is not known.
    """

    record: Record
    anomalous: bool | None
    image: np.ndarray
    anomaly_map: np.ndarray
    mask: np.ndarray | None

    def shrunk(self, side: int) -> "Case":
        """Shrink image, map and mask so that the longer side has at most ``side`` pixels.

        Args:
            side: Number of pixels.

        Returns:
            Another case, or this one if it is small enough.
        """
        height, width = self.image.shape[:2]
        factor = side / max(height, width)
        if factor >= 1:
            return self
        size = max(1, round(height * factor)), max(1, round(width * factor))
        mask = None if self.mask is None else resize(self.mask.astype(np.float32), size) >= 0.5  # noqa: PLR2004
        return Case(self.record, self.anomalous, resize(self.image, size), resize(self.anomaly_map, size), mask)


class Cases:
    """Finds and reads the files of records.

    Args:
        sources: The files that were scored.
        names: Names of files in the results.
        inputs: Reads files for the model.
        output: Folder of results.
        truth: Labels and masks of the images.
    """

    def __init__(self, sources: Iterable[SourceFile], names: Names, inputs: Inputs, output: Path, truth: Truth) -> None:
        self._sources = {names(source.relative): source for source in sources}
        self._inputs = inputs
        self._output = output
        self._truth = truth
        self._listed: dict[str, dict[int, PictureInfo]] = {}
        self._labels: dict[tuple[str, int], bool | None] = {}

    def path(self, record: Record) -> PurePosixPath | None:
        """Path of a record's file below the folder of images; None if the file was removed or has changed."""
        source = self._sources.get(record.path)
        return source.relative if source is not None and source.signature == record.signature else None

    def file(self, record: Record) -> Path | None:
        """Path of a record's file; None if the file was removed or has changed."""
        return None if self.path(record) is None else self._sources[record.path].path

    def anomalous(self, record: Record) -> bool | None:
        """Whether the picture is anomalous; None if it is not known.

        In an anomalous file with several pictures and a mask, pictures with an empty mask are normal.
        """
        key = record.path, record.picture
        if key not in self._labels:
            self._labels[key] = self._find_label(record)
        return self._labels[key]

    def _find_label(self, record: Record) -> bool | None:
        path = self.path(record)
        label = None if path is None else self._truth.label(path)
        if label and path is not None and record.volume == record.path:
            try:
                mask = self._truth.mask(path, self._info(record), self._inputs.volumes, Orientation())
            except (UnreadableImageError, KeyError):
                return label
            return label if mask is None else bool(mask.any())
        return label

    def _info(self, record: Record) -> PictureInfo:
        """Entry of the picture; a volume is listed only once, because this reads it completely."""
        if record.path not in self._listed:
            infos = self._inputs.pictures(self._sources[record.path].path)
            self._listed[record.path] = {info.index: info for info in infos}
        return self._listed[record.path][record.picture]

    def load(self, record: Record) -> Case | None:
        """Read a picture and its map.

        Args:
            record: Record of a picture that was scored with its map.

        Returns:
            The case; None if a file was removed or has changed.
        """
        path = self.path(record)
        if path is None or record.map is None:
            return None
        try:
            info = self._info(record)
            image, orientation = self._inputs.shown(info)
            anomaly_map = orientation.apply(read_map(self._output / record.map))
        except (OSError, KeyError):
            return None
        label = self.anomalous(record)
        mask = np.zeros(image.shape[:2], bool) if label is False else None
        if label:
            mask = self._truth.mask(path, info, self._inputs.volumes, orientation)
            if mask is not None and mask.shape != image.shape[:2]:
                mask = None
        return Case(record, label, image, anomaly_map, mask)


def picture_uri(pixels: np.ndarray) -> str:
    """Encode a picture as a data URI, for a page without other files.

    Args:
        pixels: (H, W) or (H, W, 3) in [0, 1], or uint8 of three or four channels.

    Returns:
        A data URI of a WebP file.
    """
    if pixels.dtype != np.uint8:
        pixels = (np.clip(pixels, 0, 1) * 255).round().astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "WEBP", quality=_QUALITY)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")
