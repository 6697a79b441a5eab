"""Exported models in a benchmark score the same images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from anomalib_scrd.benchmark.quality import run as run_module
from anomalib_scrd.benchmark.quality.results import RunStore
from anomalib_scrd.benchmark.quality.run import execute
from anomalib_scrd.benchmark.quality.runner import run_benchmark

Make = Callable[..., Any]
SMALL = {
    "class_path": "anomalib_scrd.ScaleAwareCRD",
    "init_args": {
        "backbone": "resnet18",
        "layers": ["layer1", "layer2"],
        "pre_trained": False,
        "student": {"depth": 1},
    },
    "max_steps": 3,
}


def test_exports_are_scored_as_the_trained_model_is(benchmark_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    collected = {}
    original = run_module._predicted

    def keep(file: Path, *args: Any) -> Any:
        (engine,) = {"openvino-f32", "openvino-int8"} & set(file.parts)
        collected[engine] = original(file, *args)
        return collected[engine]

    monkeypatch.setattr(run_module, "_predicted", keep)
    config = benchmark_of({"SCRD": SMALL | {"exports": ["openvino-f32", "openvino-int8"]}}, image_size=(64, 64))
    result, arrays = execute(config.runs()[0], config)
    assert result["notes"] == []
    assert result["exports"].keys() == {"openvino-f32", "openvino-int8"}
    assert result["exports"]["openvino-f32"].keys() == result["metrics"].keys()
    plain, quantised = (collected[name].array("scores") for name in ("openvino-f32", "openvino-int8"))
    np.testing.assert_allclose(plain, arrays["scores"], rtol=1e-3, atol=1e-4)
    assert [Path(path).name for path in collected["openvino-f32"].paths] == list(arrays["names"])
    assert 1e-6 < np.abs(quantised - plain).max() < 0.5 * np.ptp(plain)
    assert result["exports"]["openvino-f32"]["pixel_auroc"] == pytest.approx(result["metrics"]["pixel_auroc"], abs=1e-3)


def test_exports_reach_the_tables_and_a_failing_one_loses_nothing(
    benchmark_of: Make, stub: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    exports = ["openvino-f32", "openvino-int8-weights"]
    original = run_module.export_model

    def failing(model: Any, export: str, *args: Any) -> Any:
        if export == "openvino-int8-weights":
            msg = "no such thing"
            raise RuntimeError(msg)
        return original(model, export, *args)

    monkeypatch.setattr(run_module, "export_model", failing)
    config = benchmark_of({"Stub": stub() | {"exports": exports}}, image_size=(64, 64), seeds=[0, 1])
    run_benchmark(config, say=lambda _: None)
    for result in RunStore(config.output).all(config):
        assert result["status"] == "ok"
        assert result["exports"]["openvino-f32"]["image_auroc"] == result["metrics"]["image_auroc"] == 1.0
        assert result["exports"]["openvino-int8-weights"] == {}
        assert result["notes"] == ["openvino-int8-weights: RuntimeError: no such thing"]
    report = (config.output / "report.md").read_text()
    assert "| Stub (openvino-f32) | 1.0000 ± 0.0000 |" in report
    assert "| Stub (openvino-f32) | +0.0000 [+0.0000, +0.0000] |" in report
    assert "| Stub (openvino-int8-weights) |" not in report
    rows = pd.read_csv(config.output / "results.csv").set_index("model")
    assert list(rows.loc["Stub (openvino-f32)", "image_auroc"]) == [1.0, 1.0]


@pytest.mark.parametrize("exports", ["openvino-f32", ["onnx"], [1]])
def test_unknown_exports_are_refused(benchmark_of: Make, stub: Make, exports: Any) -> None:
    with pytest.raises(ValueError, match=r"models\.Stub: exports must be a list of .*openvino-int8"):
        benchmark_of({"Stub": stub() | {"exports": exports}})


def test_a_quantisation_needs_held_out_images(benchmark_of: Make, stub: Make) -> None:
    with pytest.raises(ValueError, match=r"holdout must be above 0: .*, got 0"):
        benchmark_of({"Stub": stub() | {"exports": ["openvino-int8"]}}, holdout=0.0)
