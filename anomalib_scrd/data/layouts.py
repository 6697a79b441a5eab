"""Readers of the folder layouts of MedIAnomaly, and the table of its sets.

A reader takes the folder of one set and returns a table with a row per image; there is one reader per layout. Counts
and layouts are those of the benchmark's release (Cai et al., MedIAnomaly, arXiv 2404.04518).
"""

__all__ = ["MEDIANOMALY_SETS", "LayoutError", "find_set", "read_set"]

import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from anomalib import TaskType
from anomalib.data.utils import LabelName, Split
from pandas import DataFrame
from torchvision.datasets.folder import IMG_EXTENSIONS

logger = logging.getLogger(__name__)

_SHOWN = 5


class LayoutError(ValueError):
    """The files of a set do not have the expected layout."""


@dataclass(frozen=True)
class MedicalSet:
    """One set: reader, layout, source and number of images.

    Args:
        read: Reader of its layout.
        layout: The layout in words, for error messages.
        source: Where to get it.
        published: Number of training, normal test and anomalous test images in the release.
    """

    read: Callable[[Path], DataFrame]
    layout: str
    source: str
    published: tuple[int, int, int]


def read_set(name: str, root: Path) -> DataFrame:
    """Read the table of one set.

    Args:
        name: A key of ``MEDIANOMALY_SETS``.
        root: Folder of the set, or a folder that contains it under its name.

    Returns:
        Columns image_path, label, label_index (0 normal, 1 anomalous), mask_path ("" without a mask) and split ("train"
        or "test"); ``attrs["task"]`` is segmentation with masks, else classification.

    Raises:
        LayoutError: If the layout is not the expected one; the message has both, and the source of the set.
    """
    medical_set = MEDIANOMALY_SETS[name]
    nested = root / name
    folder = nested if nested.is_dir() else root
    try:
        table = medical_set.read(_need_folder(folder, "."))
    except LayoutError as error:
        msg = f"{name}: {error}. Expected in {str(nested)!r}: {medical_set.layout}. Get it from: {medical_set.source}"
        raise LayoutError(msg) from None
    _compare_counts(name, table, medical_set.published)
    return table


def find_set(name: str) -> str:
    """Find the name of a set in the release's spelling.

    Args:
        name: Name in any case; ISIC2018 stands for ISIC2018_Task3.

    Returns:
        A key of ``MEDIANOMALY_SETS``.

    Raises:
        ValueError: If there is no such set; the message lists all sets.
    """
    known = {key.lower(): key for key in MEDIANOMALY_SETS} | {"isic2018": "ISIC2018_Task3"}
    if name.lower() not in known:
        msg = f"name must be one of {list(MEDIANOMALY_SETS)}, got {name!r}"
        raise ValueError(msg)
    return known[name.lower()]


def _compare_counts(name: str, table: DataFrame, published: tuple[int, int, int]) -> None:
    test = table[table.split == Split.TEST.value]
    anomalous = int((test.label_index == LabelName.ABNORMAL).sum())
    found = (len(table) - len(test), len(test) - anomalous, anomalous)
    if found != published:
        logger.warning(
            "%s: found %s images (training, normal test, anomalous test), the release has %s; "
            "scores are not comparable with published ones",
            name,
            "/".join(map(str, found)),
            "/".join(map(str, published)),
        )


def _read_data_json(folder: Path) -> DataFrame:
    """Layout: images/ and data.json with {"train": {"0": [names]}, "test": {"0": [names], "1": [names]}}."""
    images, index = _need_folder(folder, "images"), _need_file(folder, "data.json")
    try:
        splits = json.loads(index.read_text(encoding="utf-8"))
        names = [splits[split][label] for split, label in (("train", "0"), ("test", "0"), ("test", "1"))]
    except ValueError as error:
        msg = f"{str(index)!r} is not valid JSON ({error})"
        raise LayoutError(msg) from None
    except (KeyError, TypeError):
        msg = f"{str(index)!r} lacks one of the lists train/0, test/0 and test/1; it has {_outline(splits)}"
        raise LayoutError(msg) from None
    if not all(isinstance(part, list) and all(isinstance(name, str) for name in part) for part in names):
        msg = f"{str(index)!r} must hold lists of file names; it has {_outline(splits)}"
        raise LayoutError(msg)
    train, normal, anomalous = ([images / name for name in part] for part in names)
    return _table(train, normal, anomalous, listed_in=index)


