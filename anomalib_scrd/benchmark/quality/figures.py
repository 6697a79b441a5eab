"""Figures of a benchmark: scores, ROC curves, score against time, heat maps of the best and worst cases."""

__all__ = ["draw_all"]

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from anomalib_scrd.benchmark.quality.config import BenchmarkConfig
from anomalib_scrd.benchmark.quality.intervals import estimate
from anomalib_scrd.benchmark.quality.report import METRICS, collect
from anomalib_scrd.benchmark.quality.store import RunStore, write_atomically

_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#666666", "#b3a000")
_PANEL = 4.2  # inches
_PLAIN = FuncFormatter(lambda value, _: f"{value:g}")
_TITLES = {"best": "highest anomalies", "missed": "lowest anomalies", "false alarm": "highest normal images"}

Results = list[dict[str, Any]]


def draw_all(config: BenchmarkConfig, results: Results) -> list[Path]:
    """Draw every figure that the results allow.

    Args:
        config: The benchmark.
        results: Its results; failed runs are left out.

    Returns:
        The files, PNG, under ``figures/``.
    """
    good = [result for result in results if result["status"] == "ok"]
    folder = config.output / "figures"
    files = [
        _save(_scores(config, good), folder / "scores.png"),
        _save(_roc(config, good), folder / "roc.png"),
        _save(_against_time(config, good), folder / "time.png"),
    ]
    arrays = _arrays(config)
    for data in config.data:
        for model in config.models:
            first = next((arrays[key] for key in arrays if key[:2] == (data, model)), None)
            if first is not None and "case_maps" in first:
                files.append(_save(_cases(data, model, first), folder / f"cases_{data}_{model}.png"))
    return files


def _arrays(config: BenchmarkConfig) -> dict[tuple[str, str, int], Mapping[str, NDArray[Any]]]:
    """Return the stored arrays of the finished runs by data set, model and seed, the lowest seed first."""
    store = RunStore(config.output)
    found = {}
    for run in sorted(config.runs(), key=lambda run: run.seed):
        path = store.path(run, ".npz")
        if store.is_finished(run) and path.exists():
            found[run.data, run.model, run.seed] = np.load(path, allow_pickle=False)
    return found


def _scores(config: BenchmarkConfig, good: Results) -> Figure:
    """One panel per metric; models beside each other within each data set, with their intervals."""
    drawn = ("image_auroc", "image_ap", "pixel_auroc", "pixel_aupro")
    shown = [metric for metric in drawn if any(metric in result["metrics"] for result in good)]
    figure, axes = _panels(len(shown))
    models = [model for model in config.models if any(result["model"] == model for result in good)]
    width = 0.8 / len(models)
    for axis, metric in zip(axes, shown, strict=True):
        lowest = 1.0
        for place, model in enumerate(models):
            values = [estimate(list(collect(good, data, metric).get(model, {}).values())) for data in config.data]
            positions = np.arange(len(config.data)) + (place + 0.5) * width - 0.4
            means = np.array([value.mean for value in values])
            errors = np.nan_to_num([value.half_width for value in values])
            axis.errorbar(positions, means, errors, fmt="o", capsize=3, color=_colour(config, model), label=model)
            if np.isfinite(means).any():
                lowest = min(lowest, float(np.nanmin(means - errors)))
        axis.set_xticks(np.arange(len(config.data)), list(config.data))
        axis.set_xlim(-0.5, len(config.data) - 0.5)
        axis.set_ylim(max(0.0, lowest - 0.05), 1.005)
        axis.set_title(METRICS[metric])
        axis.grid(visible=True, axis="y", alpha=0.3)
    axes[0].legend(fontsize=8)
    return figure


def _roc(config: BenchmarkConfig, good: Results) -> Figure:
    """One panel per data set, one thin curve per seed."""
    del good
    figure, axes = _panels(len(config.data))
    for axis, data in zip(axes, config.data, strict=True):
        labelled = set()
        for (name, model, _), stored in _arrays(config).items():
            if name != data:
                continue
            false_positive, true_positive, _ = roc_curve(stored["labels"], stored["scores"])
            label = None if model in labelled else model
            labelled.add(model)
            axis.plot(false_positive, true_positive, color=_colour(config, model), label=label, linewidth=1.2)
        axis.plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
        axis.set(title=data, xlabel="false positive rate", ylabel="true positive rate", aspect="equal")
        if labelled:
            axis.legend(fontsize=8, loc="lower right")
    return figure


def _against_time(config: BenchmarkConfig, good: Results) -> Figure:
    """Image AUROC against training time (above) and time per image (below), one column per data set."""
    figure, axes = _panels(len(config.data), rows=2)
    columns = len(config.data)
    for index, (cost, title) in enumerate((("train_seconds", "training, s"), ("ms_per_image", "test, ms per image"))):
        for axis, data in zip(axes[index * columns : (index + 1) * columns], config.data, strict=True):
            for model in config.models:
                runs = [result for result in good if (result["data"], result["model"]) == (data, model)]
                if runs:
                    seconds = [result["cost"][cost] for result in runs]
                    scores = [result["metrics"]["image_auroc"] for result in runs]
                    marker = "*" if model in config.candidates else "o"
                    axis.scatter(seconds, scores, color=_colour(config, model), marker=marker, s=50, label=model)
            axis.set(xscale="log", xlabel=title, ylabel="image AUROC", title=data)
            axis.grid(visible=True, which="both", alpha=0.3)
            axis.xaxis.set_major_formatter(_PLAIN)
            axis.xaxis.set_minor_formatter(NullFormatter())
    axes[0].legend(fontsize=8)
    return figure


def _cases(data: str, model: str, stored: Mapping[str, NDArray[Any]]) -> Figure:
    """Image with the outline of the defect, and the anomaly map; all maps share one colour scale."""
    kinds, maps = stored["case_kinds"], stored["case_maps"]
    groups = [kind for kind in _TITLES if (kinds == kind).any()]
    most = max(int((kinds == kind).sum()) for kind in groups)
    figure = Figure(figsize=(2 * 1.6 * most, 1.8 * len(groups) + 0.5), layout="constrained")
    axes = np.atleast_2d(figure.subplots(len(groups), 2 * most, squeeze=False))
    for axis in axes.flat:
        axis.axis("off")
    shown = None
    for row, kind in enumerate(groups):
        for place, index in enumerate(np.flatnonzero(kinds == kind)):
            left, right = axes[row, 2 * place], axes[row, 2 * place + 1]
            left.imshow(stored["case_images"][index])
            mask = stored["case_masks"][index]
            if mask.any():
                left.contour(mask, levels=[0.5], colors="lime", linewidths=0.8)
            left.set_title(_TITLES[kind] if place == 0 else "", fontsize=7, loc="left")
            shown = right.imshow(maps[index], cmap="inferno", vmin=float(maps.min()), vmax=float(maps.max()))
            right.set_title(f"{stored['case_scores'][index]:.3g}", fontsize=7)
    if shown is not None:
        figure.colorbar(shown, ax=axes, shrink=0.6, label="raw anomaly map")
    figure.suptitle(f"{data}, {model}", fontsize=9)
    return figure


def _panels(columns: int, rows: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(_PANEL * columns, _PANEL * 0.85 * rows), layout="constrained")
    return figure, list(np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).flat)


def _colour(config: BenchmarkConfig, model: str) -> str:
    return _COLOURS[list(config.models).index(model) % len(_COLOURS)]


def _save(figure: Figure, path: Path) -> Path:
    canvas = FigureCanvasAgg(figure)  # no display is needed, and no global state is touched
    write_atomically(path, canvas.print_png)
    return path
