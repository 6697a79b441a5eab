"""Exported models in a benchmark: the same images, scored by the file."""

import csv
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from anomalib_scrd.benchmark.quality import run as run_module
from anomalib_scrd.benchmark.quality.run import execute
from anomalib_scrd.benchmark.quality.runner import run_benchmark

Make = Callable[..., Any]
SMALL = {
    "class_path": "anomalib_scrd.ScaleAwareCRD",
    "init_args": {"backbone": "resnet18", "layers": ["layer1", "layer2"], "pre_trained": False, "student_depth": 1},
    "max_steps": 3,
}


def test_exports_are_scored_as_the_trained_model_is(benchmark_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    collected = {}
    original = run_module.predict_exported

    def keep(*args: Any) -> Any:
        collected[args[1]] = original(*args)
        return collected[args[1]]

    monkeypatch.setattr(run_module, "predict_exported", keep)
    config = benchmark_of({"SCRD": SMALL | {"exports": ["openvino-f32", "openvino-int8"]}}, image_size=(64, 64))
    result, arrays = execute(config.runs()[0], config)
    assert result["notes"] == []
    assert result["exports"].keys() == {"openvino-f32", "openvino-int8"}
    assert result["exports"]["openvino-f32"].keys() == result["metrics"].keys()
    plain, quantised = (collected[name].scores for name in ("openvino-f32", "openvino-int8"))
    np.testing.assert_allclose(plain, arrays["scores"], rtol=1e-3, atol=1e-4)
    assert collected["openvino-f32"].paths == list(arrays["paths"])
    assert 1e-6 < np.abs(quantised - plain).max() < 0.5 * np.ptp(plain)
    assert result["exports"]["openvino-f32"]["pixel_auroc"] == pytest.approx(result["metrics"]["pixel_auroc"], abs=1e-3)


def test_exports_reach_the_tables_and_a_failing_one_loses_nothing(
    benchmark_of: Make, stub: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    exports = ["openvino-f32", "openvino-int8-weights"]
    original = run_module.predict_exported

    def failing(model: Any, export: str, *args: Any) -> Any:
        if export == "openvino-int8-weights":
            msg = "no such thing"
            raise RuntimeError(msg)
        return original(model, export, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(run_module, "predict_exported", failing)
    config = benchmark_of({"Stub": stub() | {"exports": exports}}, image_size=(64, 64), seeds=[0, 1])
    results = run_benchmark(config, say=lambda _: None)
    for result in results:
        assert result["status"] == "ok"
        assert result["exports"]["openvino-f32"]["image_auroc"] == result["metrics"]["image_auroc"] == 1.0
        assert result["exports"]["openvino-int8-weights"] == {}
        assert result["notes"] == ["openvino-int8-weights: RuntimeError: no such thing"]
    table = (config.output / "table.md").read_text()
    assert "| tiny | Stub | openvino-f32 | 1.0000 ± 0.0000 | +0.0000 [+0.0000, +0.0000] |" in table
    assert "| openvino-int8-weights |" not in table
    with (config.output / "results.csv").open() as file:
        assert [row["image_auroc openvino-f32"] for row in csv.DictReader(file)] == ["1.0"] * 2


@pytest.mark.parametrize("exports", ["openvino-f32", ["onnx"], [1]])
def test_unknown_exports_are_refused(benchmark_of: Make, stub: Make, exports: Any) -> None:
    with pytest.raises(ValueError, match=r"models\.Stub\.exports must be a list of .*openvino-int8"):
        benchmark_of({"Stub": stub() | {"exports": exports}})


def test_a_quantisation_needs_held_out_images(benchmark_of: Make, stub: Make) -> None:
    with pytest.raises(ValueError, match="holdout must be above 0, got 0"):
        benchmark_of({"Stub": stub() | {"exports": ["openvino-int8"]}}, holdout=0.0)
