"""Checks for sets of images that do not allow a useful model or a meaningful score."""

__all__ = ["check_sets"]

import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomalib.data import AnomalibDataset
from anomalib.data.utils import LabelName
from anomalib.data.utils.synthetic import SyntheticAnomalyDataset
from pandas import DataFrame

from anomalib_scrd.data.medical_dataset import SyntheticMedicalDataset
from anomalib_scrd.data.validation import seeded

logger = logging.getLogger(__name__)

_LOOKED_AT = 8  # number of training images that are read
_FLAT = 1e-5  # a resized image of one colour has rounding errors; less than a level of 16 bits
_HASHED = 2**16  # bytes at each end of a file


def check_sets(training: Any, validation: Any, test: Any, *, held_out: bool = False) -> None:
    """Check the sets of a training.

    Args:
        training: Data set of normal images; only anomalib's data sets are checked.
        validation: Data set for thresholds, or None.
        test: Data set for the scores, or None.
        held_out: Whether thresholds come from held-out training images; the validation set then needs no normal images.

    Raises:
        ValueError: If the training images are all equal or of a single colour, or every anomalous image is also a
            normal one. Milder cases are logged as warnings.
    """
    if isinstance(training, AnomalibDataset) and len(training):
        _check_training(training)
    if not held_out:
        _check_validation(validation)
    _check_contents(training, validation, test)


def _check_training(training: AnomalibDataset) -> None:
    count = len(training)
    if count == 1:
        logger.warning(
            "the training set has one image, %r: every image that differs from it will be called anomalous",
            str(training.samples.image_path[0]),
        )
    chosen = np.unique(np.linspace(0, count - 1, min(count, _LOOKED_AT)).round().astype(int))
    with seeded(0):  # augmentations draw from the global random states, which are restored
        images = [torch.as_tensor(training[int(index)].image) for index in chosen]
    which = "all training images" if len(images) == count else f"all of {len(images)} training images that were checked"
    if all(float(image.max() - image.min()) < _FLAT for image in images):
        colour = "black" if all(float(image.max()) < _FLAT for image in images) else "of a single colour"
        msg = f"{which} are {colour}, {str(training.samples.image_path[0])!r} among them: there is nothing to learn"
        raise ValueError(msg)
    if len(images) > 1 and all(image.shape == images[0].shape and torch.equal(image, images[0]) for image in images):
        msg = f"{which} are equal, {str(training.samples.image_path[0])!r} among them: there is nothing to learn"
        raise ValueError(msg)


def _check_validation(validation: Any) -> None:
    samples = _real_samples(validation)
    if samples is None or not len(samples):
        return
    if len(samples) == 1:
        logger.warning(
            "the validation set has one image, %r: a threshold from it is meaningless; give another val_split_mode or "
            "val_split_ratio",
            str(samples.image_path.iloc[0]),
        )
    elif (samples.label_index == LabelName.ABNORMAL).all():
        logger.warning(
            "the validation set has %d anomalous images and no normal ones: with a threshold from it every image is "
            "anomalous; give normal_test_dir, or another val_split_mode",
            len(samples),
        )


def _check_contents(training: Any, validation: Any, test: Any) -> None:
    """Find the same file in two sets, or under two labels."""
    sets = {"training": training, "validation": validation, "test": test}
    tables = {name: samples for name, data in sets.items() if (samples := _real_samples(data)) is not None}
    labels: dict[str, set[int]] = defaultdict(set)
    places: dict[str, set[str]] = defaultdict(set)
    for name, samples in tables.items():
        for path, label in zip(samples.image_path.astype(str), samples.label_index, strict=True):
            labels[path].add(int(label))
            places[path].add(name)
    both_labels, in_training = [], []
    for group in _same_content(labels):
        both_labels += [(path, path) for path in group if len(labels[path]) > 1]
        both_labels += [pair for pair in combinations(group, 2) if labels[pair[0]] != labels[pair[1]]]
        inside = [path for path in group if "training" in places[path]]
        outside = [path for path in group if places[path] - {"training"}]
        if inside and outside:
            in_training.append((inside[0], outside[-1]))
    if both_labels:
        first, second = both_labels[0]
        text = (
            f"{len(both_labels)} files are among the normal and among the anomalous images, for example {first!r} and "
            f"{second!r}, which have the same content"
        )
        anomalous = {path for path, values in labels.items() if LabelName.ABNORMAL in values}
        if anomalous <= {path for pair in both_labels for path in pair}:
            msg = f"{text}; these are all anomalous images: do abnormal_dir and normal_dir have the same images?"
            raise ValueError(msg)
        logger.warning("%s: no score can be correct for both", text)
    if in_training:
        first, second = in_training[0]
        logger.warning(
            "%d training images are in the validation or test set as well, for example %r as %r: scores on them do not "
            "predict scores on new images",
            len(in_training),
            first,
            second,
        )


def _real_samples(data: Any) -> DataFrame | None:
    """Table of a data set of image files; None for synthetic anomalies."""
    if not isinstance(data, AnomalibDataset) or isinstance(data, (SyntheticAnomalyDataset, SyntheticMedicalDataset)):
        return None
    samples = data.samples
    return samples if {"image_path", "label_index"} <= set(samples.columns) else None


def _same_content(paths: Iterable[str]) -> list[list[str]]:
    """Groups of files with the same size and the same bytes at both ends; a file in two sets is one group."""
    by_size: dict[int, list[str]] = defaultdict(list)
    for path in paths:
        if Path(path).is_file():
            by_size[Path(path).stat().st_size].append(path)
    groups: list[list[str]] = []
    for size, files in by_size.items():
        if len(files) == 1:
            groups.append(files)
            continue
        by_content: dict[str, list[str]] = defaultdict(list)
        for path in files:
            by_content[_ends(path, size)].append(path)
        groups += by_content.values()
    return groups


def _ends(path: str, size: int) -> str:
    with Path(path).open("rb") as file:
        digest = hashlib.blake2b(file.read(_HASHED))
        file.seek(max(0, size - _HASHED))
        digest.update(file.read(_HASHED))
    return digest.hexdigest()
