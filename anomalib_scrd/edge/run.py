"""The command ``run``: scores a folder, or watches one."""

__all__ = ["Summary", "main", "run"]

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from signal import Signals

from anomalib_scrd.edge.arguments import add_output_arguments, add_run_arguments, load_named_engine
from anomalib_scrd.edge.engine import Engine, threshold_of
from anomalib_scrd.edge.groups import GROUPS, grouped_scores, several, write_groups
from anomalib_scrd.edge.identity import identity_of
from anomalib_scrd.edge.inputs import preparation_of
from anomalib_scrd.edge.journal import Journal, recorded
from anomalib_scrd.edge.names import Names
from anomalib_scrd.edge.pipeline import grouped, in_order
from anomalib_scrd.edge.progress import Progress
from anomalib_scrd.edge.scoring import Outputs, Scorer
from anomalib_scrd.edge.sources import SourceFile, walk
from anomalib_scrd.edge.stopping import Stop
from anomalib_scrd.edge.watching import watch
from anomalib_scrd.imaging.files import SUFFIXES

ANOMALOUS, CANNOT_START, UNREADABLE, CANNOT_WRITE, SIGNALLED = 1, 2, 3, 4, 128
"""Exit statuses other than 0; the number of a signal is added to the last one."""

_EPILOG = """
exit status: 0 all files were scored; 1 a picture is anomalous and --fail-on anomalous was given; 2 the run could not
start; 3 a file could not be read; 4 the results could not be written; 130 or 143 stopped by a signal before the end.
3 takes precedence over 1. Stopping a watch by a signal is its regular end.
"""
_AHEAD = 2  # largest number of groups of files in progress per thread


@dataclass
class Summary:
    """Outcome of a run.

    Args:
        pictures: Number of pictures scored in this run.
        anomalous: Number of files with an anomalous picture, including earlier results.
        unreadable: Number of files that could not be read.
        signal: The signal that ended the run, or None.
    """

    pictures: int = 0
    anomalous: int = 0
    unreadable: int = 0
    signal: Signals | None = None


def main(words: list[str]) -> int:
    """Run the command.

    Args:
        words: Arguments after the command's name.

    Returns:
        Exit status.
    """
    parser = argparse.ArgumentParser(
        prog="python -m anomalib_scrd.edge run", description="Score images with an exported model.", epilog=_EPILOG
    )
    add_run_arguments(parser)
    add_output_arguments(parser)
    parser.add_argument("--watch", action="store_true", help="also score files that are added later, until stopped")
    parser.add_argument("--fail-on", choices=("anomalous",), help="end with status 1 if a picture is anomalous")
    arguments = parser.parse_args(words)
    outputs = Outputs(arguments.maps, arguments.overlays, arguments.threshold)
    engine = load_named_engine(arguments, "latency" if arguments.watch else "throughput", maps=outputs.any_maps)
    if arguments.fail_on and arguments.threshold is None and not engine.labels:
        msg = "--fail-on anomalous: the model makes no decision; export it with its post-processor, or give --threshold"
        raise ValueError(msg)
    summary = run(
        engine,
        arguments.images,
        arguments.output,
        outputs,
        names=Names(arguments.salt),
        identity=identity_of(arguments),
        watched=arguments.watch,
        on_error=arguments.on_error or ("skip" if arguments.watch else "stop"),
        quiet=arguments.quiet,
    )
    if summary.signal is not None and not arguments.watch:
        return SIGNALLED + summary.signal
    if summary.unreadable:
        return UNREADABLE
    return ANOMALOUS if arguments.fail_on and summary.anomalous else 0


