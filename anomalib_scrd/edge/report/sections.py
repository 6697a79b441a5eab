"""Sections of the report, each from numbers to HTML."""

__all__ = [
    "case_cards",
    "decision_section",
    "left_out_section",
    "metrics_section",
    "model_section",
    "parity_section",
    "scales_section",
    "speed_section",
    "tiles",
]

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from anomalib_scrd.edge.engine import Engine
from anomalib_scrd.edge.heat import overlaid
from anomalib_scrd.edge.records import Record
from anomalib_scrd.edge.report.cases import Case, picture_uri
from anomalib_scrd.edge.report.charts import Series, histogram, scatter
from anomalib_scrd.edge.report.metrics import Metrics
from anomalib_scrd.edge.report.page import definitions, table
from anomalib_scrd.edge.report.parity import Parity
from anomalib_scrd.edge.report.resampling import Interval
from anomalib_scrd.edge.report.scales import Scales, load_scales
from anomalib_scrd.edge.report.speed import Speed, machine

_SIDE = 240
_F32_TOLERANCE = 1e-4
_LISTED = 200
_SCALES_SHOWN = 4


def tiles(values: Mapping[str, str]) -> str:
    """Key figures at the top.

    Args:
        values: Values by name.

    Returns:
        HTML.
    """
    shown = "".join(f'<div class="tile"><b>{escape(value)}</b>{escape(name)}</div>' for name, value in values.items())
    return f'<div class="tiles">{shown}</div>'


def decision_section(
    scores: Sequence[float], labels: Sequence[bool | None], metrics: Metrics, threshold: float | None, origin: str
) -> str:
    """Distribution of the scores, and shares at the threshold.

    Args:
        scores: (N,).
        labels: (N,), None where the truth is not known.
        metrics: Metrics of the pictures with known truth.
        threshold: Score above which a picture is anomalous; None without a threshold.
        origin: Origin of the threshold.

    Returns:
        HTML.
    """
    parts = [
        Series("normal", "normal", [s for s, label in zip(scores, labels, strict=True) if label is False]),
        Series("anomalous", "anomalous", [s for s, label in zip(scores, labels, strict=True) if label]),
        Series("scored", "plain", [s for s, label in zip(scores, labels, strict=True) if label is None]),
    ]
    chart = histogram([part for part in parts if part.values], threshold, "score")
    text = "<h2>Scores and threshold</h2>" + chart
    if threshold is None:
        return text + "<p>The model writes raw scores, and no threshold was given: there are no decisions.</p>"
    above = sum(score > threshold for score in scores)
    text += f"<p>Threshold {threshold:.4g}, {origin}. {above} of {len(scores)} pictures are above it.</p>"
    if metrics.false_alarms is None or metrics.sensitivity is None:
        return text
    rows = [
        ("false-alarm rate", _shown(metrics.false_alarms), f"{metrics.false_alarms.count} normal pictures"),
        ("sensitivity", _shown(metrics.sensitivity), f"{metrics.sensitivity.count} anomalous pictures"),
    ]
    return text + table(("at this threshold", "share [95 % interval]", "of"), rows)


def metrics_section(metrics: Metrics) -> str:
    """Metrics with intervals.

    Args:
        metrics: The metrics.

    Returns:
        HTML.
    """
    if metrics.auroc is None:
        return (
            "<h2>Metrics</h2><p>It is not known which pictures are anomalous, or all are of one kind, so there are no "
            "metrics. They need folders named good or normal in addition to others, or a table (--labels).</p>"
        )
    rows = [
        (name, _shown(value), f"{value.count} {unit}")
        for name, value, unit in (
            ("image AUROC", metrics.auroc, "pictures"),
            *(
                (f"{by} AUROC", value, f"{by}s, by the mean of their three highest")
                for by, value in metrics.groups.items()
            ),
            ("image average precision", metrics.precision, "pictures"),
            ("image F1 at the threshold", metrics.f1, "pictures"),
            ("pixel AUROC", metrics.pixel_auroc, "pictures whose true regions are known"),
            ("pixel Dice at the map's threshold", metrics.pixel_dice, "pictures whose true regions are known"),
        )
        if value is not None and not math.isnan(value.value)
    ]
    return "<h2>Metrics</h2>" + table(("metric", "value [95 % interval]", "over"), rows)


