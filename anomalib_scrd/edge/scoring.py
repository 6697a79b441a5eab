"""From a file to its records: every picture read, prepared, scored, its map and overlay written."""

__all__ = ["Outputs", "Scorer"]

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from anomalib_scrd.edge.engine import Engine, Pending
from anomalib_scrd.edge.files import write_map, write_overlay
from anomalib_scrd.edge.heat import overlaid
from anomalib_scrd.edge.journal import Journal
from anomalib_scrd.edge.names import Names
from anomalib_scrd.edge.records import Record
from anomalib_scrd.edge.resizing import resize
from anomalib_scrd.edge.sources import SourceFile, signature
from anomalib_scrd.imaging import (
    PictureInfo,
    Preparation,
    Prepared,
    UnreadableImageError,
    Window,
    list_pictures,
    read_picture,
)

_DIGITS = 9  # of a decimal number that gives back the same float32


@dataclass(frozen=True)
class Outputs:
    """What is written of a picture beside its score.

    Args:
        maps: Kind of the map's file, tiff or npz; None for none.
        overlays: Whether the picture with its map is written.
        threshold: Score above which a picture is anomalous, in place of the model's own decision; None for that.
    """

    maps: str | None = None
    overlays: bool = False
    threshold: float | None = None


class Scorer:
    """Scores files; many threads may call one.

    Args:
        engine: The loaded model.
        journal: The folder of results.
        names: Names of files in results.
        outputs: What is written.
    """

    def __init__(self, engine: Engine, journal: Journal, names: Names, outputs: Outputs) -> None:
        self._engine = engine
        self._journal = journal
        self._names = names
        self._outputs = outputs
        self._preparation = preparation_of(engine)

    def __call__(self, file: SourceFile) -> list[Record]:
        """Score a file.

        Args:
            file: The file.

        Returns:
            Its records, one per picture; or one with the reason why it cannot be read.

        Raises:
            OSError: If a map or overlay cannot be written.
        """
        name = self._names(file.relative)
        try:
            records = self._score(file, name)
            reason = "it was changed while it was read" if _changed(file) else None
        except UnreadableImageError as error:
            reason = error.reason or str(error)
        if reason is not None:
            return [Record(name, size=file.signature.size, mtime_ns=file.signature.mtime_ns, error=reason)]
        return records

    def _score(self, file: SourceFile, name: str) -> list[Record]:
        records: list[Record] = []
        running: deque[tuple[int, Prepared, Pending]] = deque()
        inputs, count = self._inputs(file.path)

        def finish() -> None:
            index, prepared, pending = running.popleft()
            records.append(self._record(file, name, index, count, prepared, pending.result()))

        try:
            for index, prepared in inputs:
                tensor = to_tensor(prepared, self._engine.size)
                # Whoever holds a request never waits for another: all might wait for each other.
                pending = self._engine.submit(tensor, wait=not running)
                while pending is None:
                    finish()
                    pending = self._engine.submit(tensor, wait=not running)
                running.append((index, prepared, pending))
            while running:
                finish()
        finally:
            for _, _, pending in running:
                pending.result()
        return records

    def _inputs(self, path: Path) -> tuple[Iterator[tuple[int, Prepared]], int]:
        """Pictures of a file, one at a time, and their number."""
        options = self._preparation.volumes
        with _named(path):
            infos = list_pictures(path, options)

        def prepared(info: PictureInfo) -> tuple[int, Prepared]:
            with _named(path):
                return info.index, self._preparation(read_picture(info, options))

        return map(prepared, infos), len(infos)

    def _record(
        self, file: SourceFile, name: str, index: int, count: int, prepared: Prepared, result: dict[str, np.ndarray]
    ) -> Record:
        score = result["pred_score"].reshape(-1)[0]
        if not np.isfinite(score):
            raise UnreadableImageError.of(file.path, f"the model's score of picture {index} is {score}")
        label: bool | None = None
        if self._outputs.threshold is not None:
            label = bool(score > self._outputs.threshold)
        elif "pred_label" in result:
            label = bool(result["pred_label"].reshape(-1)[0])
        shown = prepared.to_file(prepared.image)
        small = result["anomaly_map"].reshape(result["anomaly_map"].shape[-2:])
        written = self._write(name, index, count, prepared, small)
        return Record(
            name,
            picture=index,
            pictures=count,
            score=float(f"{score:.{_DIGITS}g}"),
            anomalous=label,
            height=shown.shape[0],
            width=shown.shape[1],
            size=file.signature.size,
            mtime_ns=file.signature.mtime_ns,
            map=written.get("map"),
            overlay=written.get("overlay"),
        )

    def _write(self, name: str, index: int, count: int, prepared: Prepared, small: np.ndarray) -> dict[str, str]:
        if self._outputs.maps is None and not self._outputs.overlays:
            return {}
        stem = name if count == 1 else f"{name}.{index:04d}"
        anomaly_map = resize(small, prepared.image.shape[:2])
        written = {}
        if self._outputs.maps is not None:
            written["map"] = f"maps/{stem}.{self._outputs.maps}"
            path = self._journal.folder / written["map"]
            in_file_order = prepared.to_file(anomaly_map)
            write_map(path, self._journal.partial(written["map"]), in_file_order, prepared.orientation)
        if self._outputs.overlays:
            written["overlay"] = f"overlays/{stem}.jpg"
            path = self._journal.folder / written["overlay"]
            picture = overlaid(prepared.image, anomaly_map, self._engine.facts.pixel_threshold or _PIXEL_THRESHOLD)
            in_file_order = prepared.to_file(picture)
            write_overlay(path, self._journal.partial(written["overlay"]), in_file_order, prepared.orientation)
        return written


_PIXEL_THRESHOLD = 0.5  # where anomalib's post-processor puts it


def preparation_of(engine: Engine) -> Preparation:
    """How files become the model's inputs.

    Args:
        engine: The loaded model.

    Returns:
        What its file says; for a model that says nothing, 8-bit pictures as they are, and deeper ones are refused.

    Raises:
        ValueError: If a newer version wrote it.
    """
    if engine.facts.window is None:
        return Preparation(Window("values", eight_bit=(0.0, 255.0)))
    return Preparation.from_dict(engine.facts.window)


def to_tensor(prepared: Prepared, size: tuple[int, int] | None) -> np.ndarray:
    """Bring an input into the model's layout.

    Args:
        prepared: The input.
        size: (height, width) to which it is resized, anti-aliased; None to leave it.

    Returns:
        (1, 3, height, width) float32 in [0, 1].
    """
    image = prepared.image if size is None else resize(prepared.image, size)
    planes = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)  # noqa: PLR2004
    return cast("np.ndarray", np.ascontiguousarray(np.broadcast_to(planes, (3, *planes.shape[1:]))[None], np.float32))


def _changed(file: SourceFile) -> bool:
    """Whether a file has become another one; one that was taken away after it was read has not."""
    try:
        return signature(file.path) != file.signature
    except OSError:
        return False


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Name the file at which a reader fails in an unforeseen way; by the kind of the error, whose text may quote it."""
    try:
        yield
    except UnreadableImageError:
        raise
    except Exception as error:  # noqa: BLE001 - one file of thousands must not end the run
        raise UnreadableImageError.of(path, f"its reader fails ({type(error).__name__})") from None
