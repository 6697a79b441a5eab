"""The figure of a measurement."""

__all__ = ["draw"]

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from anomalib_scrd.benchmark.quality.store import write_atomically
from anomalib_scrd.benchmark.speed.section import Panel

_COLUMNS = 3
_WIDTH = 5.5  # inches
_BAR = 0.32


def draw(panels: Sequence[Panel], path: Path) -> Path:
    """Draw one panel for each group of contenders: bars with whiskers.

    Args:
        panels: What to draw.
        path: PNG file.

    Returns:
        The file.
    """
    columns = min(_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    tallest = max(len(panel.values) for panel in panels)
    figure = Figure(figsize=(_WIDTH * columns, (1 + _BAR * tallest) * rows), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).flat
    for axis in axes:
        axis.axis("off")
    for axis, panel in zip(figure.axes, panels, strict=False):
        axis.axis("on")
        medians = np.array([value.median for value in panel.values.values()])
        whiskers = np.array([[value.median - value.low, value.high - value.median] for value in panel.values.values()])
        places = np.arange(len(medians))
        axis.barh(places, medians, xerr=np.nan_to_num(whiskers.T).clip(min=0), color="#56b4e9", capsize=3)
        axis.set_yticks(places, list(panel.values), fontsize=7)
        axis.invert_yaxis()
        axis.set_title(panel.title, fontsize=9)
        axis.grid(visible=True, axis="x", alpha=0.3)
    canvas = FigureCanvasAgg(figure)  # no display is needed, and no global state is touched
    write_atomically(path, canvas.print_png)
    return path
