"""The command ``report``: scores a folder and writes one HTML file about the export and its results."""

__all__ = ["main"]

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from html import escape

import numpy as np

from anomalib_scrd.atomic_files import replacing
from anomalib_scrd.edge.arguments import add_run_arguments, load_named_engine
from anomalib_scrd.edge.engine import Engine
from anomalib_scrd.edge.identity import identity_of
from anomalib_scrd.edge.inputs import Inputs
from anomalib_scrd.edge.journal import read_records
from anomalib_scrd.edge.records import Record
from anomalib_scrd.edge.report import sections
from anomalib_scrd.edge.report.cases import Case, Cases
from anomalib_scrd.edge.report.metrics import Metrics, PixelCounts, group_aurocs, image_metrics
from anomalib_scrd.edge.report.page import page
from anomalib_scrd.edge.report.parity import compare
from anomalib_scrd.edge.report.scored import Scored, add_truth_arguments, score
from anomalib_scrd.edge.report.speed import Speed, measure

_SHOWN = 6
_MEASURED = 64  # number of pictures for a measurement of speed


def main(words: list[str]) -> int:
    """Run the command.

    Args:
        words: Arguments after the command's name.

    Returns:
        Exit status, see :mod:`anomalib_scrd.edge.run`.
    """
    parser = argparse.ArgumentParser(
        prog="python -m anomalib_scrd.edge report",
        description="Score images and write report.html to the folder of results.",
    )
    add_run_arguments(parser)
    add_truth_arguments(parser)
    parser.add_argument("--seconds", type=float, default=3.0, help="per measurement of speed, 0 for none; default: 3")
    arguments = parser.parse_args(words)
    training = None if arguments.training is None else read_records(arguments.training)
    if training == []:
        msg = f"--training {str(arguments.training)!r} has no scores"
        raise ValueError(msg)
    begin = time.perf_counter()
    engine = load_named_engine(arguments, "throughput", maps=True)
    loaded = time.perf_counter() - begin
    scored = score(arguments, engine)
    if not scored.status:
        speed, reading = _speed(arguments, engine, scored, loaded)
        text = _report(arguments, engine, scored, training, speed, reading)
        with replacing(arguments.output / "report.html", "report") as part:
            part.write_text(text, encoding="utf-8", errors="replace")
        print(f"report: {arguments.output / 'report.html'}", file=sys.stderr)
    return scored.status


def _report(
    arguments: argparse.Namespace,
    engine: Engine,
    scored: Scored,
    training: Sequence[Record] | None,
    speed: Speed | None,
    reading_ms: float,
) -> str:
    records, cases = scored.pictures, scored.cases
    scores = [record.score or 0.0 for record in records]
    labels = [cases.anomalous(record) for record in records]
    metrics = replace(image_metrics(scores, labels, scored.threshold), groups=group_aurocs(records, labels))
    counts = PixelCounts(scored.map_threshold)
    if arguments.masks is not None:
        for record, label in zip(records, labels, strict=True):
            case = cases.load(record) if label is not None else None
            if case is not None:
                counts.add(case)
        metrics = metrics.with_pixels(counts)
    parity = None if training is None else compare(training, records)
    origin = "given on the command line" if arguments.threshold is not None else "the model's own"
    order = np.argsort([-value for value in scores], kind="stable")
    made = f"{arguments.model.name}, {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC, {engine.name}"
    body = [
        "<h1>Report of an exported model</h1>",
        f'<p class="soft">{escape(made)}</p>',
        sections.tiles(_key_figures(records, scored, metrics, parity, speed)),
        sections.decision_section(scores, labels, metrics, scored.threshold, origin) if records else "",
        sections.metrics_section(metrics),
        _cases_section([records[index] for index in order], [labels[index] for index in order], scored),
        sections.scales_section(arguments.training, [records[i] for i in order]) if arguments.training else "",
        sections.parity_section(parity, engine, arguments.precision),
        sections.speed_section(speed, reading_ms),
        sections.model_section(engine, arguments.model, str(identity_of(arguments)["model"])),
        sections.left_out_section(scored.failures),
        _HOW_TO_READ,
    ]
    return page("Report of an exported model", "".join(body))


