"""The length of a training, chosen by held-out normal images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from anomalib_scrd.benchmark import training_length
from anomalib_scrd.benchmark.quality.config import BenchmarkConfig
from anomalib_scrd.benchmark.quality.run import execute
from anomalib_scrd.benchmark.training_length import held_out_distance, pays
from tests import reference

SCRD = {
    "class_path": "anomalib_scrd.ScaleAwareCRD",
    "init_args": {"backbone": "resnet18", "pre_trained": False, "student_depth": 1},
}


def test_two_percent_are_worth_a_longer_training() -> None:
    assert pays(1.0, 0.97)
    assert not pays(1.0, 0.99)
    assert not pays(1.0, 1.01)


def _run(benchmark_of: Callable[..., BenchmarkConfig], lengths: list[int]) -> dict[str, Any]:
    config = benchmark_of({"SCRD": SCRD | {"lengths": lengths}}, image_size=(32, 32))
    return execute(config.runs()[0], config)[0]


@pytest.mark.parametrize(
    ("distances", "steps"),
    [
        ([0.9, 0.8, 0.7], 3),
        ([0.9, 0.8, 0.79], 2),  # a percent more: not worth it
        ([0.9, 0.95], 1),  # the longest is not even tried
    ],
)
def test_longest_training_that_pays(
    distances: list[float],
    steps: int,
    benchmark_of: Callable[..., BenchmarkConfig],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left = iter(distances)
    monkeypatch.setattr(training_length, "held_out_distance", lambda *_: next(left))
    result = _run(benchmark_of, [1, 2, 3])
    assert [entry["held_out_distance"] for entry in result["lengths"]] == distances
    assert [entry["steps"] for entry in result["lengths"]] == [1, 2, 3][: len(distances)]
    assert result["cost"]["steps"] == steps
    # the price of a choice is all that was trained for it
    assert result["cost"]["train_seconds"] == sum(entry["train_seconds"] for entry in result["lengths"])


def test_held_out_images_alone_choose(
    benchmark_of: Callable[..., BenchmarkConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The distance is the pull of the loss in evaluation mode, by the loops, of the held-out images and no others."""
    seen = []

    def spy(model: Any, batches: Any) -> float:
        seen.append((model, batches.dataset, held_out_distance(model, batches)))
        return seen[-1][2]

    monkeypatch.setattr(training_length, "held_out_distance", spy)
    _run(benchmark_of, [1, 2])
    model, images, distance = seen[-1]
    assert len(images) == 4
    assert all("train/good" in path for path in images.samples["image_path"])
    sums = []
    for path in images.samples["image_path"]:
        with Image.open(path) as opened:
            pixels = np.asarray(opened.convert("RGB")).transpose(2, 0, 1).copy()
        shown = model.pre_processor(torch.from_numpy(pixels)[None] / 255)
        with torch.no_grad():
            clean = model.model.eval().standardise(model.model.teacher(shown))
            student = model.model._decode(clean)[1]
        sums.append(sum(1 - reference.cosine(c[0].numpy(), s[0].numpy()) for c, s in zip(clean, student, strict=True)))
    assert distance == pytest.approx(np.mean(sums), rel=1e-3)


def test_a_model_without_a_teacher_is_refused(
    benchmark_of: Callable[..., BenchmarkConfig], stub: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    config = benchmark_of({"Stub": stub(max_steps=None) | {"lengths": [1, 2]}})
    with pytest.raises(TypeError, match=r"lengths needs a ScaleAwareCRD.*got StubModel"):
        execute(config.runs()[0], config)
    assert not (tmp_path / "journal.txt").exists()  # nothing was trained
