"""True labels and masks of the images."""

__all__ = ["Truth"]

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

import numpy as np

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
        labels: CSV file with the columns path and label (0 or 1, normal or anomalous); None for labels by folder:
            images in a folder named ``good`` or ``normal`` are normal, and all others are anomalous if there is such a
            folder.
        masks: Folder of masks with the same relative paths as the images; None for none.
        paths: Paths of all images below their folder.

    Raises:
        ValueError: If the table lacks a column or has another label.
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
        return self._labels.get(str(path))

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
        found = next(iter(self._candidates(self._masks / path.parent, path.name.partition(".")[0])), None)
        try:
            return None if found is None else read_mask(found, info, options, orientation)
        except UnreadableImageError:
            return None

    @staticmethod
    def _candidates(folder: Path, stem: str) -> list[Path]:
        names = [stem + ending + suffix for ending in ("", "_mask") for suffix in SUFFIXES]
        return [folder / name for name in names if (folder / name).is_file()]


def _in_normal_folder(path: PurePosixPath) -> bool:
    return any(part.lower() in _NORMAL_FOLDERS for part in path.parts[:-1])


def _read_labels(path: Path) -> dict[str, bool]:
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    if rows and not {"path", "label"} <= rows[0].keys():
        msg = f"--labels {str(path)!r} needs the columns path and label, got {list(rows[0])}"
        raise ValueError(msg)
    labels = {}
    for row in rows:
        value = row["label"].strip().lower()
        if value not in _LABELS:
            msg = f"--labels {str(path)!r}: the label of {row['path']!r} must be 0 or 1, got {row['label']!r}"
            raise ValueError(msg)
        labels[row["path"]] = _LABELS[value]
    return labels
