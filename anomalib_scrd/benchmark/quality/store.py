"""Finished runs on disk: one JSON file each, written in one move, so that nothing half-written is ever read."""

__all__ = ["RunStore", "write_atomically"]

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from anomalib_scrd.benchmark.quality.config import RunSpec


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file beside its place and move it there once it is complete.

    Args:
        path: Where it belongs. Folders are made.
        write: Called with the open binary file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


class RunStore:
    """The results of a benchmark's runs.

    Args:
        root: Folder of the benchmark. A run lies at ``runs/<data>/<model>/seed<seed>-<key>.json``; its raw scores
            (.npz), log (.log), error (.error.txt) and checkpoint (.ckpt) lie beside it.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def path(self, run: RunSpec, suffix: str = ".json") -> Path:
        """Where a file of a run lies."""
        return self.root / "runs" / run.data / run.model / f"seed{run.seed}-{run.key}{suffix}"

    def load(self, run: RunSpec) -> dict[str, Any] | None:
        """The result of a run, None if there is none (or one that can't be read, which counts as none)."""
        try:
            result = json.loads(self.path(run).read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return result if isinstance(result, dict) and result.get("key") == run.key else None

    def save(self, run: RunSpec, result: dict[str, Any]) -> None:
        """Keep a result; it replaces an earlier one of the same run."""
        text = json.dumps({"key": run.key, **result}, indent=1, default=str)
        write_atomically(self.path(run), lambda file: file.write(text.encode()))

    def is_finished(self, run: RunSpec, *, failed_too: bool = False) -> bool:
        """Whether a run need not be made again."""
        result = self.load(run)
        if result is None:
            return False
        return result.get("status") == "ok" or failed_too
