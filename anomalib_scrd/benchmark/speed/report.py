"""Results of a section, and the files that they are written to."""

__all__ = ["Section", "write_report"]

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from anomalib_scrd.benchmark.files import markdown_table, write_text
from anomalib_scrd.benchmark.speed.timing import reason


@dataclass
class Section:
    """The result of a section.

    Args:
        tables: Tables by title, their cells as text.
        samples: All times in seconds by group: a row per round, a column per contender.
        errors: Reason why a contender is missing, by its name.
        notes: Explanations of the tables.
    """

    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    samples: dict[str, pd.DataFrame] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def attempt(self, name: str, work: Callable[[], Any]) -> Any:
        """Return the result of some work; if it fails None, and keep the error under a name."""
        try:
            return work()
        except Exception as error:  # noqa: BLE001  (one failure leaves the others)
            self.errors[name] = reason(error)
            return None

    def lines(self) -> list[str]:
        """Markdown lines."""
        lines = []
        for title, table in self.tables.items():
            lines += [f"### {title}", "", *markdown_table(table)]
        if self.errors:
            lines += ["Missing:", "", *(f"- {who}: {error}" for who, error in self.errors.items()), ""]
        return lines + [line for note in self.notes for line in (note, "")]


def write_report(folder: Path, head: Sequence[str], sections: Mapping[str, Section]) -> None:
    """Write ``speed.md``, with the lines ``head`` on top, and ``speed.csv``, which holds every sample."""
    parts = [[f"## {name}", "", *section.lines()] for name, section in sections.items()]
    write_text(folder / "speed.md", "\n".join(sum(parts, list(head))))
    samples = [
        seconds.melt(ignore_index=False, var_name="contender", value_name="seconds").assign(group=group)
        for section in sections.values()
        for group, seconds in section.samples.items()
    ]
    if samples:
        write_text(folder / "speed.csv", pd.concat(samples).to_csv(index_label="round"))
