"""Groups of pictures of one patient or volume, which are never on both sides of a split."""

__all__ = ["PatientSource", "check_separate", "groups_of", "patient_finder", "split_groups"]

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pandas as pd
import torch
from pandas import DataFrame

from anomalib_scrd.imaging import PictureInfo

PatientSource = str | Mapping[str, str] | None
"""Where the identifier of a patient comes from, see :func:`patient_finder`."""

_SHOWN = 3


def patient_finder(source: PatientSource, root: Path | None) -> Callable[[PictureInfo], str]:
    """Build the function that finds the patient of a picture.

    Args:
        source: One of

            - ``dicom``: element PatientID; pictures without it have no patient;
            - ``{"pattern": expression}``: a regular expression that is searched in the file's path below ``root``; its
              first group, or the complete match, is the patient;
            - ``{"csv": path, "file": column, "patient": column}``: a table with a row for each file, by its path below
              ``root`` or its name; the columns default to ``file`` and ``patient``;
            - None: no picture has a patient.
        root: Folder that paths are relative to; None for complete paths.

    Returns:
        Function from a picture to the identifier of its patient, "" if it has none.

    Raises:
        ValueError: If ``source`` is none of these, the expression is invalid, or the table lacks a column or has
            several patients for one name.
        FileNotFoundError: If there is no such table.
    """
    if source is None:
        return lambda _: ""
    if source == "dicom":
        return lambda info: info.patient
    if isinstance(source, Mapping) and set(source) == {"pattern"}:
        return _by_pattern(source["pattern"], root)
    if isinstance(source, Mapping) and "csv" in source and set(source) <= {"csv", "file", "patient"}:
        return _by_table(Path(source["csv"]), source.get("file", "file"), source.get("patient", "patient"), root)
    allowed = 'dicom, {"pattern": expression}, {"csv": path, "file": column, "patient": column} or null'
    msg = f"patients must be {allowed}, got {source!r}"
    raise ValueError(msg)


def _relative(path: Path, root: Path | None) -> str:
    return path.relative_to(root).as_posix() if root is not None and path.is_relative_to(root) else path.as_posix()


def _by_pattern(pattern: str, root: Path | None) -> Callable[[PictureInfo], str]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        msg = f"patients pattern {pattern!r} is not a regular expression: {error}"
        raise ValueError(msg) from None

    def find(info: PictureInfo) -> str:
        match = expression.search(_relative(info.path, root))
        if match is None:
            msg = f"patients pattern {pattern!r} finds nothing in the path {str(info.path)!r}"
            raise ValueError(msg)
        found = match[1] if expression.groups else match[0]
        if found is None:
            msg = (
                f"patients pattern {pattern!r} matches the path {str(info.path)!r} without its first group, the patient"
            )
            raise ValueError(msg)
        return found

    return find


def _by_table(path: Path, file: str, patient: str, root: Path | None) -> Callable[[PictureInfo], str]:
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    missing = [column for column in (file, patient) if column not in table]
    if missing:
        msg = f"patients table {str(path)!r} lacks the columns {missing}; it has {list(table.columns)}"
        raise ValueError(msg)
    several = table.groupby(file, sort=False)[patient].unique()
    several = several[several.map(len) > 1]
    if len(several):
        shown = "; ".join(f"{name!r} has {list(values[:_SHOWN])}" for name, values in several[:_SHOWN].items())
        msg = (
            f"patients table {str(path)!r} has {len(several)} names in its column {file!r} with more than one patient: "
            f"{shown}. Give each file once, by its path below the root if names repeat"
        )
        raise ValueError(msg)
    patients = dict(zip(table[file], table[patient], strict=True))

    def find(info: PictureInfo) -> str:
        relative = _relative(info.path, root)
        for name in (relative, info.path.name):
            if name in patients:
                return patients[name]
        msg = f"patients table {str(path)!r} has no row for {relative!r} in its column {file!r}"
        raise ValueError(msg)

    return find


def groups_of(samples: DataFrame) -> pd.Series:
    """Find the group of each picture.

    Args:
        samples: Table with columns patient, volume and image_path.

    Returns:
        The patient if it is known, otherwise the volume, otherwise the file.
    """
    volume = samples.volume.where(samples.volume != "", samples.image_path)
    return samples.patient.where(samples.patient != "", volume)


def check_separate(first: DataFrame, second: DataFrame, names: tuple[str, str]) -> None:
    """Refuse two tables that share patients or volumes.

    Args:
        first: One table.
        second: The other.
        names: Names of the two tables, for the message.

    Raises:
        ValueError: If they share some; the message has their number and example files.
    """
    one, other = groups_of(first), groups_of(second)
    shared = sorted(set(one) & set(other))
    if not shared:
        return

    def example(table: DataFrame, groups: pd.Series, group: str) -> str:
        return repr(str(table.image_path[groups == group].iloc[0]))

    examples = [f"{example(first, one, group)} and {example(second, other, group)}" for group in shared[:_SHOWN]]
    msg = (
        f"{len(shared)} patients are both among the {names[0]} images ({one.nunique()} patients) and the {names[1]} "
        f"images ({other.nunique()} patients), for example in {'; '.join(examples)}. Move them to one side, or give "
        "patients null if they are different patients"
    )
    raise ValueError(msg)


def split_groups(
    samples: DataFrame,
    ratio: float,
    seed: int | None,
    must: Iterable[str] = (),
) -> tuple[list[int], list[int]]:
    """Split pictures by groups at random.

    Groups with and without anomalous pictures are split separately, so that both sides get both kinds if there are at
    least two groups of each.

    Args:
        samples: Table of pictures.
        ratio: Share of the pictures for the second side, in (0, 1), approximated by complete groups.
        seed: Seed of the choice; None for another result each time.
        must: Groups that always go to the second side; they count towards the ratio.

    Returns:
        Positions of the pictures of both sides.

    Raises:
        ValueError: If the ratio is out of range, or a side would be empty.
    """
    if not 0 < ratio < 1:
        msg = f"the ratio of a split must be between 0 and 1, got {ratio}"
        raise ValueError(msg)
    groups = groups_of(samples).reset_index(drop=True)
    anomalous = (samples.label_index.reset_index(drop=True) == 1).groupby(groups).transform("any")
    must = set(must)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    second: list[int] = []
    for kind in (False, True):
        part = groups[anomalous == kind]
        sizes = part.value_counts()
        names = list(part.unique())  # by appearance: the order of pseudonyms depends on the salt
        order = [names[index] for index in torch.randperm(len(names), generator=generator).tolist()]
        order = [name for name in order if name in must] + [name for name in order if name not in must]
        wanted, taken = ratio * len(part), 0
        for position, name in enumerate(order):
            # The last group of a kind stays on the first side, unless it is in `must`.
            fits = abs(taken + sizes[name] - wanted) <= abs(taken - wanted) and position < len(order) - 1
            if name in must or fits:
                second += part.index[part == name].tolist()
                taken += sizes[name]
    first = sorted(set(range(len(samples))) - set(second))
    if not first or not second:
        msg = (
            f"{len(samples)} images of {groups.nunique()} patients or volumes cannot be split: one side would be empty "
            f"({len(must & set(groups))} of them must be on the second side)"
        )
        raise ValueError(msg)
    return first, sorted(second)
