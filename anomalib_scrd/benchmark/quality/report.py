"""Writes the results of finished runs: a CSV file with a row per run, and a Markdown report."""

__all__ = ["write_report"]

import math
from collections import Counter
from typing import Any

import pandas as pd

from anomalib_scrd.benchmark.files import markdown_table, write_text
from anomalib_scrd.benchmark.machine import code_digest
from anomalib_scrd.benchmark.quality.config import BenchmarkConfig
from anomalib_scrd.benchmark.quality.intervals import (
    Estimate,
    bootstrap_difference,
    bootstrap_mean,
    estimate,
    leave_one_set_out,
    paired_difference,
)
from anomalib_scrd.benchmark.quality.metrics import METRICS
from anomalib_scrd.benchmark.quality.results import RunStore, image_scores, results_frame, score_frame

_MEAN = "mean of all sets"
_BEST_RIVAL = "best rival of each set"
_CHOICE_METRICS = ("image_auroc", "pixel_ap", "pixel_aupro")
_CHOICE = ["chosen on the others", "its mean there", "on the set left out", "best of the group there"]
_COSTS = {
    "train_seconds": "training, s",
    "steps": "steps",
    "ms_per_image": "test, ms per image",
    "train_memory_mib": "peak memory training, MiB",
    "test_memory_mib": "peak memory test, MiB",
    "parameters": "parameters",
    "trainable": "of them trained",
    "size_mib": "size, MiB",
}

Scores = dict[str, pd.DataFrame]
"""By metric: scores by data set and seed (index) and model (columns)."""


def write_report(config: BenchmarkConfig, command: str = "") -> None:
    """Write ``results.csv`` and ``report.md`` of finished runs, with the command line on top."""
    results = RunStore(config.output).all(config)
    if not results:
        return
    frame = results_frame(results)
    write_text(config.output / "results.csv", frame.to_csv(index=False))
    good = [result for result in results if result["status"] == "ok"]
    scores = {metric: found for metric in METRICS if not (found := score_frame(frame, metric)).empty}
    failed = pd.DataFrame([result for result in results if result["status"] != "ok"])
    columns = ["data", "seed", "error", "traceback"]
    sections = {
        "Warnings": [f"- {warning}" for warning in _warnings(config, results)],
        "Failed runs": markdown_table(failed.set_index("model")[columns]) if len(failed) else [],
        "Summary": _summary(config, scores),
        **{METRICS[metric]: _tables(config, metric, found) for metric, found in scores.items()},
        f"Paired differences to {config.reference}": _differences(config, scores),
        "Leave one set out": _left_out(config, scores),
        "Costs": _costs(frame),
    }
    lines = ["# Benchmark", "", *(["```", command, "```", ""] if command else []), *_protocol(config, good)]
    for title, content in sections.items():
        lines += [f"## {title}", "", *content, ""] if content else []
    write_text(config.output / "report.md", "\n".join(lines))


def _protocol(config: BenchmarkConfig, good: list[dict[str, Any]]) -> list[str]:
    held_out = "No image is held out."
    if config.holdout:
        held_out = (
            f"{config.holdout:.0%} of the normal training images (split seed {config.split_seed}, the same for all) "
            f"are held out; the threshold of F1 and accuracy is their {config.quantile:g} quantile."
        )
    text = (
        f"Input {config.image_size[0]} x {config.image_size[1]} unless a model has its own size, precision "
        f"{config.precision}, seeds {config.seeds}, set before a model is built. {held_out} The last state of each "
        "training is scored, on raw scores; nothing is chosen on test images, except where a table says so. Mean ± "
        "half of the 95 % interval over seeds (Student's t); without ± there is one seed. The second table of image "
        "AUROC has 95 % intervals of a bootstrap over seeds and test images."
    )
    parts = ("device", "threads", "torch", "anomalib")
    machines = {", ".join(f"{name} {result['machine'][name]}" for name in parts) for result in good}
    days = sorted(result["started"][:10] for result in good)
    dates = " to ".join(dict.fromkeys(days[:1] + days[-1:]))
    return [text, "", *(f"Machine: {machine}; {dates}." for machine in sorted(machines)), ""]


def _warnings(config: BenchmarkConfig, results: list[dict[str, Any]]) -> list[str]:
    found = [f"{r['data']}, {r['model']}, seed {r['seed']}: {note}" for r in results for note in r.get("notes", [])]
    good = [result for result in results if result["status"] == "ok"]
    runs = Counter((result["data"], result["model"]) for result in good)
    few = {name: count for name, count in runs.items() if count < len(config.seeds)}
    found += [f"{data}, {model}: {count} of {len(config.seeds)} seeds" for (data, model), count in few.items()]
    for model in dict.fromkeys(result["model"] for result in good):  # the class of another may not exist
        now = code_digest(config.model_specs[model].class_path)
        old = sorted({result["code"] for result in good if result["model"] == model} - {now})
        if old:
            found.append(
                f"{model}: results of other code ({', '.join(old)}) than the present ({now}); remove their "
                "files under runs/ to repeat them"
            )
    for data in config.data:
        digests = sorted({result["data_digest"] for result in good if result["data"] == data})
        if len(digests) > 1:
            found.append(f"{data}: the images differ between runs ({', '.join(digests)})")
    if any(result.get("concurrent", 1) > 1 for result in results):
        found.append("runs shared the processor: times are longer than those of separate runs")
    return found