def case_cards(title: str, note: str, cases: Sequence[Case], threshold: float) -> str:
    """Pictures with their maps.

    Args:
        title: Heading.
        note: One sentence about them.
        cases: The cases.
        threshold: Of the map.

    Returns:
        HTML; "" without cases.
    """
    if not cases:
        return ""
    cards = []
    for full in cases:
        case = full.shrunk(_SIDE)
        record = case.record
        laid = overlaid(case.image, case.anomaly_map, threshold, record.anomalous)
        images = [("picture", case.image), ("map over the picture", laid)]
        if case.mask is not None and case.mask.any():
            images.append(("true region", np.where(case.mask, 1.0, 0.25).astype(np.float32) * _grey(case.image)))
        row = "".join(f'<img src="{picture_uri(pixels)}" alt="{name}" title="{name}">' for name, pixels in images)
        number = f" picture {record.picture}" if record.pictures > 1 else ""
        truth = {None: "", True: ", anomalous in truth", False: ", normal in truth"}[case.anomalous]
        text = f"{escape(record.path)}{number}<br>score {record.score:.4g}{truth}"
        cards.append(f'<div class="case"><div class="row">{row}</div><p>{text}</p></div>')
    return f'<h3>{escape(title)}</h3><p class="soft">{escape(note)}</p><div class="cases">{"".join(cards)}</div>'


def scales_section(folder: Path, records: Sequence[Record]) -> str:
    """Maps of the scales with their weights, from the results of the training.

    Args:
        folder: Folder of the training's scores.
        records: Pictures, of which the first four with maps are shown.

    Returns:
        HTML; "" without maps.
    """
    shown: list[tuple[Record, Scales]] = []
    weights: list[np.ndarray] = []
    for record in records:
        scales = load_scales(folder, record)
        if scales is not None:
            weights.append(scales.weights)
            if len(shown) < _SCALES_SHOWN:  # all maps may not fit into memory
                shown.append((record, scales))
    if not shown:
        return ""
    layers = shown[0][1].layers
    rows = "".join(
        f"<tr><td>{escape(record.path)}<br>score {record.score:.4g}</td>"
        + "".join(
            f'<td><img src="{picture_uri(pixels)}" height="120" alt="map of {escape(layer)}"><br>'
            f"weight {weight:.3f}, highest {highest:.2f}</td>"
            for layer, pixels, weight, highest in scales.pictures()
        )
        + "</tr>"
        for record, scales in shown
    )
    head = "".join(f"<th>{escape(layer)}</th>" for layer in ("picture", *layers))
    means = np.mean(weights, axis=0)
    mean = ", ".join(f"{escape(layer)} {value:.3f}" for layer, value in zip(layers, means, strict=True))
    return (
        "<h2>Scales</h2><p>Standardised maps of the scales, finest first, in colours scaled to the highest value "
        "of each picture, and the weights of the scales in its map.</p>"
        f"<table><tr>{head}</tr>{rows}</table><p>Mean weights of {len(weights)} pictures: {mean}.</p>"
    )


