"""Common first part of report and gallery: scoring of a folder with maps, and the truth about its images."""

__all__ = ["Scored", "add_truth_arguments", "score"]

import argparse
from dataclasses import dataclass
from pathlib import Path

from anomalib_scrd.edge.engine import Engine, threshold_of
from anomalib_scrd.edge.identity import identity_of
from anomalib_scrd.edge.inputs import Inputs
from anomalib_scrd.edge.journal import read_records
from anomalib_scrd.edge.names import Names
from anomalib_scrd.edge.records import Record
from anomalib_scrd.edge.report.cases import Cases
from anomalib_scrd.edge.report.truth import Truth
from anomalib_scrd.edge.run import SIGNALLED, UNREADABLE, run
from anomalib_scrd.edge.scoring import Outputs
from anomalib_scrd.edge.sources import walk

_MAP_THRESHOLD = 0.5  # of anomalib's post-processor


@dataclass(frozen=True)
class Scored:
    """A scored folder.

    Args:
        pictures: Records of the pictures whose files are unchanged, in the order of the results.
        failures: Records of files that could not be read.
        cases: Reader of pictures and maps.
        threshold: Score above which a picture is anomalous; None without one.
        map_threshold: The same for maps.
        status: Exit status if the run was stopped early, else 0.
    """

    pictures: list[Record]
    failures: list[Record]
    cases: Cases
    threshold: float | None
    map_threshold: float
    status: int


def add_truth_arguments(parser: argparse.ArgumentParser) -> None:
    """Add arguments for the truth about the images and for the results of the training.

    Args:
        parser: The parser of a command.
    """
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="CSV",
        help="columns path and label (0 or 1); default: images in folders named good or normal are normal",
    )
    parser.add_argument(
        "--training",
        type=Path,
        metavar="FOLDER",
        help="scores and scales of the training: python -m anomalib_scrd.export.training_scores",
    )
    parser.add_argument("--masks", type=Path, metavar="FOLDER", help="masks with the same relative paths as the images")


def score(arguments: argparse.Namespace, engine: Engine) -> Scored:
    """Score the images of a folder that have no results yet, with maps.

    Args:
        arguments: Parsed arguments of ``add_run_arguments`` and :func:`add_truth_arguments`.
        engine: The loaded model.

    Returns:
        The scored folder.

    Raises:
        ValueError: As in :func:`~anomalib_scrd.edge.run.run`, or if the labels are invalid.
        OSError: If results cannot be written.
    """
    for name in ("labels", "masks", "training"):
        path = getattr(arguments, name)
        if path is not None and not path.exists():
            msg = f"--{name} must exist, got {str(path)!r}"
            raise ValueError(msg)
    names = Names(arguments.salt)
    files = list(walk(arguments.images, arguments.output))
    truth = Truth(arguments.labels, arguments.masks, (file.relative for file in files))
    on_error = arguments.on_error or "skip"
    summary = run(
        engine,
        arguments.images,
        arguments.output,
        Outputs("npz", threshold=arguments.threshold),
        names=names,
        identity=identity_of(arguments),
        on_error=on_error,
        quiet=arguments.quiet,
    )
    status = SIGNALLED + summary.signal if summary.signal is not None else 0
    if on_error == "stop" and summary.unreadable:
        status = UNREADABLE
    cases = Cases(files, names, Inputs(engine.facts, engine.size), arguments.output, truth)
    records = [record for record in read_records(arguments.output) if cases.path(record) is not None]
    return Scored(
        pictures=[record for record in records if record.error is None],
        failures=[record for record in records if record.error is not None],
        cases=cases,
        threshold=threshold_of(engine) if arguments.threshold is None else arguments.threshold,
        map_threshold=engine.facts.pixel_threshold or _MAP_THRESHOLD,
        status=status,
    )