def _read_isic(folder: Path) -> DataFrame:
    """Layout: a folder of JPEG files and one with a CSV, for training and test each; class NV is normal."""
    parts = []
    for split in ("Training", "Test"):
        images = _need_folder(folder, f"ISIC2018_Task3_{split}_Input")
        stem = f"ISIC2018_Task3_{split}_GroundTruth"
        index = _need_file(_need_folder(folder, stem), f"{stem}.csv")
        try:
            classes = pd.read_csv(index)
        except ValueError as error:  # pandas' parser errors are ValueErrors
            msg = f"{str(index)!r} is not valid CSV ({error})"
            raise LayoutError(msg) from None
        if not {"image", "NV"} <= set(classes.columns):
            msg = f"{str(index)!r} lacks one of the columns image and NV; it has {list(classes.columns)}"
            raise LayoutError(msg)
        normal = classes.NV == 1
        parts.append([[images / f"{name}.jpg" for name in classes.image[rows]] for rows in (normal, ~normal)])
    (train, _), (test_normal, test_anomalous) = parts
    return _table(train, test_normal, test_anomalous, listed_in=folder)


def _read_camelyon(folder: Path) -> DataFrame:
    """Layout: train/good, test/good, test/Ungood."""
    train, normal, anomalous = (
        _list_images(_need_folder(folder, name)) for name in ("train/good", "test/good", "test/Ungood")
    )
    return _table(train, normal, anomalous)


def _read_brats(folder: Path) -> DataFrame:
    """Layout: train, test/normal, test/tumor, test/annotation; a mask has "seg" where its image has "flair"."""
    train, normal, anomalous = (
        _list_images(_need_folder(folder, name)) for name in ("train", "test/normal", "test/tumor")
    )
    annotation = _need_folder(folder, "test/annotation")
    masks = [annotation / path.name.replace("flair", "seg") for path in anomalous]
    missing = [str(mask) for mask in masks if not mask.is_file()]
    if missing:
        msg = (
            f"{len(missing)} of {len(masks)} images in test/tumor have no mask, expected {_first(missing)}; "
            f"test/annotation has {_first(path.name for path in annotation.iterdir())}"
        )
        raise LayoutError(msg)
    return _table(train, normal, anomalous, masks)


def _table(
    train: list[Path],
    test_normal: list[Path],
    test_anomalous: list[Path],
    masks: list[Path] | None = None,
    listed_in: Path | None = None,
) -> DataFrame:
    """The table of a set; files named in an index must exist."""
    parts = {"training": train, "normal test": test_normal, "anomalous test": test_anomalous}
    for part, paths in parts.items():
        if not paths:
            msg = f"there are no {part} images"
            raise LayoutError(msg)
    if listed_in is not None:
        _need_listed([path for paths in parts.values() for path in paths], listed_in)
    normal_count, anomalous_count = len(train) + len(test_normal), len(test_anomalous)
    table = DataFrame(
        {
            "image_path": [str(path) for path in (*train, *test_normal, *test_anomalous)],
            "label": ["normal"] * normal_count + ["abnormal"] * anomalous_count,
            "label_index": [int(LabelName.NORMAL)] * normal_count + [int(LabelName.ABNORMAL)] * anomalous_count,
            "mask_path": [""] * normal_count + ([""] * anomalous_count if masks is None else list(map(str, masks))),
            "split": [Split.TRAIN.value] * len(train)
            + [Split.TEST.value] * (normal_count + anomalous_count - len(train)),
        }
    )
    table.attrs["task"] = (TaskType.CLASSIFICATION if masks is None else TaskType.SEGMENTATION).value
    return table


