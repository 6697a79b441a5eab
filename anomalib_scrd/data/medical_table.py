"""The table of pictures of a folder data set: files, labels, masks and patients."""

__all__ = ["MedicalSource", "read_table"]

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from anomalib import TaskType
from anomalib.data.utils import LabelName, Split
from pandas import DataFrame

from anomalib_scrd.imaging import BadFiles, PictureInfo, Pseudonyms, VolumeOptions, list_files, survey
from anomalib_scrd.imaging.files import SUFFIXES
from anomalib_scrd.imaging.masks import read_mask

logger = logging.getLogger(__name__)

_SHOWN = 5
Folders = str | Path | Sequence[str | Path] | None


@dataclass(frozen=True)
class MedicalSource:
    """Folders of the pictures; arguments as in anomalib's ``Folder``, paths relative to ``root``.

    Args:
        root: Folder that the others are relative to; None for the working directory.
        normal_dir: Folders of normal training images.
        abnormal_dir: Folders of anomalous test images.
        normal_test_dir: Folders of normal test images.
        mask_dir: Folders of masks of the anomalous images.
        extensions: Suffixes of the files to take; None for all that can be read.
        volumes: Which slices of a volume are taken.
    """

    root: Path | None
    normal_dir: Folders
    abnormal_dir: Folders = None
    normal_test_dir: Folders = None
    mask_dir: Folders = None
    extensions: tuple[str, ...] | None = None
    volumes: VolumeOptions = field(default_factory=VolumeOptions)

    def files(self, folders: Folders, name: str) -> list[Path]:
        """List the files of folders.

        Args:
            folders: The folders.
            name: Name of the argument, for error messages.

        Returns:
            Sorted within each folder; empty for None.

        Raises:
            FileNotFoundError: If a folder does not exist.
            ValueError: If a folder has no file with an accepted suffix.
        """
        found: list[Path] = []
        for folder in [] if folders is None else [folders] if isinstance(folders, (str, Path)) else folders:
            path = (self.root or Path()) / folder
            if not path.is_dir():
                msg = f"{name} {str(path)!r} is not a folder"
                raise FileNotFoundError(msg)
            wanted = None if self.extensions is None else tuple(suffix.lower() for suffix in self.extensions)
            files = [file for file in list_files(path) if wanted is None or file.name.lower().endswith(wanted)]
            if not files:
                kind = "a known suffix" if wanted is None else f"one of the suffixes {list(wanted)}"
                msg = f"{name} {str(path)!r} has no image: no file in it has {kind}"
                raise ValueError(msg)
            found += files
        return found


def read_table(
    source: MedicalSource,
    patient_of: Callable[[PictureInfo], str],
    pseudonyms: Pseudonyms,
    bad_files: BadFiles,
) -> DataFrame:
    """Read the table of a data set.

    Args:
        source: Folders of the pictures.
        patient_of: Function from a picture to the identifier of its patient.
        pseudonyms: Replaces the identifiers.
        bad_files: Handles files that cannot be read.

    Returns:
        A row per picture: image_path (the file), picture and pictures (its number, and how many the file has),
        eight_bit, label, label_index (0 normal, 1 anomalous), mask_path ("" without), split ("train" or "test"),
        patient and volume (pseudonyms, "" without); ``attrs["task"]`` is segmentation with masks, else classification.
        In a volume with a mask, slices with an empty mask are normal.

    Raises:
        ValueError: If folders, masks or patients do not match.
        UnreadableImageError: If files cannot be read.
    """
    parts = (
        (source.normal_dir, "normal_dir", Split.TRAIN, LabelName.NORMAL),
        (source.normal_test_dir, "normal_test_dir", Split.TEST, LabelName.NORMAL),
        (source.abnormal_dir, "abnormal_dir", Split.TEST, LabelName.ABNORMAL),
    )
    abnormal = source.files(source.abnormal_dir, "abnormal_dir")
    masks = pair_masks(abnormal, source.files(source.mask_dir, "mask_dir")) if abnormal and source.mask_dir else {}
    rows = []
    for folders, name, split, label in parts:
        for info in survey(source.files(folders, name), source.volumes, bad_files):
            mask = masks.get(info.path)
            empty = mask is not None and info.count > 1 and not read_mask(mask, info, source.volumes).any()
            value = LabelName.NORMAL if empty else label
            rows.append(
                {
                    "image_path": str(info.path),
                    "picture": info.index,
                    "pictures": info.count,
                    "eight_bit": info.eight_bit,
                    "label": "normal" if value == LabelName.NORMAL else "abnormal",
                    "label_index": int(value),
                    "mask_path": "" if mask is None or empty else str(mask),
                    "split": split.value,
                    "patient": pseudonyms.of(patient_of(info)),
                    "volume": pseudonyms.of(info.volume),
                }
            )
    if bad_files.left_out:
        logger.warning(bad_files.report())
    if not any(row["split"] == Split.TRAIN.value for row in rows):
        msg = f"no image of normal_dir can be read: {bad_files.report()}"
        raise ValueError(msg)
    table = DataFrame(rows)
    table.attrs["task"] = (TaskType.SEGMENTATION if masks else TaskType.CLASSIFICATION).value
    return table


def pair_masks(images: list[Path], masks: Iterable[Path]) -> dict[Path, Path]:
    """Find the mask of each anomalous image: the file of the same name, or of this name continued by _ - or a dot.

    A mask that fits several images belongs to the one of the longest name.

    Args:
        images: Anomalous images.
        masks: Masks.

    Returns:
        Mask by image.

    Raises:
        ValueError: If images have no mask, or more than one; the message names them.
    """
    stems = {_stem(image) for image in images}
    exact: dict[str, list[Path]] = {}
    continued: dict[str, list[Path]] = {}
    for mask in masks:
        stem = _stem(mask)
        if stem in stems:
            exact.setdefault(stem, []).append(mask)
            continue
        # The image of the longest fitting name: "p1_2_mask" is of p1_2, and not of p1.
        starts = (stem[:end] for end in range(len(stem) - 1, 0, -1) if stem[end] in "_-.")
        continued.setdefault(next((start for start in starts if start in stems), ""), []).append(mask)
    pairs: dict[Path, Path] = {}
    missing: list[Path] = []
    several: list[Path] = []
    for image in images:
        stem = _stem(image)
        found = exact.get(stem) or continued.get(stem, [])
        if len(found) > 1:  # the same names in several folders
            found = [mask for mask in found if mask.parent.name == image.parent.name] or found
        if len(found) == 1:
            pairs[image] = found[0]
        else:
            (several if found else missing).append(image)
    for files, problem in ((missing, "no mask"), (several, "more than one mask of their name")):
        if files:
            shown = ", ".join(repr(str(file)) for file in files[:_SHOWN]) + (" ..." if len(files) > _SHOWN else "")
            msg = f"{len(files)} of {len(images)} images in abnormal_dir have {problem} in mask_dir: {shown}"
            raise ValueError(msg)
    return pairs


def _stem(path: Path) -> str:
    """The name without a known suffix; the end of a name such as IM.0001 is no suffix."""
    name = path.name
    return next((name[: -len(suffix)] for suffix in SUFFIXES if name.lower().endswith(suffix)), name)