def parity_section(parity: Parity | None, engine: Engine, precision: str) -> str:
    """Agreement of the scores with those of the training.

    Args:
        parity: The comparison; None without scores of the training.
        engine: Engine of the export's scores.
        precision: Its precision.

    Returns:
        HTML.
    """
    if parity is None or not parity.pairs:
        why = (
            "No scores of the training were given (--training)." if parity is None else "No picture was scored by both."
        )
        return f"<h2>Agreement with the training</h2><p>{why}</p>"
    differences = parity.differences
    rows = [
        ("pictures scored by both", len(parity.pairs)),
        ("pictures scored by one only", parity.missing),
        ("largest difference", f"{differences.max():.2e}"),
        ("mean difference", f"{differences.mean():.2e}"),
        ("95 % of the differences are below", f"{np.quantile(differences, 0.95):.2e}"),
        ("pictures with another decision", f"{parity.flipped} of {len(parity.pairs)}"),
    ]
    verdict = (
        "The scores equal those of the training."
        if differences.max() <= _F32_TOLERANCE
        else f"The largest difference exceeds {_F32_TOLERANCE:g}, the tolerance of float32, which is normal for "
        "quantised files and lower precision."
    )
    chart = scatter(parity.pairs, "score of the training", "score of the export")
    return (
        f"<h2>Agreement with the training</h2><p>{verdict} Computed by {escape(engine.name)}, precision "
        f"{escape(precision)}.</p>{table(('scores', 'value'), rows, numbers=(1,))}{chart}"
    )


def speed_section(speed: Speed | None, reading_ms: float) -> str:
    """Times measured on this machine.

    Args:
        speed: Measured times; None if nothing was measured.
        reading_ms: Milliseconds to read and prepare one picture in one thread.

    Returns:
        HTML.
    """
    if speed is None:
        return ""
    rows = [
        ("single picture, median", f"{np.median(speed.latency_ms):.2f} ms"),
        ("single picture, 95 % are below", f"{np.quantile(speed.latency_ms, 0.95):.2f} ms"),
        ("pictures per second, all cores, from memory", f"{speed.per_second:.0f}"),
        ("reading and preparing one picture, one thread", f"{reading_ms:.2f} ms"),
        ("loading and compiling the model", f"{speed.first_s:.2f} s"),
    ]
    text = "<h2>Speed on this machine</h2>" + definitions(machine())
    return text + table(("measured just now", "value"), rows, numbers=(1,))


def model_section(engine: Engine, model: Path, digest: str) -> str:
    """The model and its training.

    Args:
        engine: The loaded model.
        model: Its file.
        digest: SHA-256 of file and weights.

    Returns:
        HTML.
    """
    facts = engine.facts
    size = None if engine.size is None else f"{engine.size[0]} x {engine.size[1]}"
    text = "<h2>Model and training</h2>" + definitions(
        {
            "file": model.name,
            "SHA-256 of file and weights": digest,
            "written by": f"anomalib-scrd {facts.version}"
            if facts.version
            else "an older version, which did not record it",
            "input": size or "images of any size",
            "threshold of scores": facts.image_threshold,
            "threshold of maps": facts.pixel_threshold,
            "requested false-alarm rate": facts.false_alarm_rate,
            "window and padding": json.dumps(facts.window) if facts.window else "8-bit images, unchanged",
        }
    )
    if facts.training:
        text += "<h3>Training</h3>" + definitions(_flat(facts.training))
    if facts.arguments:
        text += f"<details><summary>Arguments of the model</summary>{definitions(_flat(facts.arguments))}</details>"
    return text


def left_out_section(failures: Sequence[Record]) -> str:
    """Files that could not be read.

    Args:
        failures: Their records.

    Returns:
        HTML.
    """
    if not failures:
        return "<h2>Left out</h2><p>Every file could be read.</p>"
    rows = [(record.path, record.error) for record in failures[:_LISTED]]
    more = f"<p>and {len(failures) - _LISTED} more, see scores.csv.</p>" if len(failures) > _LISTED else ""
    return f"<h2>Left out</h2><p>{len(failures)} files could not be read.</p>" + table(("file", "reason"), rows) + more


def _shown(interval: Interval | None) -> str:
    if interval is None or math.isnan(interval.value):
        return ""
    if interval.low == interval.high:
        return f"{interval.value:.3f} [equal in all resamples]"
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _grey(image: np.ndarray) -> np.ndarray:
    return image if image.ndim == 2 else image.mean(axis=-1)  # noqa: PLR2004


def _flat(values: Mapping[str, object], before: str = "") -> dict[str, object]:
    """Flatten nested values, with dots in their names."""
    result: dict[str, object] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            result |= _flat(value, f"{before}{name}.")
        else:
            result[before + name] = value
    return result
