"""The table of predictions: on the console and as a CSV file."""

__all__ = ["Row", "format_table", "write_table"]

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from anomalib_scrd.atomic_files import replacing

_SHOWN = 40


class Row(NamedTuple):
    """One image.

    Attributes:
        file: Path of the image.
        score: Its score.
        label: ``anomalous``, ``normal``, or an empty string without a threshold.
        truth: The true label; an empty string if it is unknown.
        picture: Path of the picture; an empty string without one.
        patient: Pseudonym of the patient; an empty string without one.
        volume: Pseudonym of the series or volume; an empty string without one.
    """

    file: str
    score: float
    label: str
    truth: str = ""
    picture: str = ""
    patient: str = ""
    volume: str = ""


def format_table(rows: Sequence[Row]) -> str:
    """Lines with score, label and file, in the order of the rows; of more than 40 rows those with the highest scores.

    Args:
        rows: One or more images.

    Returns:
        The lines, under a heading.
    """
    shown = list(rows) if len(rows) <= _SHOWN else sorted(rows, key=lambda row: -row.score)[:_SHOWN]
    lines = [f"{'score':>8}  {'label':<9}  file"]
    lines += [f"{row.score:>8.4f}  {row.label or '-':<9}  {row.file}" for row in shown]
    if len(rows) > len(shown):
        lines.append(f"{'...':>8}  the {len(rows) - len(shown)} images with lower scores are in the CSV file")
    return "\n".join(lines)


def write_table(rows: Sequence[Row], path: Path) -> None:
    """Write all rows as CSV, without the columns patient and volume if they are empty.

    Args:
        rows: The images.
        path: File.

    Raises:
        OSError: If the file cannot be written; an earlier file of this name is then unchanged.
    """
    with replacing(path, "table") as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        empty = {name for name in ("patient", "volume") if not any(getattr(row, name) for row in rows)}
        names = [name for name in Row._fields if name not in empty]
        writer.writerow(names)
        exact = (row._replace(score=repr(row.score)) for row in rows)  # type: ignore[arg-type]
        writer.writerows([getattr(row, name) for name in names] for row in exact)
