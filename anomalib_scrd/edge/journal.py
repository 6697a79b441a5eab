"""Results on disk: complete lines are appended, so that a killed run can resume."""

__all__ = ["Journal", "known_identity", "read_records", "recorded"]

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

from anomalib_scrd.edge.records import COLUMNS, Record, Signature

SCORES, TABLE, RUN = "scores.jsonl", "scores.csv", "run.json"
_PARTIAL = ".partial"
_NORMAL, _ANOMALOUS, _INCOMPLETE, _FAILED = b"n", b"a", b"i", b"f"


def recorded(folder: Path) -> Iterator[list[Record]]:
    """Records of a folder of results, file by file, in the order in which they were written.

    Args:
        folder: The folder of results.

    Yields:
        All records of one file, one per picture. Incomplete records of a killed process are left out.
    """
    group: list[Record] = []
    try:
        lines = (folder / SCORES).open("rb")
    except FileNotFoundError:
        return
    with lines:
        for line in lines:
            record = Record.from_json(line)
            if record is None or (group and not _follows(record, group[-1])):
                group = []
            if record is not None:
                group.append(record)
                if len(group) == record.pictures:
                    yield group
                    group = []


def read_records(folder: Path) -> list[Record]:
    """All records of a folder of results; of a file that was scored twice, only the latest.

    Args:
        folder: The folder of results.

    Returns:
        Records, one per picture and per file that could not be read, in the order in which the files were first
        written.
    """
    latest: dict[str, list[Record]] = {}
    for group in recorded(folder):
        latest[group[0].path] = group
    return [record for group in latest.values() for record in group]


def known_identity(folder: Path) -> dict[str, Any] | None:
    """Identity of the results in a folder.

    Args:
        folder: The folder of results.

    Returns:
        Plain values; None if the folder has no results.

    Raises:
        ValueError: If the file with the identity is damaged.
    """
    path = folder / RUN
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        known = None
    if not isinstance(known, dict):
        msg = f"{str(path)!r} is damaged: give another --output"
        raise ValueError(msg)  # noqa: TRY004 - of a file's content
    return known


class Journal:
    """The folder of results of one model, open for appending by one process.

    The table has the latest records of each file only; while the journal is open, also the earlier rows of a file that
    was scored again since.

    Args:
        folder: The folder; created if missing.
        identity: Hashes of the model and of the place of the images, and the settings, equal for all results in it.
            Plain values for JSON.
        maps: Format of the maps that a scored picture must have, None for none; a picture without such a map is scored
            again.
        overlays: The same for overlays.

    Attributes:
        grouped: Whether any picture belongs to a patient or a volume.

    Raises:
        ValueError: If the folder has results of another model, other settings or another folder of images, or other
            content, or another process writes to it.
        OSError: If a file cannot be written.
    """

    def __init__(
        self, folder: Path, identity: Mapping[str, Any], *, maps: str | None = None, overlays: bool = False
    ) -> None:
        self.folder = folder
        self._maps = maps
        self._overlays = overlays
        folder.mkdir(parents=True, exist_ok=True)
        _check_identity(folder, dict(identity))
        self._scores = (folder / SCORES).open("ab", buffering=0)
        _lock(self._scores, folder)
        shutil.rmtree(folder / _PARTIAL, ignore_errors=True)
        (folder / _PARTIAL).mkdir()
        self.grouped = False
        self._known: dict[bytes, bytes] = {}  # by path: version of the file, and what is known about it
        _end_line(self._scores, folder / SCORES)
        self._write_table(remember=True)  # a killed process may have lost a row
        self._table = (folder / TABLE).open("ab", buffering=0)

    def _write_table(self, *, remember: bool) -> None:
        """Write the table from the finished records."""
        partial = self.folder / _PARTIAL / TABLE
        with partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as table:
            table.write(",".join(COLUMNS) + "\n")
            for group in _latest(self.folder):
                table.writelines(record.to_csv() for record in group)
                if remember:
                    self._remember(group)
        partial.replace(self.folder / TABLE)
        self._outdated = False

    def _remember(self, group: Sequence[Record]) -> None:
        first = group[0]
        self.grouped |= first.patient is not None or first.volume is not None
        if first.error is not None:
            state = _FAILED
        elif not all(self._complete(record) for record in group):
            state = _INCOMPLETE
        else:
            state = _ANOMALOUS if any(record.anomalous for record in group) else _NORMAL
        self._known[_digest(first.path)] = _version(first.signature, first.error) + state

    def _complete(self, record: Record) -> bool:
        """Whether a picture has the files that are requested, which may have been deleted."""
        has_map = self._maps is None or ((record.map or "").endswith(f".{self._maps}") and self._exists(record.map))
        return has_map and (not self._overlays or self._exists(record.overlay))

    def _exists(self, name: str | None) -> bool:
        return name is not None and (self.folder / name).is_file()

    def done(self, path: str, signature: Signature) -> bool | None:
        """Whether a file has all its results.

        Args:
            path: The file's name in the results.
            signature: The file's size and time.

        Returns:
            None if it has no results, has changed since, or could not be read; otherwise whether one of its pictures is
            anomalous.
        """
        states = {_version(signature) + _NORMAL: False, _version(signature) + _ANOMALOUS: True}
        return states.get(self._known.get(_digest(path), b""))

    def append(self, group: Sequence[Record]) -> None:
        """Append the records of one file at once; a failure that is already recorded is not repeated.

        Args:
            group: All records of the file.

        Raises:
            OSError: If they cannot be written, for example on a full disk. Earlier records are unchanged.
        """
        first = group[0]
        known = self._known.get(_digest(first.path))
        if first.error is not None and known == _version(first.signature, first.error) + _FAILED:
            return
        self._outdated |= known is not None
        _append(self._scores, "".join(record.to_json() for record in group))
        _append(self._table, "".join(record.to_csv() for record in group))
        self._remember(group)

    def partial(self, name: str) -> Path:
        """Temporary path for a file while it is written, on the same file system.

        Args:
            name: Unique name of the file.

        Returns:
            The path. Files left there are deleted at the next start.
        """
        return self.folder / _PARTIAL / hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:32]

    def close(self) -> None:
        """Flush the files to the disk, rewrite the table if it has earlier rows of a file, and release the lock.

        Raises:
            OSError: If they cannot be written.
        """
        with self._scores, self._table:
            os.fsync(self._scores.fileno())
            os.fsync(self._table.fileno())
            self._table.close()  # Windows replaces no open file
            if self._outdated:
                self._write_table(remember=False)
            shutil.rmtree(self.folder / _PARTIAL, ignore_errors=True)


