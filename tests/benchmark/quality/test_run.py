"""Complete benchmarks on a tiny data set, in this process."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anomalib.data import Folder
from sklearn.metrics import roc_auc_score

from anomalib_scrd.benchmark.quality.config import BenchmarkConfig
from anomalib_scrd.benchmark.quality.results import RunStore
from anomalib_scrd.benchmark.quality.run import execute
from anomalib_scrd.benchmark.quality.runner import run_benchmark
from anomalib_scrd.benchmark.quality.splits import make_splits
from tests.benchmark.quality.tiny import folder_arguments, write_data

Make = Callable[..., Any]
PADIM = {
    "class_path": "anomalib.models.Padim",
    "init_args": {"backbone": "resnet18", "layers": ["layer1", "layer2"], "pre_trained": False, "n_features": 8},
}


def _run(config: BenchmarkConfig) -> tuple[list[dict[str, Any]], list[str]]:
    lines: list[str] = []
    run_benchmark(config, command="the command", say=lines.append)
    return RunStore(config.output).all(config), lines


def _journal(tmp_path: Path, word: str) -> list[str]:
    path = tmp_path / "journal.txt"
    return [line for line in path.read_text().splitlines() if word in line] if path.exists() else []


def test_runs_of_all_models_and_seeds_end_in_tables_and_figures(benchmark_of: Make, stub: Make, tmp_path: Path) -> None:
    config = benchmark_of(
        {"Stub": stub(offset=50.0), "Broken": stub(misbehaviour="raise"), "Padim": PADIM},
        seeds=[0, 1],
        reference="Stub",
    )
    results, lines = _run(config)
    outcome = {(r["model"], r["seed"]): r for r in results}
    assert [r["status"] for r in results] == ["ok", "failed", "ok"] * 2

    # failures are recorded with their reason and do not stop other runs
    broken = outcome["Broken", 0]
    assert broken["error"] == "RuntimeError: as requested"
    assert "training_step" in (config.output / broken["traceback"]).read_text()

    # scores around 50 keep their order
    good = outcome["Stub", 0]
    stored = np.load(RunStore(config.output).path(config.runs()[0], ".npz"))
    assert stored["scores"].min() >= 50
    assert good["metrics"]["image_auroc"] == pytest.approx(roc_auc_score(stored["labels"], stored["scores"]))
    assert good["metrics"]["image_auroc"] == 1.0
    assert 0.9 < good["metrics"]["pixel_auroc"] <= 1.0
    assert {"image_ap", "f1", "accuracy", "pixel_ap", "pixel_aupro", "f1_best_on_test"} <= good["metrics"].keys()

    cost = good["cost"]
    assert (cost["steps"], cost["parameters"], cost["trainable"]) == (3, 4, 1)
    assert cost["train_seconds"] > 0
    assert cost["ms_per_image"] > 0
    assert cost["train_memory_mib"] > 10
    assert outcome["Padim", 0]["cost"]["trainable"] == 0
    assert good["counts"] == {"fit": 16, "held_out": 4, "test_normal": 6, "test_anomalous": 6}

    assert sum("FAILED" in line for line in lines) == 2
    assert any(line.startswith("[6/6]") and line.endswith("about 0:00:00 left") for line in lines)
    with (config.output / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == [r["status"] for r in results]
    table = (config.output / "report.md").read_text()
    for part in (
        "the command",
        "| Stub | ",
        "AUPRO",
        "±",
        "## Failed runs",
        "RuntimeError: as requested",
        "| Padim | ",
        "image AUROC, minus Stub's",
    ):
        assert part in table
    figures = {path.name for path in (config.output / "figures").iterdir()}
    assert figures == {"scores.png", "cases_tiny_Stub.png", "cases_tiny_Padim.png"}

    # the seed was set before the model was built: other seeds differ, the same seed repeats
    first = _journal(tmp_path, "built")
    means = [line.split()[-1] for line in first]
    assert means[0] == means[1] != means[2] == means[3]
    # the training had no access to test and held-out images
    assert {line.split(" ", 1)[1] for line in _journal(tmp_path, "saw")} == {"saw test False val False"}

    # again: finished runs are not repeated, failed ones are
    again, _ = _run(config)
    assert len(_journal(tmp_path, "built")) == len(first) + 2
    assert [r["metrics"] for r in again if r["status"] == "ok"] == [
        r["metrics"] for r in results if r["status"] == "ok"
    ]
    config.retry_failed = False
    _run(config)
    assert len(_journal(tmp_path, "built")) == len(first) + 2


def test_changed_setting_is_a_new_run_and_the_old_one_stays(benchmark_of: Make, stub: Make, tmp_path: Path) -> None:
    _run(benchmark_of({"Stub": stub()}))
    longer = benchmark_of({"Stub": stub(max_steps=5)})
    results, _ = _run(longer)
    assert results[0]["cost"]["steps"] == 5
    assert len(list((longer.output / "runs").rglob("*.json"))) == 2
    assert len(_journal(tmp_path, "built")) == 2


def test_threshold_does_not_depend_on_the_test_set(
    benchmark_of: Make, stub: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for name, contrast in (("easy", 120), ("hard", 0)):
        write_data(tmp_path / name / "tiny", contrast=contrast, seed=contrast)
        monkeypatch.setenv("ANOMALIB_SCRD_DATA", str(tmp_path / name))
        config = benchmark_of({"Stub": stub(offset=50.0)}, output=tmp_path / f"out_{name}")
        result, arrays = execute(config.runs()[0], config)
        assert result["threshold"] == np.sort(arrays["held_out_scores"])[-1]  # 0.95 of four scores
        found.append((result["threshold"], result["metrics"]["f1_best_on_test"], result["metrics"]["f1"]))
    (easy, best_easy, _), (hard, best_hard, f1_hard) = found
    assert easy == hard  # the same training images, other test images
    assert best_hard < best_easy == 1.0
    assert f1_hard <= best_hard


def test_split_is_the_same_for_all_and_has_no_overlap(tiny_data: Path) -> None:
    def split(seed: int) -> tuple[list[str], list[str], list[str]]:
        torch.rand(seed + 3)  # with any random state before
        splits = make_splits(Folder(**folder_arguments(str(tiny_data))["init_args"]), 0.2, seed)
        assert splits.held_out is not None
        parts = (splits.module.train_data, splits.held_out, splits.test)
        return tuple(list(part.samples.image_path) for part in parts)  # type: ignore[return-value]

    fit, held_out, test = split(0)
    assert (fit, held_out, test) == split(0)
    assert held_out != split(1)[1]
    assert not set(fit) & set(held_out)
    assert len(fit) + len(held_out) == 20
    assert len(test) == 12  # anomalib's default would have given half of them to validation
    assert all("train" in path for path in fit + held_out)


def test_no_held_out_images_no_threshold(benchmark_of: Make, stub: Make) -> None:
    config = benchmark_of({"Stub": stub()}, holdout=0.0)
    result, _ = execute(config.runs()[0], config)
    assert result["threshold"] is None
    assert "f1" not in result["metrics"]
    assert result["counts"]["fit"] == 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"misbehaviour": "nan"}, "4 of 4 held-out image scores are not finite"),
        ({"max_steps": None}, "needs max_steps or max_epochs"),
        ({"wrong_name": 1}, "wrong_name"),
        ({"journal": "${oc.env:NOT_SET}"}, "NOT_SET"),
    ],
)
def test_failures_are_recorded_with_their_reason(
    benchmark_of: Make, stub: Make, arguments: dict[str, Any], message: str
) -> None:
    results, _ = _run(benchmark_of({"Stub": stub(**arguments)}))
    assert results[0]["status"] == "failed"
    assert message in results[0]["error"]


def test_auroc_of_exactly_one_half_is_a_warning(benchmark_of: Make, stub: Make) -> None:
    config = benchmark_of({"Stub": stub(offset=1e9)})  # float32 holds no difference between these scores
    results, lines = _run(config)
    assert results[0]["metrics"]["image_auroc"] == 0.5
    assert any("WARNING" in line and "exactly 0.5" in line for line in lines)
    assert "exactly 0.5" in (config.output / "report.md").read_text()


def test_checkpoint_is_the_last_state(benchmark_of: Make, stub: Make) -> None:
    config = benchmark_of({"Stub": stub()}, keep_checkpoints=True)
    _run(config)
    checkpoint = torch.load(RunStore(config.output).path(config.runs()[0], ".ckpt"), weights_only=True)
    assert checkpoint["global_step"] == 3


def test_half_written_results_are_never_seen(benchmark_of: Make, stub: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    config = benchmark_of({"Stub": stub()})
    store, run = RunStore(config.output), config.runs()[0]

    result = {"status": "ok", "metrics": {}}

    def interrupted(self: Path, text: str, **_: Any) -> None:
        with self.open("w") as file:
            file.write(text[:10])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.save(run, result)
    assert store.load(run) is None
    assert list(store.path(run).parent.iterdir()) == []
    store.path(run).write_text(json.dumps({"key": "another", "status": "ok"}))
    assert not store.is_finished(run)


def test_result_of_other_code_is_marked(benchmark_of: Make, stub: Make) -> None:
    config = benchmark_of({"Stub": stub()})
    _run(config)
    store, run = RunStore(config.output), config.runs()[0]
    result = store.load(run)
    assert result is not None
    store.save(run, result | {"code": "0ld"})
    config.report_only = True
    _run(config)
    assert "results of other code (0ld)" in (config.output / "report.md").read_text()
