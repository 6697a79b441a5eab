"""Descriptions of benchmarks: those of the project load, mistakes are named, keys follow the settings."""

from pathlib import Path

import pytest

from anomalib_scrd import ScaleAwareCRD
from anomalib_scrd.benchmark.__main__ import main
from anomalib_scrd.benchmark.quality.command import load_config
from anomalib_scrd.benchmark.quality.config import BenchmarkConfig, expand_variables

FOLDER = Path(__file__).parents[3] / "configs" / "benchmark"
CONFIGS = sorted(path for path in FOLDER.glob("*.yaml") if not path.stem.endswith("speed"))  # test_speed.py
MODEL = {"class_path": "anomalib.models.Padim"}
DATA = {"class_path": "Folder", "init_args": {"root": "${ANOMALIB_SCRD_DATA}/x"}}


def _config(**kwargs: object) -> BenchmarkConfig:
    return BenchmarkConfig(**({"models": {"a": MODEL}, "data": {"d": DATA}} | kwargs))  # type: ignore[arg-type]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_load_and_begin_with_their_command(path: Path) -> None:
    command = path.read_text(encoding="utf-8").splitlines()[0]
    assert command.endswith(f"python -m anomalib_scrd.benchmark --config configs/benchmark/{path.name}")
    config = load_config(["--config", str(path), "--seeds", "[0, 1]"])
    assert config.seeds == [0, 1]
    assert config.candidates
    assert len(config.runs()) == 2 * len(config.models) * len(config.data)
    assert len({run.key for run in config.runs()}) == len(config.runs())


def test_there_are_configs() -> None:
    assert {path.stem for path in CONFIGS} == {"ablation", "baselines", "edge", "paper"}


def test_every_variant_of_the_ablation_differs_and_is_accepted() -> None:
    variants = load_config(["--config", str(FOLDER / "ablation.yaml")]).models
    arguments = {
        name: spec["init_args"] | {"backbone": "resnet18", "pre_trained": False} for name, spec in variants.items()
    }
    kinds = {str((sorted(given.items()), variants[name].get("max_steps"))) for name, given in arguments.items()}
    assert len(kinds) == len(variants)
    for given in arguments.values():
        ScaleAwareCRD(**(given | {"layers": None}))


def test_key_changes_with_what_changes_the_result_and_with_nothing_else() -> None:
    key = _config().runs()[0].key
    for change in (
        {"seeds": [1]},
        {"image_size": (64, 64)},
        {"holdout": 0.2},
        {"split_seed": 1},
        {"precision": "bf16-mixed"},
        {"models": {"a": MODEL | {"max_steps": 5}}},
        {"models": {"a": MODEL | {"init_args": {"n_features": 5}}}},
    ):
        assert _config(**change).runs()[0].key != key, change
    same = _config(workers=3, output="elsewhere", data_root="/moved", isolate=False, models={"renamed": MODEL})
    assert same.runs()[0].key == key


def test_seeds_come_first_so_that_an_early_table_compares_all_models() -> None:
    runs = _config(models={"a": MODEL, "b": MODEL}, seeds=[3, 4]).runs()
    assert [(run.seed, run.model) for run in runs] == [(3, "a"), (3, "b"), (4, "a"), (4, "b")]


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ({"models": {}}, "models must name at least one"),
        ({"models": {"a/b": MODEL}}, "letters, digits"),
        ({"models": {"a": {"init_args": {}}}}, r"models\.a must hold class_path"),
        ({"models": {"a": MODEL | {"steps": 3}}}, "steps"),
        ({"models": {"a": MODEL | {"max_steps": 0}}}, "max_steps must be at least 1"),
        ({"models": {"a": MODEL | {"max_steps": 5, "own_length": True}}}, "own_length"),
        ({"models": {"a": MODEL | {"max_steps": 5, "lengths": [1, 2]}}}, "more than one of"),
        ({"models": {"a": MODEL | {"lengths": [5]}}}, r"a\.lengths must be two or more growing whole numbers"),
        ({"models": {"a": MODEL | {"lengths": [5, 5]}}}, r"a\.lengths must be two or more growing whole numbers"),
        ({"models": {"a": MODEL | {"lengths": 5}}}, r"a\.lengths must be two or more growing whole numbers"),
        ({"models": {"a": MODEL | {"lengths": ["5", 9.5]}}}, r"a\.lengths must be two or more growing whole numbers"),
        ({"models": {"a": MODEL | {"lengths": [0, 5]}}}, r"a\.lengths must be two or more growing whole numbers"),
        ({"models": {"a": MODEL | {"lengths": [1, 5]}}, "holdout": 0.0}, "needs held-out images"),
        ({"models": {"a": MODEL | {"init_args": {"pre_processor": False}}}}, "pre_processor"),
        ({"candidates": ["b"]}, r"candidates \['b'\]"),
        ({"seeds": [1, 1]}, "seeds must be different"),
        ({"holdout": 1.0}, r"holdout must be in \[0, 1\)"),
        ({"workers": 0}, "workers must be at least 1"),
    ],
)
def test_mistakes_are_named(mistake: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _config(**mistake)


def test_variables_are_replaced_everywhere_or_asked_for() -> None:
    value = {"root": "${A}/x", "more": ["${A}", 3, None]}
    assert expand_variables(value, {"A": "/data"}) == {"root": "/data/x", "more": ["/data", 3, None]}
    with pytest.raises(ValueError, match="ANOMALIB_SCRD_DATA, which is not set; give --data_root"):
        expand_variables(DATA["init_args"], {})
    assert _config(data_root="/somewhere").environment()["ANOMALIB_SCRD_DATA"] == "/somewhere"


def test_unknown_command_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nonsense"]) == 2
    assert "quality" in capsys.readouterr().err
