"""Tables of a benchmark: one CSV row per run, and a Markdown file with intervals and paired differences."""

__all__ = ["METRICS", "collect", "finished_results", "macro_average", "write_figures", "write_tables"]

import csv
import io
import math
import statistics as plain_statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from anomalib_scrd.benchmark.code_version import code_digest
from anomalib_scrd.benchmark.quality.config import BenchmarkConfig
from anomalib_scrd.benchmark.quality.intervals import Estimate, best_name, estimate, paired_difference
from anomalib_scrd.benchmark.quality.store import RunStore, write_atomically

METRICS = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "f1": "F1",
    "accuracy": "accuracy",
    "pixel_auroc": "pixel AUROC",
    "pixel_aupro": "AUPRO",
    "f1_best_on_test": "F1, best threshold on test",
    "accuracy_best_on_test": "accuracy, best threshold on test",
}
_COSTS = (
    "train_seconds",
    "steps",
    "batches",
    "ms_per_image",
    "test_batch_size",
    "train_memory_mib",
    "test_memory_mib",
    "parameters",
    "trainable",
    "size_mib",
)
_COUNTS = ("fit", "held_out", "test_normal", "test_anomalous")
_MACRO = "mean of all data sets"

Scores = dict[str, dict[int, float]]
"""Value by seed, by model."""


def finished_results(config: BenchmarkConfig) -> list[dict[str, Any]]:
    """Return the stored results of this benchmark's runs, failed ones included."""
    store = RunStore(config.output)
    return [result for run in config.runs() if (result := store.load(run)) is not None]