def _latest(folder: Path) -> Iterator[list[Record]]:
    """Records of a folder of results, without the earlier ones of a file that was scored twice."""
    last = {_digest(group[0].path): number for number, group in enumerate(recorded(folder))}
    for number, group in enumerate(recorded(folder)):
        if last.get(_digest(group[0].path)) == number:
            yield group


def _version(signature: Signature, error: str | None = None) -> bytes:
    return _digest(f"{signature.size} {signature.mtime_ns} {error or ''}")


def _digest(text: str) -> bytes:
    """A short hash, because millions of them may be kept in memory."""
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=10).digest()


def _check_identity(folder: Path, identity: dict[str, Any]) -> None:
    known = known_identity(folder)
    if known is None:
        if (folder / SCORES).exists():
            msg = f"--output {str(folder)!r} has {SCORES} but no {RUN}: give another folder"
            raise ValueError(msg)
        path = folder / RUN
        partial = path.with_suffix(".json.part")
        partial.write_text(json.dumps(identity, indent=2) + "\n", encoding="utf-8")
        partial.replace(path)
        return
    different = sorted(key for key in identity.keys() | known.keys() if identity.get(key) != known.get(key))
    if different == ["images"]:
        msg = (
            f"--output {str(folder)!r} has results of another folder of images, or of one that was moved or renamed "
            f"since, and files of equal names would be mixed up: give another --output, or IMAGES at the former place"
        )
        raise ValueError(msg)
    different = [key for key in different if key != "images"]  # its hash depends on the salt
    if different:
        parts = ", ".join(f"{key} {known.get(key)!r} and now {identity.get(key)!r}" for key in different)
        msg = f"--output {str(folder)!r} has results with {parts}: give another folder"
        raise ValueError(msg)


def _follows(record: Record, last: Record) -> bool:
    """Whether two records belong to the same version of a file and the same pass over it."""
    same = (record.path, record.signature) == (last.path, last.signature)
    return same and record.error is None and record.picture > last.picture


def _lock(file: FileIO, folder: Path) -> None:
    """Lock the folder for this process; the lock ends with the process."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        msg = f"another process writes to --output {str(folder)!r}"
        raise ValueError(msg) from None


def _end_line(file: FileIO, path: Path) -> None:
    """End a line that a killed process left unfinished."""
    with path.open("rb") as written:
        if written.seek(0, os.SEEK_END):
            written.seek(-1, os.SEEK_END)
            if written.read(1) != b"\n":
                file.write(b"\n")


def _append(file: FileIO, text: str) -> None:
    data = text.encode("utf-8", "surrogateescape")
    while data:  # a full disk may accept only a part
        data = data[file.write(data) :]
