"""Writes what was measured: JSON with every sample, Markdown, and what is printed."""

__all__ = ["Report", "section_lines", "write_report"]

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from anomalib_scrd.benchmark.quality.store import write_atomically
from anomalib_scrd.benchmark.speed.config import SpeedConfig
from anomalib_scrd.benchmark.speed.section import Section


@dataclass
class Report:
    """A measurement.

    Args:
        config: What was to be measured.
        command: Command line that started it.
        machine: Where.
        sections: Results by the name of the section.
        failed: Why a section has no result, by its name.
    """

    config: SpeedConfig
    command: str
    machine: Mapping[str, Any]
    sections: dict[str, Section] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def head(self) -> list[str]:
        """Markdown lines on top: command, machine, settings."""
        config = self.config
        layers = "maps of strides 4, 8, 16" if config.layers is None else ", ".join(config.layers)
        settings = (
            f"{config.backbone} ({layers}), {config.image_size[0]} x {config.image_size[1]}, batch {config.batch}, "
            f"precision {config.precision}, {config.rounds} rounds after {config.warmup} untimed ones, seed "
            f"{config.seed}{', compiled' if config.compile else ''}{', channels last' if config.channels_last else ''}"
        )
        machine = "; ".join(f"{name} {value}" for name, value in self.machine.items())
        reading = (
            "Times are medians with quartiles in round brackets. Contenders run in turn, each round in another order; "
            "ratios are medians of the ratios round by round, with a 95 % interval in square brackets where there are "
            "enough rounds."
        )
        return [
            "# Speed",
            "",
            "```",
            self.command,
            "```",
            "",
            f"{settings}.",
            "",
            f"Machine: {machine}.",
            "",
            reading,
            "",
        ]


def section_lines(name: str, report: Report) -> list[str]:
    """Markdown lines of a section."""
    if name in report.failed:
        return [f"## {name}", "", f"FAILED: {_cell(report.failed[name])}", ""]
    section = report.sections[name]
    lines = [f"## {name}", ""]
    for table in section.tables:
        lines += [f"### {table.title}", "", _row(table.columns), "|---" * len(table.columns) + "|"]
        lines += [*map(_row, table.rows), ""]
    if section.errors:
        lines += ["Missing:", "", *(f"- {who}: {_cell(error)}" for who, error in section.errors.items()), ""]
    return lines + [line for note in section.notes for line in (note, "")]


def write_report(report: Report) -> list[Path]:
    """Write ``speed.json``, ``speed.md`` and, if anything was measured, ``speed.png``.

    Args:
        report: What is finished.

    Returns:
        The files.
    """
    names = [name for name in report.config.sections if name in report.sections or name in report.failed]
    markdown = "\n".join([*report.head(), *(line for name in names for line in section_lines(name, report))])
    # `asdict` copies the sections as well; what is not a number has no place in JSON
    text = json.dumps(_plain(asdict(report)), indent=1, default=str, allow_nan=False)
    files = [report.config.output / "speed.json", report.config.output / "speed.md"]
    for path, content in zip(files, (text, markdown), strict=True):
        write_atomically(path, lambda file, content=content: file.write(content.encode()))  # type: ignore[misc]
    panels = [panel for section in report.sections.values() for panel in section.panels if panel.values]
    if panels:
        from anomalib_scrd.benchmark.speed.figure import draw

        files.append(draw(panels, report.config.output / "speed.png"))
    return files


def _row(cells: list[Any]) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")[:300]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
