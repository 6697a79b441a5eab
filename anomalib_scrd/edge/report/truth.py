"""True labels and masks of the images."""

__all__ = ["Truth"]

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from anomalib_scrd.edge.records import as_cell
from anomalib_scrd.imaging import UnreadableImageError
from anomalib_scrd.imaging.files import SUFFIXES
from anomalib_scrd.imaging.masks import read_mask
from anomalib_scrd.imaging.orientation import Orientation
from anomalib_scrd.imaging.picture import PictureInfo
from anomalib_scrd.imaging.volumes import VolumeOptions

_NORMAL_FOLDERS = {"good", "normal"}
_LABELS = {"0": False, "normal": False, "good": False, "false": False} | {"1": True, "anomalous": True, "true": True}


class Truth:
    """Labels by folder or from a table, and masks.

    Args:
        labels: CSV file with the columns path, as it is or as in ``scores.csv``, and label (0 or 1, normal or
            anomalous); None for labels by folder: images in a folder named ``good`` or ``normal`` are normal, and all
            others are anomalous if there is such a folder.
        masks: Folder of masks with the same relative paths as the images, which may have another suffix of images, and
            ``_mask`` before it; None for none.
        paths: Paths of all images below their folder.

    Raises:
        ValueError: If the table lacks a column, has another label or none, or two different ones of an image.
        OSError: If the table cannot be read.
    """

    def __init__(self, labels: Path | None, masks: Path | None, paths: Iterable[PurePosixPath]) -> None:
        self._masks = masks
        self._labels: Mapping[str, bool] = (
            {str(path): not _in_normal_folder(path) for path in paths} if labels is None else _read_labels(labels)
        )
        if labels is None and all(self._labels.values()):
            self._labels = {}

    def label(self, path: PurePosixPath) -> bool | None:
        """Whether an image is anomalous.

        Args:
            path: The image's path below the folder of images.

        Returns:
            None if it is not known.
        """
        name = str(path)
        return self._labels.get(name, self._labels.get(as_cell(name)))

    def mask(
        self, path: PurePosixPath, info: PictureInfo, options: VolumeOptions, orientation: Orientation
    ) -> np.ndarray | None:
        """Mask of a picture of an anomalous image.

        Args:
            path: The image's path below the folder of images.
            info: The picture.
            options: Options of volumes with which it was listed.
            orientation: Its orientation.

        Returns:
            (H, W) bool in the display's order; None if there is no readable mask.
        """
        if self._masks is None:
            return None
        found = next(iter(self._candidates(self._masks / path.parent, path.name)), None)
        try:
            return None if found is None else read_mask(found, info, options, orientation)
        except UnreadableImageError:
            return None

    @staticmethod
    def _candidates(folder: Path, name: str) -> list[Path]:
        """Masks of a file: of its name, otherwise of its stem, which may have dots: ``scan.1.png``, ``IM.0001``."""
        suffix = max((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), key=len, default="")
        stem = name[: len(name) - len(suffix)]
        names = [name, *(stem + ending + other for ending in ("", "_mask") for other in SUFFIXES)]
        return [folder / name for name in names if (folder / name).is_file()]


def _in_normal_folder(path: PurePosixPath) -> bool:
    return any(part.lower() in _NORMAL_FOLDERS for part in path.parts[:-1])


def _read_labels(path: Path) -> dict[str, bool]:
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        reader = csv.DictReader(file)
        columns = list(reader.fieldnames or ())
        rows = list(reader)
    if not {"path", "label"} <= set(columns):
        msg = f"--labels {str(path)!r} needs the columns path and label, got {columns}"
        raise ValueError(msg)
    labels: dict[str, bool] = {}
    for row in rows:
        name, given = row["path"], row["label"]
        if name is None or given is None:  # the row is too short
            msg = f"--labels {str(path)!r}: a row must have a path and a label, got path {name!r} and label {given!r}"
            raise ValueError(msg)
        label = _LABELS.get(given.strip().lower())
        if label is None:
            msg = f"--labels {str(path)!r}: the label of {name!r} must be 0 or 1, got {given!r}"
            raise ValueError(msg)
        if labels.setdefault(name, label) != label:
            msg = f"--labels {str(path)!r}: {name!r} has both labels, 0 and 1: one row per image is allowed"
            raise ValueError(msg)
    return labels
