"""The command ``gallery``: scores a folder and writes pages of its pictures to the folder of results."""

__all__ = ["main"]

import argparse
import json
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from anomalib_scrd.atomic_files import replacing
from anomalib_scrd.edge.arguments import add_run_arguments, load_named_engine
from anomalib_scrd.edge.gallery.assets import SCRIPT, STYLE
from anomalib_scrd.edge.heat import coloured, heat, opacities
from anomalib_scrd.edge.records import Record
from anomalib_scrd.edge.report.cases import Case, picture_uri
from anomalib_scrd.edge.report.page import page
from anomalib_scrd.edge.report.scales import Scales, load_scales
from anomalib_scrd.edge.report.scored import Scored, add_truth_arguments, score

_SIDE = 192


def main(words: list[str]) -> int:
    """Run the command.

    Args:
        words: Arguments after the command's name.

    Returns:
        Exit status, see :mod:`anomalib_scrd.edge.run`.
    """
    parser = argparse.ArgumentParser(
        prog="python -m anomalib_scrd.edge gallery",
        description="Score images and write gallery.html, and further pages, to the folder of results.",
    )
    add_run_arguments(parser)
    add_truth_arguments(parser)
    parser.add_argument("--per-page", type=int, default=500, help="pictures per page; default: 500")
    arguments = parser.parse_args(words)
    if arguments.per_page < 1:
        msg = f"--per-page must be at least 1, got {arguments.per_page}"
        raise ValueError(msg)
    engine = load_named_engine(arguments, "throughput", maps=True)
    scored = score(arguments, engine)
    if scored.status:
        return scored.status
    records = sorted(scored.pictures, key=lambda record: -(record.score or 0.0))
    parts = [records[i : i + arguments.per_page] for i in range(0, len(records), arguments.per_page)] or [[]]
    names = ["gallery.html", *(f"gallery-{index + 2}.html" for index in range(len(parts) - 1))]
    everything = _everything(records, scored)
    for index, (name, part) in enumerate(zip(names, parts, strict=True)):
        text = _page(part, names, index, scored, everything, arguments.training)
        with replacing(arguments.output / name, "gallery") as file:
            file.write_text(text, encoding="utf-8", errors="replace")
    for old in arguments.output.glob("gallery-*.html"):
        if old.name not in names:
            old.unlink()
    print(f"gallery: {arguments.output / names[0]}", file=sys.stderr)
    return 0


def _everything(records: Sequence[Record], scored: Scored) -> str:
    """Scores and truth of all pictures, for the counts, as JSON that is safe in a script element."""
    labels = [scored.cases.anomalous(record) for record in records]
    data = {
        "scores": [record.score or 0.0 for record in records],
        "labels": [None if label is None else int(label) for label in labels],
        "threshold": scored.threshold,
    }
    return json.dumps(data).replace("<", "\\u003c")


def _page(
    part: Sequence[Record],
    names: Sequence[str],
    index: int,
    scored: Scored,
    everything: str,
    training: Path | None,
) -> str:
    cards = "".join(
        _card(
            record,
            scored.cases.load(record),
            scored.map_threshold,
            None if training is None else load_scales(training, record),
        )
        for record in part
    )
    links = "".join(
        f"<b>{number + 1}</b> " if number == index else f'<a href="{name}">{number + 1}</a> '
        for number, name in enumerate(names)
    )
    pages = f"<p>Pages, from the highest score to the lowest: {links}</p>" if len(names) > 1 else ""
    body = f"""<h1>Pictures by score</h1>
<div class="controls"><label>Threshold <input id="threshold" type="range"> <input id="number" type="number"></label>
<label>Map <input id="opacity" type="range" min="0" max="1" step="0.05" value="1"></label>
<label>Show <select id="show"><option value="all">all</option><option value="above">above the threshold</option>
<option value="below">not above it</option></select></label>
<label>Order <select id="order"><option value="down">highest first</option><option value="up">lowest first</option>
</select></label></div><p id="counts" aria-live="polite"></p>{pages}<div id="gallery">{cards}</div>{pages}
<script type="application/json" id="data">{everything}</script>"""
    return page("Pictures by score", body, style=STYLE, script=SCRIPT)


def _card(record: Record, full: Case | None, threshold: float, scales: Scales | None) -> str:
    name = escape(record.path) + (f" picture {record.picture}" if record.pictures > 1 else "")
    value = record.score or 0.0  # exact: the page compares it with the threshold
    if full is None:
        return f'<div class="card" data-score="{value}"><p>{name}<br>score {value:.4g}; cannot be shown</p></div>'
    case = full.shrunk(_SIDE)
    strength = heat(case.anomaly_map, threshold)
    alpha = (255 * opacities(strength)).round().astype(np.uint8)[..., None]
    truth = {None: "", True: "anomalous", False: "normal"}[case.anomalous]
    return (
        f'<div class="card" data-score="{value}"><div class="stack"><img src="{picture_uri(case.image)}" alt="">'
        f'<img class="map" src="{picture_uri(np.concatenate([coloured(strength), alpha], axis=-1))}" alt=""></div>'
        f'{_levels(scales)}<p><b>{value:.4g}</b> <span class="truth {truth}">{truth}</span><br>{name}</p></div>'
    )


def _levels(scales: Scales | None) -> str:
    """Maps of the scales in a row, with their weights."""
    if scales is None:
        return ""
    shown = "".join(
        f'<figure><img src="{picture_uri(pixels)}" alt="map of {escape(layer)}" title="{escape(layer)}">'
        f"<figcaption>{weight:.2f}</figcaption></figure>"
        for layer, pixels, weight, _ in scales.pictures()
    )
    return f'<div class="scales" title="maps of the scales, finest first, and their weights">{shown}</div>'