def _rows(config: BenchmarkConfig, scores: pd.DataFrame) -> dict[str, pd.Series]:
    """Rows of the tables: for each data set the model, either the same for all sets or one chosen for each."""
    rows = {model: pd.Series(model, scores.index.unique("data")) for model in scores}
    rivals = scores[[name for name in config.rivals if name in scores]]
    if len(rivals.columns) > 1:
        rows[_BEST_RIVAL] = rivals.groupby(level="data", sort=False).mean().dropna(how="all").idxmax(axis=1)
    for group, names in config.leave_one_set_out.items():
        choice = leave_one_set_out(scores[[name for name in names if name in scores]])
        if len(choice):
            rows[f"{group}: chosen on the other sets"] = choice["chosen"]
    return rows


def _picked(scores: pd.DataFrame, models: pd.Series) -> pd.Series:
    """Scores of one model per data set."""
    return pd.concat([scores.loc[[data], model] for data, model in models.items()])


def _mean_over_sets(scores: pd.DataFrame, models: pd.Series) -> str:
    """Mean over the data sets for each seed with all sets, and its interval over the seeds."""
    by_seed = _picked(scores, models).groupby(level="seed")
    return _text(estimate(by_seed.mean()[by_seed.count() == scores.index.unique("data").size]))


def _summary(config: BenchmarkConfig, scores: Scores) -> list[str]:
    columns = {
        METRICS[metric]: {name: _mean_over_sets(found, models) for name, models in _rows(config, found).items()}
        for metric, found in scores.items()
    }
    text = "Over the sets that have the metric; only models with the metric on all of these."
    return [text, "", *markdown_table(pd.DataFrame(columns).rename_axis(_MEAN))]


def _tables(config: BenchmarkConfig, metric: str, scores: pd.DataFrame) -> list[str]:
    """Tables of a metric by data set; for image AUROC also of its intervals."""
    tables = markdown_table(_by_set(config, scores))
    return tables + (markdown_table(_over_images(config, scores)) if metric == "image_auroc" else [])


def _over_images(config: BenchmarkConfig, scores: pd.DataFrame) -> pd.DataFrame:
    """Intervals of the image AUROC over seeds and test images, of each data set and of the mean of all."""
    cells = {}
    for model in scores:
        found = image_scores(config, dict.fromkeys(scores.index.unique("data"), model), str(model))
        if found:
            by_set, mean = bootstrap_mean(found)
            ends = by_set | ({_MEAN: mean} if len(found) == scores.index.unique("data").size else {})
            cells[model] = {name: f"[{low:.4f}, {high:.4f}]" for name, (low, high) in ends.items()}
    columns = [*scores.index.unique("data"), _MEAN]
    return pd.DataFrame(cells, index=columns).T.rename_axis("image AUROC, seeds and test images")


def _by_set(config: BenchmarkConfig, scores: pd.DataFrame) -> pd.DataFrame:
    """Means over the seeds by data set, and over all of them."""
    cells = {}
    for name, models in _rows(config, scores).items():
        by_set = _picked(scores, models).groupby(level="data", sort=False)
        cells[name] = {data: _text(estimate(values.dropna())) for data, values in by_set}
        cells[name][_MEAN] = _mean_over_sets(scores, models)
    return pd.DataFrame(cells).T.rename_axis("model")


def _differences(config: BenchmarkConfig, scores: Scores) -> list[str]:
    """Every row minus the reference, by set and over all pairs of set and seed."""
    lines: list[str] = []
    reference = str(config.reference)
    for metric, found in scores.items():
        cells: dict[str, dict[str, str]] = {}
        for name, models in _rows(config, found).items() if reference in found else ():
            if name == reference:
                continue
            values = _picked(found, models)
            by_set = values.groupby(level="data", sort=False)
            cells[name] = {data: _signed(paired_difference(own, found[reference])) for data, own in by_set}
            cells[name]["sets x seeds"] = _signed(paired_difference(values, found[reference]))
            images = image_scores(config, models.to_dict(), reference) if metric == "image_auroc" else {}
            if images:
                cells[name]["sets, seeds and test images"] = _ends(*bootstrap_difference(images))
        lines += markdown_table(pd.DataFrame(cells).T.rename_axis(f"{METRICS[metric]}, minus {reference}'s"))
    text = (
        "Mean and 95 % interval in square brackets: over the seeds of a set; over all pairs of set and seed; and for "
        "image AUROC that of a bootstrap over sets, seeds and test images. The best rival is chosen on the test set, "
        "which can only favour it."
    )
    return [text, "", *lines] if lines else []


def _left_out(config: BenchmarkConfig, scores: Scores) -> list[str]:
    lines: list[str] = []
    for group, names in config.leave_one_set_out.items():
        for metric in _CHOICE_METRICS:
            found = scores.get(metric, pd.DataFrame())
            choice = leave_one_set_out(found[[name for name in names if name in found]])
            if len(choice):
                table = choice.set_axis(_CHOICE, axis=1).rename_axis(f"{group}, {METRICS[metric]}: set left out")
                table.loc[_MEAN] = ["", *choice[["others", "left_out", "best"]].mean()]
                lines += markdown_table(table.map(lambda cell: cell if isinstance(cell, str) else f"{cell:.4f}"))
    return lines


def _costs(frame: pd.DataFrame) -> list[str]:
    trained = frame[(frame["status"] == "ok") & ~frame["model"].str.endswith(")")]
    if trained.empty:
        return []
    means = trained.groupby("model", sort=False)[list(_COSTS)].mean().rename(columns=_COSTS)
    return ["Means over data sets and seeds.", "", *markdown_table(means.map(lambda cell: f"{cell:.4g}"))]


def _text(value: Estimate) -> str:
    if value.size == 0:
        return "-"
    return f"{value.mean:.4f}" if value.size == 1 else f"{value.mean:.4f} ± {value.high - value.mean:.4f}"


def _signed(value: Estimate) -> str:
    return "-" if value.size == 0 else f"{value.mean:+.4f} {_ends(value.low, value.high)}".rstrip()


def _ends(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"[{low:+.4f}, {high:+.4f}]"
