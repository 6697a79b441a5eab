"""Atomic writing of results, and Markdown tables."""

__all__ = ["markdown_table", "write_text"]

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from anomalib_scrd.atomic_files import replacing


def write_text(path: Path, text: str) -> None:
    """Write a file atomically."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def markdown_table(table: pd.DataFrame) -> list[str]:
    """Lines of a Markdown table, the index first, and an empty line; missing cells are ``-``. None without rows."""
    if table.empty:
        return []

    def line(cells: Iterable[object]) -> str:
        texts = ("-" if pd.isna(cell) else " ".join(str(cell).split()).replace("|", "\\|")[:300] for cell in cells)  # type: ignore[call-overload]
        return f"| {' | '.join(texts)} |"

    rows = zip(table.index, table.to_numpy(dtype=object), strict=True)
    head = [line([table.index.name or "", *table.columns]), "|---" * (len(table.columns) + 1) + "|"]
    return [*head, *(line([index, *row]) for index, row in rows), ""]
