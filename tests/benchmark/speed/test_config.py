"""Configurations of speed benchmarks: the project's files load, mistakes are named."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from anomalib_scrd.benchmark.__main__ import load_config
from anomalib_scrd.benchmark.speed.config import SpeedConfig

FOLDER = Path(__file__).parents[3] / "configs" / "benchmark"
MODEL = {"class_path": "ScaleAwareCRD"}


@pytest.mark.parametrize("name", ["speed", "edge_speed"])
def test_configs_begin_with_their_command_and_load(name: str) -> None:
    path = FOLDER / f"{name}.yaml"
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first == f"# python -m anomalib_scrd.benchmark speed --config configs/benchmark/{name}.yaml"
    config = load_config("speed", ["--config", str(path), "--batch", "4", "--step", "[]", "--image_sizes", "[64, 128]"])
    assert (config.batch, config.step, config.image_sizes) == (4, [], [64, 128])
    assert set(config.contenders) >= set(config.prediction)


def test_edge_is_timed_as_it_is_trained() -> None:
    timed = load_config("speed", ["--config", str(FOLDER / "edge_speed.yaml")]).contenders
    trained = yaml.safe_load((FOLDER / "edge.yaml").read_text(encoding="utf-8"))["models"]
    for name, spec in trained.items():
        arguments = {key: value for key, value in spec["init_args"].items() if key != "feature_cache"}
        assert timed[name].init_args == arguments | {"pre_trained": False}


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ({"step": []}, "step or prediction must be a list of at least one model"),
        ({"step": ["b"]}, r"step must be among the models \['a'\]"),
        ({"reference": "b"}, "reference must be among the models"),
        ({"models": {"a": {"init_args": {}}}}, r"models\.a: .*class_path"),
        ({"models": {"a": MODEL | {"speed": 3}}}, r"models\.a: .*speed"),
        ({"models": {"a": MODEL | {"precision": "8"}}}, r"models\.a: precision must be one of"),
        ({"rounds": 0}, "rounds must be at least 1, got 0"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"image_sizes": []}, "image_sizes must be numbers of at least 1"),
        ({"prediction_batches": [0]}, "prediction_batches must be numbers of at least 1"),
    ],
)
def test_mistakes_are_named(mistake: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpeedConfig(**({"models": {"a": MODEL}, "step": ["a"]} | mistake))
