"""Scoring of files: every picture is read, prepared and scored, and its map and overlay are written."""

__all__ = ["Outputs", "Scorer"]

import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from anomalib_scrd.edge.batching import Prediction, predict
from anomalib_scrd.edge.engine import Engine
from anomalib_scrd.edge.files import write_map, write_overlay
from anomalib_scrd.edge.heat import overlaid
from anomalib_scrd.edge.inputs import Inputs
from anomalib_scrd.edge.journal import Journal
from anomalib_scrd.edge.names import Names
from anomalib_scrd.edge.records import Record
from anomalib_scrd.edge.resizing import resize
from anomalib_scrd.edge.sources import SourceFile, signature
from anomalib_scrd.imaging import PictureInfo, Prepared, UnreadableImageError

_DIGITS = 9  # decimal digits that preserve a float32
_PIXEL_THRESHOLD = 0.5  # of anomalib's post-processor
# The name of one file is impossible in the folder of results: too long with its suffix, of bytes or characters that the
# file system lacks, or a file where others need a folder. All other errors end the run.
_OF_A_NAME = {errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}


@dataclass(frozen=True)
class Outputs:
    """Files that are written for a picture in addition to its score.

    Args:
        maps: Format of the map, tiff or npz; None for none.
        overlays: Whether the picture with its map is written.
        threshold: Score above which a picture is anomalous; None for the model's own decision.
    """

    maps: str | None = None
    overlays: bool = False
    threshold: float | None = None

    @property
    def any_maps(self) -> bool:
        """Whether the anomaly map is needed."""
        return self.maps is not None or self.overlays


@dataclass
class _File:
    """A file in progress; its pictures may be in batches with those of other files."""

    source: SourceFile
    name: str
    records: list[Record]
    error: str | None = None


@dataclass(frozen=True)
class _Picture:
    file: _File
    info: PictureInfo
    count: int
    prepared: Prepared

    @property
    def index(self) -> int:
        """Its number in the file."""
        return self.info.index


class Scorer:
    """Scores files; several threads may call one.

    Args:
        engine: The loaded model.
        journal: The folder of results.
        names: Names of files in results.
        outputs: Files that are written in addition to the scores.
    """

    def __init__(self, engine: Engine, journal: Journal, names: Names, outputs: Outputs) -> None:
        self._engine = engine
        self._journal = journal
        self._names = names
        self._outputs = outputs
        self._inputs = Inputs(engine.facts, engine.size)

    def __call__(self, sources: Sequence[SourceFile]) -> list[list[Record]]:
        """Score files.

        Args:
            sources: Files.

        Returns:
            For each file its records, one per picture, or one with the reason why it cannot be read, or its maps not
            be written under its name.

        Raises:
            OSError: If a map or overlay cannot be written for another reason, for example on a full disk.
        """
        files = [_File(source, self._names(source.relative), []) for source in sources]
        for picture, prediction in predict(self._engine, self._images(files)):
            if picture.file.error is None:
                self._add(picture, prediction)
        return [_finished(file) for file in files]

    def _images(self, files: list[_File]) -> Iterator[tuple[_Picture, np.ndarray]]:
        for file in files:
            yield from self._images_of(file)

    def _images_of(self, file: _File) -> Iterator[tuple[_Picture, np.ndarray]]:
        """Pictures of a file; if one cannot be read, the rest of the file is skipped."""
        try:
            for info, count, prepared in self._inputs.all_of(file.source.path):
                yield _Picture(file, info, count, prepared), self._inputs.fitted(prepared)
        except UnreadableImageError as error:
            file.error = error.reason or str(error)
            return
        if _changed(file.source):
            file.error = "it was changed while it was read"

    def _add(self, picture: _Picture, prediction: Prediction | Exception) -> None:
        file, source = picture.file, picture.file.source
        if isinstance(prediction, Exception):
            file.error = f"the model fails at picture {picture.index} ({type(prediction).__name__})"
            return
        score = prediction["pred_score"]
        if not np.isfinite(score):
            file.error = f"the model's score of picture {picture.index} is {score}"
            return
        value = float(f"{score:.{_DIGITS}g}")
        label: bool | None = None
        if self._outputs.threshold is not None:
            label = value > self._outputs.threshold  # as the report and the gallery compare it
        elif "pred_label" in prediction:
            label = bool(prediction["pred_label"])
        written: dict[str, str] = {}
        try:
            if self._outputs.any_maps:
                written = self._written(picture, prediction["anomaly_map"], label)
        except (OSError, UnicodeEncodeError) as error:
            if isinstance(error, OSError) and error.errno not in _OF_A_NAME:
                raise
            reason = error.strerror if isinstance(error, OSError) else error.reason
            file.error = f"its map or overlay cannot have a name made of the file's ({reason})"
            return
        height, width = picture.prepared.to_file(picture.prepared.image).shape[:2]
        file.records.append(
            Record(
                file.name,
                picture=picture.index,
                pictures=picture.count,
                score=value,
                anomalous=label,
                height=height,
                width=width,
                size=source.signature.size,
                mtime_ns=source.signature.mtime_ns,
                patient=self._names.patient(picture.info),
                volume=self._names.volume(picture.info, file.name),
                **written,
            )
        )

    def _written(self, picture: _Picture, small_map: np.ndarray, label: bool | None) -> dict[str, str]:
        """Write map and overlay in the file's order of rows and columns; return their names."""
        prepared = picture.prepared
        stem = picture.file.name if picture.count == 1 else f"{picture.file.name}.{picture.index:04d}"
        anomaly_map = resize(small_map, prepared.image.shape[:2])
        written = {}
        if self._outputs.maps is not None:
            written["map"] = name = f"maps/{stem}.{self._outputs.maps}"
            in_file_order = prepared.to_file(anomaly_map)
            write_map(self._journal.folder / name, self._journal.partial(name), in_file_order, prepared.orientation)
        if self._outputs.overlays:
            written["overlay"] = name = f"overlays/{stem}.jpg"
            threshold = self._engine.facts.pixel_threshold or _PIXEL_THRESHOLD
            in_file_order = prepared.to_file(overlaid(prepared.image, anomaly_map, threshold, label))
            write_overlay(self._journal.folder / name, self._journal.partial(name), in_file_order, prepared.orientation)
        return written


def _finished(file: _File) -> list[Record]:
    if file.error is None:
        return file.records
    return [
        Record(file.name, size=file.source.signature.size, mtime_ns=file.source.signature.mtime_ns, error=file.error)
    ]


def _changed(file: SourceFile) -> bool:
    """Whether a file was replaced or changed; removal after reading is not a change."""
    try:
        return signature(file.path) != file.signature
    except OSError:
        return False
