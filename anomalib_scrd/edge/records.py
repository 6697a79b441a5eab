"""The result of a picture, as a line of JSON and a row of CSV."""

__all__ = ["COLUMNS", "Record", "Signature", "as_cell", "as_row"]

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, NamedTuple


class Signature(NamedTuple):
    """Size and time of a file, which change when the file is replaced.

    Attributes:
        size: Bytes.
        mtime_ns: Time of the last change, nanoseconds.
    """

    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Record:
    """One picture, or a file that could not be read.

    Args:
        path: Name of the file: its path below the folder of images, or a hash of it.
        picture: Number of the picture in its file.
        pictures: Number of pictures of the file that are scored.
        score: The model's score; None for a file that could not be read.
        anomalous: Whether it is above the threshold; None without one.
        height: Rows of the picture in the file.
        width: Columns.
        size: Bytes of the file.
        mtime_ns: Time of its last change.
        map: Path of the anomaly map, relative to the folder of results; None if none was requested.
        overlay: Path of the picture with the map, likewise.
        patient: Pseudonym of the patient, None without a salt or an identifier in the file.
        volume: Name shared by the pictures of one volume: the file's name if a file has several pictures, otherwise,
            with a salt, the pseudonym of its DICOM series; None for a single picture.
        error: Why the file could not be read, or its maps not be written under its name; None if they could.
    """

    path: str
    picture: int = 0
    pictures: int = 1
    score: float | None = None
    anomalous: bool | None = None
    height: int | None = None
    width: int | None = None
    size: int = 0
    mtime_ns: int = 0
    map: str | None = None
    overlay: str | None = None
    patient: str | None = None
    volume: str | None = None
    error: str | None = None

    @property
    def signature(self) -> Signature:
        """Size and time of the file."""
        return Signature(self.size, self.mtime_ns)

    def to_json(self) -> str:
        """One line of JSON with a line end; entries that are None are left out."""
        # Not asdict, whose deep copies take as long as reading a small image.
        return json.dumps({key: value for key in _FIELDS if (value := getattr(self, key)) is not None}) + "\n"

    @classmethod
    def from_json(cls, line: str | bytes) -> "Record | None":
        """Read a line.

        Args:
            line: Line of a file of results.

        Returns:
            The record; None for an incomplete line, which a killed process may leave.
        """
        try:
            document: dict[str, Any] = json.loads(line)
            return cls(**{name: document[name] for name in _NAMES & document.keys()})
        except (ValueError, TypeError, AttributeError):
            return None

    def to_csv(self) -> str:
        """One row of CSV with a line end, in the order of ``COLUMNS``."""
        return as_row(getattr(self, name) for name in COLUMNS)


def as_row(values: Iterable[object]) -> str:
    """One row of CSV.

    Args:
        values: Text, which becomes :func:`as_cell`, numbers, and None for an empty cell.

    Returns:
        The row with a line end.
    """
    text = io.StringIO()
    # A writer quotes the characters of its line end: names may have either.
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(["" if value is None else as_cell(value) if isinstance(value, str) else value for value in values])
    return text.getvalue().removesuffix("\r\n") + "\n"


def as_cell(text: str) -> str:
    """Text for a cell of a table, which a spreadsheet program must not take for a formula: a file may have any name.

    Text that begins with one of ``= + - @``, a tab or a line end is preceded by an apostrophe, as OWASP advises; so is
    text that begins with an apostrophe, so that every first apostrophe of a cell is one too many. The JSON lines have
    the exact names.

    Args:
        text: A name or a message.

    Returns:
        The text, or an apostrophe and the text.
    """
    return f"'{text}" if text.startswith(_FORMULA) else text


_FORMULA = ("'", "=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # also in full width
_FIELDS = tuple(field.name for field in fields(Record))
_NAMES = set(_FIELDS)
COLUMNS = ("path", "picture", "score", "anomalous", "height", "width", "map", "overlay", "patient", "volume", "error")
"""Columns of the CSV file; see :func:`as_cell`."""