def _with_read_outs(results: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Results with each read-out behind the model that it belongs to, as one more model with the same costs."""
    rows: list[dict[str, Any]] = []
    for result in results:
        rows.append(dict(result))
        for name, metrics in result.get("read_outs", {}).items():
            own = {"metrics": metrics, "threshold": {}, "exports": {}, "scales": None, "notes": []}
            rows.append({**result, **own, "model": _read_out_title(result["model"], name)})
    return rows


def _read_out_title(model: str, read_out: str) -> str:
    """Name of a read-out in tables; no model has a colon in its own."""
    return f"{model}: {read_out}"


def collect(results: Iterable[Mapping[str, Any]], data: str, metric: str) -> Scores:
    """Finite values of one metric on one data set, by model and seed."""
    scores: Scores = {}
    for result in results:
        if result["status"] != "ok" or result["data"] != data:
            continue
        value = result["metrics"].get(metric)
        if value is not None and math.isfinite(value):
            scores.setdefault(result["model"], {})[result["seed"]] = value
    return scores


def macro_average(results: list[dict[str, Any]], data: Iterable[str], metric: str) -> Scores:
    """Mean over the data sets, for the models and seeds that have a value on every one of them."""
    columns = [collect(results, name, metric) for name in data]
    columns = [column for column in columns if column]
    averages: Scores = {}
    for model in columns[0] if columns else ():
        seeds = set.intersection(*(set(column.get(model, {})) for column in columns))
        if seeds:
            averages[model] = {
                seed: plain_statistics.fmean(column[model][seed] for column in columns) for seed in sorted(seeds)
            }
    return averages


def write_tables(config: BenchmarkConfig, command: str = "") -> None:
    """Write ``results.csv`` and ``table.md`` of what is finished.

    Args:
        config: The benchmark.
        command: Command line that made it, printed above the tables.
    """
    results = finished_results(config)
    write_atomically(config.output / "results.csv", lambda file: file.write(_csv(results).encode()))
    write_atomically(config.output / "table.md", lambda file: file.write(_markdown(config, results, command).encode()))


def write_figures(config: BenchmarkConfig) -> list[Path]:
    """Draw the figures of what is finished; none if nothing is."""
    results = finished_results(config)
    if not any(result["status"] == "ok" for result in results):
        return []
    from anomalib_scrd.benchmark.quality.figures import draw_all

    return draw_all(config, results)


def _csv(results: list[dict[str, Any]]) -> str:
    columns = ["data", "model", "seed", "status", "key", *METRICS, "threshold", "threshold_method"]
    columns += [*_COSTS, *_COUNTS, "device", "torch", "anomalib", "code", "data_digest", "started", "seconds"]
    exported = sorted({export for result in results for export in result.get("exports", {})})
    columns += [*(f"image_auroc {export}" for export in exported), "concurrent", "notes", "error"]
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for result in _with_read_outs(results):
        threshold = result.get("threshold", {})
        row = {**result, **result.get("metrics", {}), **result.get("cost", {}), **result.get("counts", {})}
        row |= result.get("machine", {})
        row |= {f"image_auroc {name}": found.get("image_auroc") for name, found in result.get("exports", {}).items()}
        row |= {"threshold": threshold.get("value"), "threshold_method": threshold.get("method")}
        row["notes"] = "; ".join(result.get("notes", []))
        writer.writerow(row)
    return file.getvalue()


def _markdown(config: BenchmarkConfig, results: list[dict[str, Any]], command: str) -> str:
    good = [result for result in results if result["status"] == "ok"]
    rows = _with_read_outs(good)
    lines = ["# Benchmark", ""]
    if command:
        lines += ["```", command, "```", ""]
    lines += _protocol(config, good)
    warnings = _warnings(config, results)
    if warnings:
        lines += ["## Warnings", "", *(f"- {warning}" for warning in warnings), ""]
    for data in config.data:
        columns = {metric: collect(rows, data, metric) for metric in METRICS}
        lines += [f"## {data}", "", *_score_table(config, columns), *_cost_table(config, good, data)]
    if len(config.data) > 1:
        columns = {metric: macro_average(rows, config.data, metric) for metric in METRICS}
        lines += [f"## {_MACRO[0].upper()}{_MACRO[1:]}", "", *_score_table(config, columns)]
    lines += _scale_table(config, good)
    lines += _export_table(config, good)
    lines += _difference_table(config, rows)
    lines += _candidate_table(config, rows)
    failed = [result for result in results if result["status"] != "ok"]
    if failed:
        lines += ["## Failed runs", "", "| data set | model | seed | error | where |", "|---|---|---|---|---|"]
        lines += [
            f"| {r['data']} | {r['model']} | {r['seed']} | {_one_line(r['error'])} | {r['traceback']} |" for r in failed
        ]
        lines.append("")
    return "\n".join(lines)


def _protocol(config: BenchmarkConfig, good: list[dict[str, Any]]) -> list[str]:
    height, width = config.image_size
    rule = f"their {config.threshold.quantile:g} quantile"
    if config.threshold.method == "synthetic":
        rule = "the best F1 between them and Perlin anomalies drawn on them"
    held_out = "No image is held out."
    if config.holdout:
        held_out = (
            f"{config.holdout:.0%} of the normal training images (split seed {config.split_seed}, the same for all) "
            f"are held out; the threshold of F1 and accuracy is {rule}."
        )
    text = (
        f"Input {height} x {width} for all models, precision {config.precision}, seeds {config.seeds}, set before a "
        f"model is built. {held_out} The last state of each training is scored, on raw scores; no test image chose "
        "anything, except where a column says so. Mean ± half of the 95 % interval over seeds (Student's t); without ± "
        "there is one seed."
    )
    lines = [text, ""]
    machines = sorted({_machine(result) for result in good})
    return lines + [f"Machine: {machine}." for machine in machines] + ([""] if machines else [])


def _machine(result: Mapping[str, Any]) -> str:
    machine = result["machine"]
    threads = f", {machine['threads']} threads" if result["cost"]["memory_kind"] == "resident set" else ""
    return f"{machine['device']}{threads}, torch {machine['torch']}, anomalib {machine['anomalib']}"


def _warnings(config: BenchmarkConfig, results: list[dict[str, Any]]) -> list[str]:
    found = [
        f"{result['data']}, {result['model']}, seed {result['seed']}: {note}"
        for result in results
        for note in result.get("notes", [])
    ]
    for name in config.models:
        codes = {result["code"] for result in results if result["model"] == name and result["status"] == "ok"}
        now = code_digest(config.model(name).class_path)
        if codes - {now}:
            found.append(
                f"{name}: results made with other code ({', '.join(sorted(codes - {now}))}) than there is now ({now}); "
                "remove their files under runs/ to make them again"
            )
    for data in config.data:
        digests = {result["data_digest"] for result in results if result["data"] == data and result["status"] == "ok"}
        if len(digests) > 1:
            found.append(f"{data}: the images differ between runs ({', '.join(sorted(digests))})")
        for name in config.models:
            done = [r for r in results if (r["data"], r["model"], r["status"]) == (data, name, "ok")]
            if 0 < len(done) < len(config.seeds):
                found.append(f"{data}, {name}: {len(done)} of {len(config.seeds)} seeds")
    concurrent = max((result.get("concurrent", 1) for result in results), default=1)
    if concurrent > 1:
        found.append(f"up to {concurrent} runs shared the processor: times are longer than alone")
    return found


def _score_table(config: BenchmarkConfig, columns: Mapping[str, Scores]) -> list[str]:
    shown = [metric for metric, scores in columns.items() if scores]
    if not shown:
        return ["Nothing finished.", ""]
    lines = [f"| model | {' | '.join(METRICS[metric] for metric in shown)} |", "|---" * (len(shown) + 1) + "|"]
    for model in _rows(config):
        cells = [_cell(estimate(list(columns[metric].get(model, {}).values()))) for metric in shown]
        if any(cell != "-" for cell in cells):
            lines.append(f"| {_title(config, model)} | {' | '.join(cells)} |")
    return [*lines, ""]


def _rows(config: BenchmarkConfig) -> list[str]:
    """Models, each before its read-outs."""
    names = []
    for model in config.models:
        names += [model, *(_read_out_title(model, name) for name in config.model(model).read_outs)]
    return names


def _cost_table(config: BenchmarkConfig, good: list[dict[str, Any]], data: str) -> list[str]:
    titles = {
        "train_seconds": "training, s",
        "batches": "training batches",
        "ms_per_image": "test, ms per image",
        "train_memory_mib": "peak memory training, MiB",
        "test_memory_mib": "peak memory test, MiB",
        "parameters": "parameters, million",
        "trainable": "of them trained",
        "size_mib": "size, MiB",
    }
    lines = [f"| model | {' | '.join(titles.values())} |", "|---" * (len(titles) + 1) + "|"]
    start = len(lines)
    for model in config.models:
        costs = [result["cost"] for result in good if (result["data"], result["model"]) == (data, model)]
        if costs:
            means = {name: plain_statistics.fmean(cost[name] for cost in costs) for name in titles}
            means["parameters"] /= 1e6
            means["trainable"] /= 1e6
            cells = [f"{value:.0f}" if value >= 100 or value == 0 else f"{value:.3g}" for value in means.values()]  # noqa: PLR2004
            lines.append(f"| {_title(config, model)} | {' | '.join(cells)} |")
    return [*lines, ""] if len(lines) > start else []


def _scale_table(config: BenchmarkConfig, good: list[dict[str, Any]]) -> list[str]:
    rows = []
    for data in config.data:
        for name in config.models:
            found = [r["scales"] for r in good if (r["data"], r["model"]) == (data, name) and r.get("scales")]
            if found:
                cells = [_cell(estimate([scales["entropy"] for scales in found]))]
                for key in ("weights", "weight_spreads", "pull_first", "pull_last"):
                    columns = zip(*(scales[key] for scales in found if scales[key]), strict=True)
                    cells.append(", ".join(f"{plain_statistics.fmean(column):.3f}" for column in columns) or "-")
                rows.append(f"| {data} | {name} | {' | '.join(cells)} |")
    if not rows:
        return []
    titles = ["entropy / largest", "weights", "their spread between images", "first pull logged", "last pull"]
    return [
        "## Weights of the scales",
        "",
        "On the held-out normal images, finest scale first, mean over seeds.",
        "",
        f"| data set | model | {' | '.join(titles)} |",
        "|---" * (len(titles) + 2) + "|",
        *rows,
        "",
    ]


def _export_table(config: BenchmarkConfig, good: list[dict[str, Any]]) -> list[str]:
    metrics = ("image_auroc", "pixel_auroc")
    rows = []
    for data in config.data:
        for name in config.models:
            results = [r for r in good if (r["data"], r["model"]) == (data, name)]
            for export in config.model(name).exports:
                cells = []
                for metric in metrics:
                    trained = collect(results, data, metric).get(name, {})
                    exported = collect([{**r, "metrics": r["exports"].get(export, {})} for r in results], data, metric)
                    values = exported.get(name, {})
                    cells += [_cell(estimate(list(values.values())))]
                    cells += [_signed(paired_difference(values, trained)) if values else "-"]
                if cells[0] != "-":
                    rows.append(f"| {data} | {name} | {export} | {' | '.join(cells)} |")
    if not rows:
        return []
    titles = " | ".join(f"{METRICS[metric]} | less the trained model's [95 % interval]" for metric in metrics)
    head = [f"| data set | model | export | {titles} |", "|---" * (3 + 2 * len(metrics)) + "|"]
    return ["## Exported models", "", *head, *rows, ""]


def _difference_table(config: BenchmarkConfig, good: list[dict[str, Any]]) -> list[str]:
    rows = []
    places = [*config.data, *([_MACRO] if len(config.data) > 1 else [])]
    for candidate in config.candidates:
        for place in places:
            for metric, title in METRICS.items():
                scores = macro_average(good, config.data, metric) if place == _MACRO else collect(good, place, metric)
                baselines = {name: values for name, values in scores.items() if name not in config.candidates}
                best = best_name(baselines)
                if best is None or candidate not in scores:
                    continue
                difference = paired_difference(scores[candidate], baselines[best])
                if difference.count:
                    rows.append(
                        f"| {place} | {title} | {candidate} | {best} | {_signed(difference)} | {difference.count} |"
                    )
    if not rows:
        return []
    return [
        "## Paired difference to the best baseline",
        "",
        "The best baseline is chosen per data set and metric by its mean on the test set, which can only favour it.",
        "The interval is that of the differences seed by seed.",
        "",
        "| data set | metric | model | best baseline | difference [95 % interval] | seeds |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
    ]


def _candidate_table(config: BenchmarkConfig, good: list[dict[str, Any]]) -> list[str]:
    """What every other row of the tables is away from the candidate; for more than one there are too many pairs."""
    if len(config.candidates) != 1:
        return []
    (candidate,) = config.candidates
    scores = {data: collect(good, data, "image_auroc") for data in config.data}
    if len(config.data) > 1:
        scores[_MACRO] = macro_average(good, config.data, "image_auroc")
    rows = []
    for name in _rows(config):
        pairs = [paired_difference(found.get(name, {}), found.get(candidate, {})) for found in scores.values()]
        if name != candidate and any(pair.count for pair in pairs):
            rows.append(f"| {name} | {' | '.join(_signed(pair) if pair.count else '-' for pair in pairs)} |")
    if not rows:
        return []
    return [
        f"## Paired difference to {candidate}",
        "",
        f"{METRICS['image_auroc']} less that of {candidate}, seed by seed [95 % interval].",
        "",
        f"| model | {' | '.join(scores)} |",
        "|---" * (len(scores) + 1) + "|",
        *rows,
        "",
    ]


def _cell(value: Estimate) -> str:
    if value.count == 0:
        return "-"
    return f"{value.mean:.4f}" if value.count == 1 else f"{value.mean:.4f} ± {value.half_width:.4f}"


def _signed(value: Estimate) -> str:
    interval = "" if value.count == 1 else f" [{value.low:+.4f}, {value.high:+.4f}]"
    return f"{value.mean:+.4f}{interval}"


def _title(config: BenchmarkConfig, model: str) -> str:
    return f"**{model}**" if model in config.candidates else model


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")[:300]
