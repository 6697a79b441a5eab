"""What a section of the measurement hands over, and the forms in which numbers are shown."""

__all__ = ["Panel", "Section", "Table", "interval", "isolated", "number", "spread"]

import math
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from anomalib_scrd.benchmark.speed.timing import Samples, Summary, reason


@dataclass
class Table:
    """A table.

    Args:
        title: What it shows.
        columns: Heads of the columns.
        rows: Cells, as text or numbers.
    """

    title: str
    columns: list[str]
    rows: list[list[Any]]


@dataclass
class Panel:
    """A panel of the figure: one bar with whiskers for each value.

    Args:
        title: What it shows, with the unit.
        values: Values by label.
    """

    title: str
    values: dict[str, Summary]


@dataclass
class Section:
    """The result of a section.

    Args:
        tables: Tables, in order.
        panels: Panels of the figure.
        samples: All times in seconds: of each contender, by group.
        errors: Why a contender is missing, by its name.
        notes: What to know when reading the tables.
    """

    tables: list[Table] = field(default_factory=list)
    panels: list[Panel] = field(default_factory=list)
    samples: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def take(self, group: str, samples: Samples) -> dict[str, list[float]]:
        """Keep the times and errors of a group of contenders; returns the times."""
        self.samples[group] = samples.seconds
        self.errors |= samples.errors
        return samples.seconds

    def attempt(self, name: str, work: Callable[[], Any]) -> Any:
        """The result of some work; where it fails, None, and the error is kept under a name."""
        try:
            return work()
        except Exception as error:  # noqa: BLE001  (one failure leaves the others)
            self.errors[name] = reason(error)
            return None


def number(value: float) -> str:
    """Three significant digits, whole numbers from 100 on, ``-`` for what there is not."""
    if not math.isfinite(value):
        return "-"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"  # noqa: PLR2004


def spread(value: Summary, factor: float = 1.0) -> str:
    """A median and its quartiles, in another unit."""
    value = value.scaled(factor)
    return f"{number(value.median)} ({number(value.low)} to {number(value.high)})"


def interval(value: Summary) -> str:
    """A ratio and its interval, which few rounds do not have."""
    text = f"{value.median:.3f}"
    return text if math.isnan(value.low) else f"{text} [{value.low:.3f}, {value.high:.3f}]"


def isolated(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function in a process of its own: its memory is measured alone, and its death is an exception here.

    Args:
        function: Function of a module, with arguments and a result that can be pickled.
        *args: Its arguments.

    Returns:
        Its result.
    """
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()
