"""Several read-outs of one training: each as if the model had been trained with it."""

import csv
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from anomalib_scrd.benchmark.quality import run as run_module
from anomalib_scrd.benchmark.quality.config import ThresholdSpec
from anomalib_scrd.benchmark.quality.run import execute
from anomalib_scrd.benchmark.quality.runner import run_benchmark

Make = Callable[..., Any]
ARGUMENTS = {"backbone": "resnet18", "layers": ["layer1", "layer2"], "pre_trained": False, "student_depth": 1}
SCRD = {"class_path": "anomalib_scrd.ScaleAwareCRD", "init_args": ARGUMENTS, "max_steps": 6}
VARIANTS: dict[str, dict[str, Any]] = {
    "peak": {"score": "top_k", "top_k": 0.1},
    "bare": {"calibration": "none", "damping": 0, "merge": "mean", "score": "mean", "broad_weight": 0},
    "fine": {"sigma": 1.0},
}


@pytest.mark.parametrize("method", ["quantile", "synthetic"])
def test_each_is_what_a_training_of_its_own_gives(benchmark_of: Make, method: Any) -> None:
    models = {"all": SCRD | {"read_outs": VARIANTS}, "plain": SCRD}
    models |= {name: SCRD | {"init_args": ARGUMENTS | own} for name, own in VARIANTS.items()}
    config = benchmark_of(models, image_size=(32, 32), threshold=ThresholdSpec(method))
    results = {run.model: execute(run, config) for run in config.runs()}
    together, arrays = results["all"]
    np.testing.assert_array_equal(arrays["scores"], results["plain"][1]["scores"])  # the training is the same
    for name in VARIANTS:
        alone = results[name][0]["metrics"]
        assert together["read_outs"][name] == pytest.approx(alone, abs=1e-6), name
        assert "pixel_auroc" in alone
        assert "f1" in alone
    assert together["read_outs"]["bare"] != together["metrics"]


def test_their_time_is_not_the_training_s(benchmark_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    original = run_module.ReadOuts._update

    def slow(self: Any, *args: Any) -> None:
        original(self, *args)
        self.seconds += 100.0

    monkeypatch.setattr(run_module.ReadOuts, "_update", slow)
    config = benchmark_of({"SCRD": SCRD | {"read_outs": {"fine": {"sigma": 1.0}}}}, image_size=(32, 32))
    result, _ = execute(config.runs()[0], config)
    assert -600 < result["cost"]["train_seconds"] < -500


def test_they_are_rows_of_the_tables(benchmark_of: Make) -> None:
    models = {"SCRD": SCRD | {"read_outs": {"fine": {"sigma": 1.0}}}}
    config = benchmark_of(models, image_size=(32, 32), seeds=[0, 1], candidates=["SCRD"])
    results = run_benchmark(config, say=lambda _: None)
    values = [result["read_outs"]["fine"]["image_auroc"] for result in results]
    own = [result["metrics"]["image_auroc"] for result in results]
    table = (config.output / "table.md").read_text()
    (row,) = [line.split(" | ") for line in table.splitlines() if line.startswith("| SCRD: fine | ")][:1]
    assert row[1].startswith(f"{np.mean(values):.4f} ±")
    difference = table.split("## Paired difference to SCRD\n")[1].splitlines()[5]
    assert difference.startswith(f"| SCRD: fine | {np.mean(values) - np.mean(own):+.4f} [")
    with (config.output / "results.csv").open() as file:
        found = {(row["model"], row["seed"]): float(row["image_auroc"]) for row in csv.DictReader(file)}
    assert found["SCRD: fine", "1"] == pytest.approx(values[1])
    assert found["SCRD", "0"] == pytest.approx(own[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"read_outs": {"a": {"noise": "perlin"}}},
            r"models\.SCRD\.read_outs\.a has \['noise'\]; allowed are .*damping",
        ),
        ({"read_outs": {"a": {"damping": -1}}}, r"models\.SCRD\.read_outs\.a: damping must be at least 0, got -1"),
        ({"read_outs": {"a": {"sigma": "wide"}}}, r"models\.SCRD\.read_outs\.a: "),
        ({"read_outs": ["fine"]}, r"models\.SCRD\.read_outs must hold arguments by name"),
        ({"read_outs": {"a": {}}, "max_steps": None, "lengths": [1, 2]}, "has read_outs and lengths"),
        ({"read_outs": {"a": {}}, "class_path": "anomalib.models.Padim"}, "only ScaleAwareCRD has read-outs"),
    ],
)
def test_what_is_no_read_out_is_refused(benchmark_of: Make, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        benchmark_of({"SCRD": SCRD | change})
