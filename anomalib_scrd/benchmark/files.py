"""Writing of results: whole files or none, and Markdown tables."""

__all__ = ["markdown_table", "write_atomically"]

import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

import pandas as pd


def write_atomically(path: Path, content: Callable[[IO[bytes]], object] | str) -> None:
    """Write a file beside its place and move it there once it is complete.

    Args:
        path: Where it belongs. Folders are made.
        content: The text, or a function that writes to the open binary file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            if isinstance(content, str):
                file.write(content.encode())
            else:
                content(file)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def markdown_table(table: pd.DataFrame) -> list[str]:
    """Lines of a Markdown table, the index first, and an empty line; missing cells are ``-``; no rows, no lines."""
    if table.empty:
        return []

    def line(cells: Iterable[object]) -> str:
        texts = ("-" if pd.isna(cell) else " ".join(str(cell).split()).replace("|", "\\|")[:300] for cell in cells)  # type: ignore[call-overload]
        return f"| {' | '.join(texts)} |"

    rows = zip(table.index, table.to_numpy(dtype=object), strict=True)
    head = [line([table.index.name or "", *table.columns]), "|---" * (len(table.columns) + 1) + "|"]
    return [*head, *(line([index, *row]) for index, row in rows), ""]