def run(
    engine: Engine,
    images: Path,
    output: Path,
    outputs: Outputs,
    *,
    names: Names,
    identity: dict[str, object],
    watched: bool = False,
    on_error: str = "stop",
    quiet: bool = False,
) -> Summary:
    """Score the files of a folder that have no results yet.

    Args:
        engine: The loaded model.
        images: Folder or file.
        output: Folder of results.
        outputs: Files that are written in addition to the scores.
        names: Names of files in the results.
        identity: Identity of the results, see :mod:`anomalib_scrd.edge.identity`.
        watched: Whether to also score files that are added later, until a signal.
        on_error: ``stop`` (default) or ``skip`` at a file that cannot be read.
        quiet: Whether to report failures only.

    Returns:
        The outcome.

    Raises:
        ValueError: If ``output`` has other results, or ``outputs`` do not fit the model.
        FileNotFoundError: If there are no images, unless the folder is watched.
        OSError: If results cannot be written.
    """
    if outputs.any_maps and engine.facts.resized_before is False:
        msg = "--maps and --overlays: the model crops images, and its map does not cover them"
        raise ValueError(msg)
    if outputs.overlays and not engine.labels and engine.facts.pixel_threshold is None:
        msg = "--overlays: the model writes raw maps, which have no threshold; export it with its post-processor"
        raise ValueError(msg)
    preparation_of(engine.facts)  # refuses damaged metadata before anything is written
    summary = Summary()
    stopped = False
    if not (images.is_dir() if watched else images.exists()):
        msg = f"IMAGES must be an existing folder{' with --watch' if watched else ' or file'}, got {str(images)!r}"
        raise FileNotFoundError(msg)
    if not watched and next(walk(images, output), None) is None:
        msg = f"IMAGES {str(images)!r} has no image: no DICOM file, and no file named {', '.join(SUFFIXES)}"
        raise FileNotFoundError(msg)
    journal = Journal(output, identity, maps=outputs.maps, overlays=outputs.overlays)
    count = None if watched else lambda: sum(1 for _ in walk(images, output))
    progress = Progress(count, quiet=quiet)
    if not engine.facts.version and not quiet:
        size = "at their own size" if engine.size is None else f"resized to {engine.size[0]} x {engine.size[1]}"
        print(f"note: the model file has no metadata of its training; 8-bit images are passed {size}", file=sys.stderr)
    with Stop() as stop:
        source = watch(images, output, stop) if watched else walk(images, output)

        def new() -> Iterator[SourceFile | None]:
            for file in source:
                if stop or stopped:
                    return
                done = None if file is None else journal.done(names(file.relative), file.signature)
                if done is None:
                    yield file
                else:
                    summary.anomalous += done
                    progress.step(skipped=1)

        try:
            scorer = Scorer(engine, journal, names, outputs)
            threads = engine.parallel + 2
            groups = in_order(scorer, grouped(new(), engine.batch), threads, _AHEAD * threads)
            for records in chain.from_iterable(results for _, results in groups):
                journal.append(records)
                failure = records[0].error
                if failure is None:
                    summary.pictures += len(records)
                    summary.anomalous += any(record.anomalous for record in records)
                    progress.step(scored=len(records))
                else:
                    summary.unreadable += 1
                    progress.step(bad=1)
                    progress.failure(records[0].path, failure)
                    stopped = stopped or on_error == "stop"
            _write_tables(journal, threshold_of(engine) if outputs.threshold is None else outputs.threshold)
        finally:
            journal.close()
            progress.close()
    summary.signal = stop.signal
    if stopped:
        print("stopped at a file that cannot be read; --on-error skip leaves it out", file=sys.stderr)
    elif stop and not watched:
        print("stopped; the same command continues the run", file=sys.stderr)
    return summary


def _write_tables(journal: Journal, threshold: float | None) -> None:
    """Write patients.csv and volumes.csv if several pictures belong together."""
    for by in GROUPS if journal.grouped else ():
        groups = grouped_scores(recorded(journal.folder), by)
        if several(groups):
            partial = journal.partial(by)
            write_groups(groups, partial, by, threshold)
            partial.replace(journal.folder / f"{by}s.csv")
