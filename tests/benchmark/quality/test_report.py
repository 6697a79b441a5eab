"""Tables of a benchmark, from results that were written by hand."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from anomalib_scrd.benchmark.files import markdown_table
from anomalib_scrd.benchmark.quality.config import BenchmarkConfig
from anomalib_scrd.benchmark.quality.report import write_report
from anomalib_scrd.benchmark.quality.results import RunStore, image_scores, results_frame, score_frame
from tests.benchmark.quality.tiny import folder_arguments

Make = Callable[..., Any]
AUROC = {
    "mine": {"a": [0.90, 0.92], "b": [0.80, 0.84]},
    "other": {"a": [0.85, 0.85], "b": [0.81, 0.83]},
    "rival": {"a": [0.70, 0.74], "b": [0.90, 0.90]},
    "half": {"a": [0.99, 0.99]},
}


@pytest.fixture
def config(benchmark_of: Make, stub: Make) -> BenchmarkConfig:
    """Results of two sets and two seeds; one set has masks, and one model was stopped half-way."""
    data = {name: folder_arguments("/nowhere") for name in ("a", "b")}
    models = {name: stub() for name in AUROC}
    groups = {"forms": ["mine", "other", "rival"]}
    config = benchmark_of(models, data=data, seeds=[0, 1], rivals=["other", "rival"], leave_one_set_out=groups)
    store, rng, labels = RunStore(config.output), np.random.default_rng(0), np.repeat([0, 1], 5)
    for run in config.runs():
        if run.data not in AUROC[run.model]:
            continue
        value = AUROC[run.model][run.data][run.seed]
        result = {
            "status": "ok",
            "metrics": {"image_auroc": value, **({"pixel_ap": value / 2} if run.data == "a" else {})},
            "cost": dict.fromkeys(
                ("train_seconds", "steps", "ms_per_image", "train_memory_mib", "test_memory_mib"), 2.0
            )
            | {"parameters": 4, "trainable": 1, "size_mib": 1.0},
            "machine": {"device": "cpu", "threads": 1, "torch": "2", "anomalib": "2.7"},
            "started": f"2026-01-0{run.seed + 1}T00:00:00",
            "data_digest": "d",
            "code": "0ld",
            "seconds": 1.0,
        }
        store.save(run, result)
        arrays = {"scores": rng.normal(0, 1, 10) + labels, "labels": labels, "names": np.arange(10).astype(str)}
        np.savez(store.path(run, ".npz"), **arrays)
    return config


def _row(report: str, section: str, start: str, after: str = "") -> list[str]:
    text = report.split(f"## {section}\n")[1].split("\n## ", maxsplit=1)[0]
    lines = text[text.index(after) :].splitlines()
    line = next(line for line in lines if line.startswith(f"| {start} |"))
    return line.strip("| ").split(" | ")[1:]


def test_report(config: BenchmarkConfig) -> None:
    write_report(config, "the command")
    report = (config.output / "report.md").read_text()
    assert report.splitlines()[:5] == ["# Benchmark", "", "```", "the command", "```"]
    assert "Machine: device cpu, threads 1, torch 2, anomalib 2.7; 2026-01-01 to 2026-01-02." in report

    # means over sets, for models that have them all
    assert _row(report, "Summary", "mine")[0].startswith("0.8650 ±")
    assert _row(report, "Summary", "half")[0] == "-"
    assert _row(report, "Summary", "rival")[1].startswith("0.3600 ±")  # the set with masks only
    assert _row(report, "image AUROC", "mine")[0].startswith("0.9100 ±")
    assert _row(report, "image AUROC", "half")[0:2] == ["0.9900 ± 0.0000", "-"]
    best = _row(report, "image AUROC", "best rival of each set")
    assert [cell[:6] for cell in best] == ["0.8500", "0.9000", "0.8750"]

    # intervals over test images, with each set and the mean of models that have them all
    ends = _row(report, "image AUROC", "mine", after="image AUROC, seeds and test images")
    assert len(ends) == 3
    for data, text in zip("ab", ends, strict=False):
        low, high = (float(number) for number in text.strip("[]").split(", "))
        with_all = image_scores(config, {data: "mine"}, "mine")[data]
        areas = [roc_auc_score(one.labels, one.candidate) for one in with_all]
        assert 0 <= low < np.mean(areas) < high <= 1
    assert _row(report, "image AUROC", "half", after="image AUROC, seeds and test images")[1:] == ["-", "-"]

    # pairs: by set, over sets x seeds, and the bootstrap
    pairs = _row(report, "Paired differences to mine", "other")[:4]
    assert pairs[0].startswith("-0.0600 [")
    assert pairs[2].startswith("-0.0300 [")
    assert pairs[3].startswith("[")
    rival = _row(report, "Paired differences to mine", "best rival of each set")
    assert [cell[:7] for cell in rival[:3]] == ["-0.0600", "+0.0800", "+0.0100"]
    assert rival[3].startswith("[")

    # a chosen on b is the rival, b chosen on a is mine
    assert _row(report, "Leave one set out", "a") == ["rival", "0.9000", "0.7200", "0.9100"]
    assert _row(report, "Leave one set out", "b") == ["mine", "0.9100", "0.8200", "0.9000"]
    assert _row(report, "Leave one set out", "mean of all sets")[1:] == ["0.9050", "0.7700", "0.9050"]
    assert _row(report, "Paired differences to mine", "forms: chosen on the other sets")[2].startswith("-0.0950 [")
    assert _row(report, "Summary", "forms: chosen on the other sets")[0].startswith("0.7700")

    assert "mine: results of other code (0ld)" in report
    assert _row(report, "Costs", "mine")[:2] == ["2", "2"]
    frame = pd.read_csv(config.output / "results.csv")
    assert len(frame) == 14
    assert list(frame[frame["model"] == "mine"]["image_auroc"]) == [0.90, 0.80, 0.92, 0.84]


def test_missing_seeds_are_reported(config: BenchmarkConfig) -> None:
    store = RunStore(config.output)
    store.path(next(run for run in config.runs() if (run.model, run.seed) == ("other", 1))).unlink()
    write_report(config)
    assert "a, other: 1 of 2 seeds" in (config.output / "report.md").read_text()


def test_only_images_that_both_have_are_compared(config: BenchmarkConfig) -> None:
    pairs = image_scores(config, dict.fromkeys("ab", "other"), "mine")
    assert {name: len(seeds) for name, seeds in pairs.items()} == {"a": 2, "b": 2}
    assert set(image_scores(config, dict.fromkeys("ab", "half"), "mine")) == {"a"}
    store = RunStore(config.output)
    path = store.path(next(run for run in config.runs() if (run.model, run.data) == ("other", "a")), ".npz")
    with np.load(path) as arrays:
        changed = dict(arrays) | {"names": arrays["names"][::-1]}
    np.savez(path, **changed)
    assert len(image_scores(config, dict.fromkeys("ab", "other"), "mine")["a"]) == 1


def test_failed_runs_have_no_scores(config: BenchmarkConfig) -> None:
    store, run = RunStore(config.output), config.runs()[0]
    store.save(run, {"status": "failed", "error": "a | b\nc", "traceback": "where", "seconds": 1.0})
    write_report(config)
    assert "| mine | a | 0 | a \\| b c | where |" in (config.output / "report.md").read_text()
    scores = score_frame(results_frame(store.all(config)), "image_auroc")
    assert list(scores.columns) == list(AUROC)
    assert np.isnan(scores.loc[("a", 0), "mine"])
    assert scores.loc[("a", 1), "mine"] == 0.92


def test_nothing_finished_nothing_written(benchmark_of: Make, stub: Make) -> None:
    config = benchmark_of({"Stub": stub()})
    write_report(config)
    assert not config.output.exists()


def test_table_cells_are_one_line() -> None:
    table = pd.DataFrame({"x": ["a|b\nc", float("nan")]}, index=["first", "second"]).rename_axis("name")
    assert markdown_table(table) == ["| name | x |", "|---|---|", "| first | a\\|b c |", "| second | - |", ""]
    assert markdown_table(pd.DataFrame()) == []


def test_images_that_changed_between_seeds_are_left_out(config: BenchmarkConfig) -> None:
    """The bootstrap draws the same images for all seeds of a set."""
    store = RunStore(config.output)
    for run in config.runs():
        if (run.data, run.seed) == ("a", 1) and store.path(run, ".npz").exists():
            labels = np.repeat([0, 1], 6)
            arrays = {"scores": labels + 0.1, "labels": labels, "names": np.arange(12).astype(str)}
            np.savez(store.path(run, ".npz"), **arrays)
    pairs = image_scores(config, dict.fromkeys("ab", "other"), "mine")
    assert {name: len(seeds) for name, seeds in pairs.items()} == {"a": 1, "b": 2}
    write_report(config)


def test_a_class_that_does_not_exist_stops_no_report(config: BenchmarkConfig) -> None:
    config.model_specs["gone"] = replace(config.model_specs["mine"], class_path="nowhere.Gone")
    write_report(config)
    assert (config.output / "report.md").exists()
