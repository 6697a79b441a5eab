"""What a benchmark tells of the scales."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback

from anomalib_scrd.benchmark.quality import run as run_module
from anomalib_scrd.benchmark.quality.runner import run_benchmark
from anomalib_scrd.benchmark.scales import weight_entropy

LAYERS = ["layer1", "layer2"]
ARGUMENTS = {"backbone": "resnet18", "layers": LAYERS, "pre_trained": False, "student_depth": 1, "warmup_steps": 5}
SCRD = {"class_path": "anomalib_scrd.ScaleAwareCRD", "init_args": ARGUMENTS, "max_steps": 100}


def test_entropy_in_closed_form() -> None:
    assert weight_entropy(torch.ones(5, 3)) == pytest.approx(1)
    assert weight_entropy(torch.tensor([[0.0, 3.0, 0.0]])) == 0
    mixed = torch.tensor([[1.0, 1.0], [0.5, 1.5]])
    second = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)) / math.log(2)
    assert weight_entropy(mixed) == pytest.approx((1 + second) / 2)


class Pulls(Callback):
    """The pull of each scale at every step."""

    def __init__(self) -> None:
        self.values: list[list[float]] = []

    def on_train_batch_end(self, _trainer: Any, module: Any, *_: Any) -> None:
        self.values.append(module._terms[0].pull.tolist())


def test_scales_of_a_run(benchmark_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    pulls = Pulls()
    original = run_module._engine

    def engine(run: Any, config: Any, model: Any, callbacks: list[Any], *args: Any) -> Any:
        return original(run, config, model, [*callbacks, pulls], *args)

    monkeypatch.setattr(run_module, "_engine", engine)
    config = benchmark_of({"SCRD": SCRD}, image_size=(32, 32))
    (result,) = run_benchmark(config, say=lambda _: None)
    scales = result["scales"]
    assert scales["layers"] == LAYERS
    # logged at steps 50 and 100
    assert len(pulls.values) == 100
    np.testing.assert_allclose(scales["pull_first"], pulls.values[49], rtol=1e-5)
    np.testing.assert_allclose(scales["pull_last"], pulls.values[99], rtol=1e-5)
    assert sum(scales["weights"]) == pytest.approx(2)
    assert 0.5 < scales["entropy"] <= 1
    assert scales["entropy"] <= weight_entropy(torch.tensor([scales["weights"]])) + 1e-9  # it is concave
    cells = (config.output / "table.md").read_text().split("## Weights of the scales")[1].splitlines()[6].split(" | ")
    assert cells[:2] == ["| tiny", "SCRD"]
    assert float(cells[2]) == pytest.approx(scales["entropy"], abs=1e-4)
    assert cells[3] == ", ".join(f"{weight:.3f}" for weight in scales["weights"])


def test_other_models_have_none(benchmark_of: Callable[..., Any], stub: Callable[..., Any]) -> None:
    config = benchmark_of({"Stub": stub()})
    (result,) = run_benchmark(config, say=lambda _: None)
    assert result["scales"] is None
    assert "Weights of the scales" not in (config.output / "table.md").read_text()