def _need_listed(paths: list[Path], index: Path) -> None:
    folders = {path.parent for path in paths}
    present = {folder: {path.name for path in folder.iterdir()} for folder in folders if folder.is_dir()}
    missing = [path.name for path in paths if path.name not in present.get(path.parent, ())]
    if missing:
        msg = f"{len(missing)} of {len(paths)} images named in {str(index)!r} do not exist: {_first(missing)}"
        raise LayoutError(msg)


def _need_folder(folder: Path, name: str) -> Path:
    if not folder.is_dir():
        msg = f"{str(folder)!r} is not a folder"
        raise LayoutError(msg)
    if not (folder / name).is_dir():
        msg = f"{str(folder)!r} has no folder {name!r}; it has {_contents(folder)}"
        raise LayoutError(msg)
    return folder / name


def _need_file(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        msg = f"{str(folder)!r} has no file {name!r}; it has {_contents(folder)}"
        raise LayoutError(msg)
    return folder / name


def _list_images(folder: Path) -> list[Path]:
    """Image files of a folder, sorted, without hidden files, such as those that macOS adds to archives."""
    images = sorted(
        path for path in folder.iterdir() if path.suffix.lower() in IMG_EXTENSIONS and not path.name.startswith(".")
    )
    if not images:
        msg = f"{str(folder)!r} has no images; it has {_contents(folder)}"
        raise LayoutError(msg)
    return images


def _contents(folder: Path) -> str:
    return _first(path.name for path in folder.iterdir())


def _first(names: Iterable[str]) -> str:
    """The first few names in order, or "nothing"."""
    names = sorted(names)
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "") or "nothing"


def _outline(value: object) -> object:
    """Keys of nested dictionaries, and the types of their values."""
    if isinstance(value, dict):
        return {key: _outline(inner) for key, inner in value.items()}
    return f"{type(value).__name__} of {len(value)}" if isinstance(value, list) else type(value).__name__


_ZENODO = "Zenodo record 12677223 (MedIAnomaly-Data)"
_DATA_JSON = 'images/ and data.json with {"train": {"0": [names]}, "test": {"0": [names], "1": [names]}}'

MEDIANOMALY_SETS: dict[str, MedicalSet] = {
    "RSNA": MedicalSet(_read_data_json, _DATA_JSON, _ZENODO, (3851, 1000, 1000)),
    "VinCXR": MedicalSet(_read_data_json, _DATA_JSON, _ZENODO, (4000, 1000, 1000)),
    "BrainTumor": MedicalSet(_read_data_json, _DATA_JSON, _ZENODO, (1000, 600, 600)),
    "LAG": MedicalSet(_read_data_json, _DATA_JSON, _ZENODO, (1500, 811, 811)),
    "ISIC2018_Task3": MedicalSet(
        _read_isic,
        "ISIC2018_Task3_Training_Input/*.jpg and ISIC2018_Task3_Training_GroundTruth/"
        "ISIC2018_Task3_Training_GroundTruth.csv (columns image, NV), and both again with Test for Training",
        "the ISIC archive, challenge of 2018, Task 3, training and test data with their ground truth "
        "(not part of the Zenodo record)",
        (6705, 909, 603),
    ),
    "Camelyon16": MedicalSet(_read_camelyon, "train/good, test/good and test/Ungood", _ZENODO, (5088, 1120, 1113)),
    "BraTS2021": MedicalSet(
        _read_brats,
        'train, test/normal, test/tumor and test/annotation (a mask has "seg" where its image has "flair")',
        _ZENODO,
        (4211, 828, 1948),
    ),
}
"""The seven sets by the names of their folders."""
