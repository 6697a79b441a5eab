"""Configurations of benchmarks: those of the project load, mistakes are named, keys depend on the settings."""

import shlex
from pathlib import Path
from typing import Any

import pytest

from anomalib_scrd import ScaleAwareCRD
from anomalib_scrd.benchmark.__main__ import load_config, main
from anomalib_scrd.benchmark.models import build
from anomalib_scrd.benchmark.quality.config import BenchmarkConfig

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "configs" / "benchmark"
CONFIGS = sorted(path for path in FOLDER.glob("*.yaml") if not path.stem.endswith("speed") and path.stem != "six_sets")
MODEL = {"class_path": "anomalib.models.Padim"}
DATA = {"class_path": "Folder", "init_args": {"root": "${oc.env:ANOMALIB_SCRD_DATA}/x"}}


def _config(**kwargs: object) -> BenchmarkConfig:
    return BenchmarkConfig(**({"models": {"a": MODEL}, "data": {"d": DATA}} | kwargs))  # type: ignore[arg-type]


def _loaded(path: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> BenchmarkConfig:
    """The parsed command in the first line of a file."""
    monkeypatch.chdir(ROOT)
    command = path.read_text(encoding="utf-8").splitlines()[0]
    words = shlex.split(command.removeprefix("# "))
    assert words[:4] == ["ANOMALIB_SCRD_DATA=/path/to/data", "python", "-m", "anomalib_scrd.benchmark"]
    assert words[-1] == f"configs/benchmark/{path.name}"
    return load_config("quality", [*words[4:], *more])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_load_by_their_command(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = _loaded(path, monkeypatch, "--seeds", "[0, 1]")
    assert config.seeds == [0, 1]
    assert len(config.runs()) == 2 * len(config.models) * len(config.data)
    assert len({run.key for run in config.runs()}) == len(config.runs())


def test_there_are_configs() -> None:
    assert {path.stem for path in CONFIGS} == {"ablation", "baselines", "baselines_resnet18", "edge", "paper"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_form_of_the_model_differs_and_is_accepted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    specs = {
        name: spec
        for name, spec in _loaded(path, monkeypatch).model_specs.items()
        if spec.class_path == "anomalib_scrd.ScaleAwareCRD"
    }
    assert len({str(spec) for spec in specs.values()}) == len(specs)
    for spec in specs.values():
        build(ScaleAwareCRD, spec.init_args | {"backbone": "resnet18", "layers": None, "pre_trained": False})


def test_key_changes_with_what_changes_the_result_and_with_nothing_else() -> None:
    key = _config().runs()[0].key
    changes: tuple[dict[str, Any], ...] = (
        {"seeds": [1]},
        {"image_size": (64, 64)},
        {"holdout": 0.2},
        {"split_seed": 1},
        {"quantile": 0.9},
        {"precision": "bf16-mixed"},
        {"models": {"a": MODEL | {"max_steps": 5}}},
        {"models": {"a": MODEL | {"image_size": [64, 64]}}},
        {"models": {"a": MODEL | {"init_args": {"n_features": 5}}}},
    )
    for change in changes:
        assert _config(**change).runs()[0].key != key, change
    same = _config(workers=3, output="elsewhere", isolate=False, models={"renamed": MODEL})
    assert same.runs()[0].key == key


def test_seeds_come_first_so_that_an_early_table_compares_all_models() -> None:
    runs = _config(models={"a": MODEL, "b": MODEL}, seeds=[3, 4]).runs()
    assert [(run.seed, run.model) for run in runs] == [(3, "a"), (3, "b"), (4, "a"), (4, "b")]


def test_the_first_model_is_the_reference() -> None:
    assert _config(models={"b": MODEL, "a": MODEL}).reference == "b"


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ({"models": {}}, "models must be at least one"),
        ({"models": {"a/b": MODEL}}, "letters, digits"),
        ({"models": {"a": {"init_args": {}}}}, r"models\.a: .*class_path"),
        ({"models": {"a": MODEL | {"steps": 3}}}, r"models\.a: .*steps"),
        ({"models": {"a": MODEL | {"max_steps": 0}}}, "max_steps must be at least 1"),
        ({"models": {"a": MODEL | {"max_steps": 5, "own_length": True}}}, "own_length"),
        ({"models": {"a": MODEL | {"init_args": {"pre_processor": False}}}}, "pre_processor"),
        ({"models": {"a": MODEL | {"image_size": [64]}}}, "image_size must be two numbers"),
        ({"data": {"d": DATA | {"root": "x"}}}, r"data\.d: .*root"),
        ({"reference": "b"}, r"reference must be among the models \['a'\], got \['b'\]"),
        ({"rivals": ["b"]}, "rivals must be among"),
        ({"leave_one_set_out": {"forms": ["a", "b"]}}, r"leave_one_set_out\.forms must be among"),
        ({"seeds": [1, 1]}, "seeds must be different"),
        ({"holdout": 1.0}, r"holdout must be in \[0, 1\)"),
        ({"quantile": 0.0}, r"quantile must be in \(0, 1\]"),
        ({"workers": 0}, "workers must be at least 1"),
    ],
)
def test_mistakes_are_named(mistake: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _config(**mistake)


def test_mistakes_of_a_command_line_end_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nonsense"]) == 2
    assert "quality" in capsys.readouterr().err
    file = tmp_path / "x.yaml"
    file.write_text("models: {a: {class_path: Padim}}\ndata: {d: {class_path: Folder}}\nseeds: [1, 1]\n")
    with pytest.raises(SystemExit):
        main(["--config", str(file)])
    assert "seeds must be different" in capsys.readouterr().err
