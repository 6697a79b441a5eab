"""Charts as inline SVG, without scripts and other files."""

__all__ = ["histogram", "scatter"]

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 720, 240, 48, 44, 28
_BINS = 40


class Series(NamedTuple):
    """Values of one kind.

    Attributes:
        name: Name in the legend.
        style: Class of the page's style sheet: normal, anomalous or plain.
        values: The values.
    """

    name: str
    style: str
    values: Sequence[float]


def histogram(series: Sequence[Series], threshold: float | None, label: str) -> str:
    """Draw the distribution of scores.

    Args:
        series: One or two kinds of scores, drawn over each other, each as shares of its number.
        threshold: Position of the threshold's line; None for none.
        label: Label of the axis.

    Returns:
        SVG.
    """
    everything = np.concatenate([np.asarray(part.values, float) for part in series])
    marks = [] if threshold is None else [threshold]
    low, high = _range([*everything.tolist(), *marks])
    edges = np.linspace(low, high, _BINS + 1)
    counts = [np.histogram(np.asarray(part.values, float), edges)[0] for part in series]
    shares = [count / max(1, len(part.values)) for count, part in zip(counts, series, strict=True)]
    top = max(float(part.max()) for part in shares) or 1.0

    def x(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - 8)

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - value / top * (_HEIGHT - _BOTTOM - _TOP)

    parts = []
    for part, count, share in zip(series, counts, shares, strict=True):
        for index in np.flatnonzero(count):
            left, right = x(edges[index]), x(edges[index + 1])
            height = y(0) - y(share[index])
            note = (
                f"{part.name}: {count[index]} of {len(part.values)} from {edges[index]:.3g} to {edges[index + 1]:.3g}"
            )
            parts.append(
                f'<rect class="bar {part.style}" x="{left + 0.5:.1f}" y="{y(share[index]):.1f}" '
                f'width="{max(1, right - left - 1):.1f}" height="{height:.1f}"><title>{escape(note)}</title></rect>'
            )
    for value in (0, top / 2, top):
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - 8}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.0%}</text>')
    parts += _ticks(low, high, x, y(0))
    if threshold is not None:
        at = x(threshold)
        side, shift = ("end", -6) if at > _WIDTH * 0.8 else ("start", 6)
        parts.append(f'<line class="threshold" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP - 14}" y2="{y(0):.1f}"/>')
        place = f'x="{at + shift:.1f}" y="{_TOP - 4}" text-anchor="{side}"'
        parts.append(f'<text class="mark" {place}>threshold {threshold:.3g}</text>')
    parts.append(
        f'<text class="tick" x="{(_WIDTH + _LEFT) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(label)}</text>'
    )
    legend = "".join(
        f'<span class="key {part.style}">{escape(part.name)} ({len(part.values)})</span>' for part in series
    )
    return f"<figure>{_svg(parts, label)}<figcaption>{legend} Share of images of each kind.</figcaption></figure>"


def scatter(pairs: Sequence[tuple[float, float]], across: str, up: str) -> str:
    """Draw pairs of values that should be equal, with the diagonal.

    Args:
        pairs: Points (x, y).
        across: Label of the x axis.
        up: Label of the y axis.

    Returns:
        SVG.
    """
    low, high = _range([value for pair in pairs for value in pair])
    side = _HEIGHT + 60

    def scale(value: float) -> float:
        return (value - low) / (high - low) * (side - _LEFT - _BOTTOM)

    points = [
        f'<circle class="point" cx="{_LEFT + scale(a):.1f}" cy="{side - _BOTTOM - scale(b):.1f}" r="3">'
        f"<title>{a:.6g}, {b:.6g}</title></circle>"
        for a, b in pairs
    ]
    end = side - _LEFT - _BOTTOM
    line = f'<line class="grid" x1="{_LEFT}" y1="{side - _BOTTOM}" x2="{_LEFT + end}" y2="{side - _BOTTOM - end}"/>'
    turned = f'x="14" y="{side / 2}" text-anchor="middle" transform="rotate(-90 14 {side / 2})"'
    names = [
        f'<text class="tick" x="{_LEFT + end / 2}" y="{side - 8}" text-anchor="middle">{escape(across)}</text>',
        f'<text class="tick" {turned}>{escape(up)}</text>',
        *_ticks(low, high, lambda value: _LEFT + scale(value), side - _BOTTOM),
        *(
            f'<text class="tick" x="{_LEFT - 6}" y="{side - _BOTTOM - scale(value) + 4:.1f}" text-anchor="end">'
            f"{value:.6g}</text>"
            for value in _round_values(low, high)
        ),
    ]
    return f"<figure>{_svg([line, *points, *names], f'{up} over {across}', side, side)}</figure>"


def _svg(parts: Sequence[str], label: str, width: int = _WIDTH, height: int = _HEIGHT) -> str:
    box = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return f'<svg {box} role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.02 * (high - low) or 0.5
    return low - margin, high + margin


def _ticks(low: float, high: float, x: object, y: float) -> list[str]:
    return [
        f'<text class="tick" x="{x(value):.1f}" y="{y + 18:.1f}" text-anchor="middle">{value:.6g}</text>'  # type: ignore[operator]
        for value in _round_values(low, high)
    ]


def _round_values(low: float, high: float) -> list[float]:
    """At most eight round numbers in a range."""
    step = 10 ** math.floor(math.log10((high - low) / 2))
    step = next(step * factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 8)  # noqa: PLR2004
    first = math.ceil(low / step)
    return [index * step for index in range(first, math.floor(high / step) + 1)]