def _key_figures(
    records: Sequence[Record], scored: Scored, metrics: Metrics, parity: object, speed: Speed | None
) -> dict[str, str]:
    figures = {"pictures scored": str(len(records)), "files left out": str(len(scored.failures))}
    if scored.threshold is not None:
        figures["called anomalous"] = str(sum((record.score or 0.0) > scored.threshold for record in records))
    if metrics.auroc is not None:
        figures["image AUROC"] = f"{metrics.auroc.value:.3f}"
    differences = getattr(parity, "differences", np.empty(0))
    if len(differences):
        figures["largest difference from the training"] = f"{differences.max():.1e}"
    if speed is not None:
        figures["per picture"] = f"{np.median(speed.latency_ms):.3g} ms"
        figures["pictures per second"] = f"{speed.per_second:.0f}"
    return figures


def _cases_section(records: Sequence[Record], labels: Sequence[bool | None], scored: Scored) -> str:
    """Cases with the highest and lowest scores of each kind; records are sorted from the highest score."""
    kinds: list[tuple[str, str, list[Record]]] = []
    normal = [record for record, label in zip(records, labels, strict=True) if label is False]
    anomalous = [record for record, label in zip(records, labels, strict=True) if label]
    if normal:
        kinds.append(("Normal pictures with the highest scores", "False alarms, or closest to them.", normal[:_SHOWN]))
    if anomalous:
        kinds.append(
            ("Anomalous pictures with the lowest scores", "Missed, or closest to it.", anomalous[::-1][:_SHOWN])
        )
        kinds.append(("Anomalous pictures with the highest scores", "Found most clearly.", anomalous[:_SHOWN]))
    if normal:
        kinds.append(("Normal pictures with the lowest scores", "Maps without findings.", normal[::-1][:_SHOWN]))
    if not normal and not anomalous:
        kinds.append(("Highest scores", "The first to look at.", list(records[:_SHOWN])))
        if scored.threshold is not None:
            threshold = scored.threshold
            near = sorted(records, key=lambda record: abs((record.score or 0.0) - threshold))
            kinds.append(("Nearest to the threshold", "Decisions that a small change would reverse.", near[:_SHOWN]))
        kinds.append(("Lowest scores", "Maps without findings.", list(records[::-1][:_SHOWN])))
    shown = [
        sections.case_cards(title, note, _loaded(scored.cases, kind), scored.map_threshold)
        for title, note, kind in kinds
    ]
    return "<h2>Cases</h2>" + "".join(shown)


def _loaded(cases: Cases, records: Sequence[Record]) -> list[Case]:
    return [case for case in map(cases.load, records) if case is not None]


def _speed(arguments: argparse.Namespace, engine: Engine, scored: Scored, loaded: float) -> tuple[Speed | None, float]:
    """Times of the model, and milliseconds for reading a picture."""
    inputs = Inputs(engine.facts, engine.size)
    paths = [path for record in scored.pictures if (path := scored.cases.file(record)) is not None][:_MEASURED]
    if arguments.seconds <= 0 or not paths:
        return None, 0.0
    begin = time.perf_counter()
    images = [inputs.fitted(inputs.read(inputs.pictures(path)[0])) for path in paths]
    reading = 1000 * (time.perf_counter() - begin) / len(paths)
    arguments.hint = "latency"
    latency = load_named_engine(arguments, "latency", maps=True)
    arguments.hint = "throughput"
    throughput = load_named_engine(arguments, "throughput", maps=False)
    try:
        return measure(latency, throughput, images, arguments.seconds, loaded), reading
    finally:
        latency.close()
        throughput.close()


_HOW_TO_READ = """
<h2>How to read this</h2>
<p><b>Score</b>: how much a picture differs from the normal pictures of the training; above the threshold the picture is
called anomalous. <b>False-alarm rate</b>: share of normal pictures above the threshold. <b>Sensitivity</b>: share of
anomalous pictures above it. <b>AUROC</b>: probability that an anomalous picture has a higher score than a normal one,
0.5 by chance. <b>Dice</b>: twice the common area of found and true regions over the sum of both.</p>
<p><b>Intervals</b> contain the true value of pictures like these in 95 of 100 such reports; they do not apply to
pictures of another device or another population. Shares: Wilson. AUROC of pictures: DeLong. The rest: 1,000 resamples
of the pictures, seed 0.</p>
<p><b>Maps</b>: from three quarters of the map's threshold on, colours are laid over the picture, from black over red to
yellow. In a picture that is called anomalous, a cyan line surrounds the regions above the threshold of maps, or the
peak if there are none; a picture that is called normal has no line. A map shows where a picture differs from normal
ones, not why.</p>
"""
