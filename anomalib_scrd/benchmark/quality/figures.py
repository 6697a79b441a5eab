"""Figures of a benchmark: scores of all models, heat maps of the best and worst cases."""

__all__ = ["draw_figures"]

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from anomalib_scrd.atomic_files import replacing
from anomalib_scrd.benchmark.quality.config import BenchmarkConfig
from anomalib_scrd.benchmark.quality.intervals import estimate
from anomalib_scrd.benchmark.quality.metrics import METRICS
from anomalib_scrd.benchmark.quality.results import RunStore, results_frame, score_frame

_PANEL = 4.2  # inches
_SCORES = ("image_auroc", "pixel_ap", "pixel_aupro")
_GROUPS = {"best": "highest anomalies", "missed": "lowest anomalies", "false alarm": "highest normal images"}


def draw_figures(config: BenchmarkConfig) -> list[Path]:
    """Draw the figures of all finished runs as PNG files under ``figures/``; return the files."""
    store, folder = RunStore(config.output), config.output / "figures"
    finished = {(run.data, run.model): run for run in reversed(config.runs()) if store.is_finished(run)}
    if not finished:
        return []
    files = [_save(_scores(config), folder / "scores.png")]
    for (data, model), run in reversed(finished.items()):  # of the first seed
        with np.load(store.path(run, ".npz"), allow_pickle=False) as arrays:
            if "case_maps" in arrays:
                files.append(_save(_cases(f"{data}, {model}", arrays), folder / f"cases_{data}_{model}.png"))
    return files


def _scores(config: BenchmarkConfig) -> Figure:
    """One panel per metric; models next to each other in each data set, with their intervals."""
    frame = results_frame(RunStore(config.output).all(config))
    scores = {metric: found for metric in _SCORES if not (found := score_frame(frame, metric)).empty}
    figure = Figure(figsize=(_PANEL * len(scores), _PANEL), layout="constrained")
    axes = figure.subplots(1, len(scores), squeeze=False)[0]
    for axis, (metric, found) in zip(axes, scores.items(), strict=True):
        sets = list(found.index.unique("data"))
        for place, model in enumerate(found):
            values = [estimate(found.loc[[data], model].dropna()) for data in sets]
            means = np.array([value.mean for value in values])
            errors = np.nan_to_num([value.high - value.mean for value in values])
            positions = np.arange(len(sets)) + (place + 0.5) * 0.8 / len(found.columns) - 0.4
            axis.errorbar(positions, means, errors, fmt="o", capsize=3, label=model)
        axis.set_xticks(np.arange(len(sets)), sets, rotation=20)
        axis.set_title(METRICS[metric])
        axis.grid(visible=True, axis="y", alpha=0.3)
    axes[0].legend(fontsize=7)
    return figure


def _cases(title: str, stored: Mapping[str, NDArray[Any]]) -> Figure:
    """Image with the outline of the defect, and the anomaly map; all maps share one colour scale."""
    kinds, maps, images, masks, scores = (
        stored[f"case_{part}"] for part in ("kinds", "maps", "images", "masks", "scores")
    )
    groups = [kind for kind in _GROUPS if (kinds == kind).any()]
    most = max(int((kinds == kind).sum()) for kind in groups)
    figure = Figure(figsize=(2 * 1.6 * most, 1.8 * len(groups) + 0.5), layout="constrained")
    axes = figure.subplots(len(groups), 2 * most, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    shown: Any = None
    for row, kind in enumerate(groups):
        for place, index in enumerate(np.flatnonzero(kinds == kind)):
            left, right = axes[row, 2 * place], axes[row, 2 * place + 1]
            left.imshow(images[index])
            if masks[index].any():
                left.contour(masks[index], levels=[0.5], colors="lime", linewidths=0.8)
            left.set_title(_GROUPS[kind] if place == 0 else "", fontsize=7, loc="left")
            shown = right.imshow(maps[index], cmap="inferno", vmin=float(maps.min()), vmax=float(maps.max()))
            right.set_title(f"{scores[index]:.3g}", fontsize=7)
    figure.colorbar(shown, ax=axes, shrink=0.6, label="raw anomaly map")
    figure.suptitle(title, fontsize=9)
    return figure


def _save(figure: Figure, path: Path) -> Path:
    with replacing(path) as part:
        FigureCanvasAgg(figure).print_png(part)  # without a display and without global state
    return path
