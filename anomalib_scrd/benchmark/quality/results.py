"""Finished runs, on disk as one atomically written JSON file each, and as tables."""

__all__ = ["RunStore", "image_scores", "results_frame", "score_frame"]

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from anomalib_scrd.benchmark.files import write_text
from anomalib_scrd.benchmark.quality.config import BenchmarkConfig, RunSpec
from anomalib_scrd.benchmark.quality.intervals import PairedScores
from anomalib_scrd.benchmark.quality.metrics import METRICS


class RunStore:
    """The results of a benchmark's runs.

    Args:
        root: Folder of the benchmark. A run is stored at ``runs/<data>/<model>/seed<seed>-<key>.json``, next to its raw
            scores (.npz), log (.log), error (.error.txt) and checkpoint (.ckpt).
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def path(self, run: RunSpec, suffix: str = ".json") -> Path:
        """Path of a file of a run."""
        return self.root / "runs" / run.data / run.model / f"seed{run.seed}-{run.key}{suffix}"

    def load(self, run: RunSpec) -> dict[str, Any] | None:
        """The result of a run, None if there is none or it cannot be read."""
        try:
            result = json.loads(self.path(run).read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return result if isinstance(result, dict) and result.get("key") == run.key else None

    def save(self, run: RunSpec, result: dict[str, Any]) -> dict[str, Any]:
        """Store a result, replacing an earlier one of the same run; return it with the names of the run."""
        result = {"data": run.data, "model": run.model, "seed": run.seed, "key": run.key, **result}
        write_text(self.path(run), json.dumps(result | {"description": run.description}, indent=1, default=str))
        return result

    def is_finished(self, run: RunSpec, *, failed_too: bool = False) -> bool:
        """Whether a run does not have to be repeated."""
        result = self.load(run)
        return result is not None and (failed_too or result.get("status") == "ok")

    def all(self, config: BenchmarkConfig) -> list[dict[str, Any]]:
        """The stored results of a benchmark's runs, failed ones included."""
        return [result for run in config.runs() if (result := self.load(run)) is not None]


def results_frame(results: list[dict[str, Any]]) -> pd.DataFrame:
    """One row per run, and one per exported form of its model, named ``model (export)``.

    The columns are ``data``, ``model``, ``seed``, ``status``, all metrics, costs, counts, machine and code.
    """
    rows = []
    for result in results:
        flat = {name: value for name, value in result.items() if not isinstance(value, (dict, list))}
        for part in ("cost", "counts", "machine"):
            flat |= result.get(part, {})
        flat["notes"] = "; ".join(result.get("notes", []))
        rows.append(flat | result.get("metrics", {}))
        for export, metrics in result.get("exports", {}).items():
            rows.append({**flat, **metrics, "model": f"{result['model']} ({export})"})
    first = ["data", "model", "seed", "status", *METRICS]
    frame = pd.DataFrame.from_records(rows)
    return frame.reindex(columns=[*first, *(name for name in frame.columns if name not in first)])


def score_frame(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """A metric of :func:`results_frame` by data set and seed (index ``data``, ``seed``) and model (columns).

    All are in the order of the runs, without data sets, seeds and models that have no value.
    """
    known = frame[(frame["status"] == "ok") & frame[metric].notna()]
    scores = known.pivot_table(index=["data", "seed"], columns="model", values=metric, sort=False)
    return scores[[model for model in dict.fromkeys(frame["model"]) if model in scores]]


def image_scores(
    config: BenchmarkConfig, candidates: Mapping[str, str], reference: str
) -> dict[str, list[PairedScores]]:
    """Image scores of a candidate by data set, and of the reference for the same test images.

    There is one entry per seed that both have and whose test images are those of the set's first seed.
    """
    store = RunStore(config.output)
    runs = {(run.data, run.model, run.seed): run for run in config.runs() if store.is_finished(run)}
    pairs: dict[str, list[PairedScores]] = {}
    first: dict[str, np.ndarray] = {}
    for (data, model, seed), run in runs.items():
        other = runs.get((data, reference, seed))
        if other is not None and candidates.get(data) == model:
            with np.load(store.path(run, ".npz")) as mine, np.load(store.path(other, ".npz")) as theirs:
                names = mine["names"]
                if np.array_equal(names, theirs["names"]) and np.array_equal(first.setdefault(data, names), names):
                    pairs.setdefault(data, []).append(PairedScores(mine["scores"], theirs["scores"], mine["labels"]))
    return pairs
