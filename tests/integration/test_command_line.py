"""anomalib's own console script, unmodified, with the plugin's classes by name.

The first training is a process of its own, from the command in a shell to the files; what follows runs the same script
in one process.
"""

import csv
import json
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml

from tests.integration.conftest import run

SCRIPT = Path(sysconfig.get_path("scripts"), "anomalib.exe" if sys.platform == "win32" else "anomalib")
INIT_ARGS = {"backbone": "resnet18", "pre_trained": False}
IMAGES = {
    "root": "drawn",
    "image_size": 64,
    "n_train": 4,
    "n_val_good": 2,
    "n_val_lesions": 1,
    "n_test_good": 2,
    "n_test_lesions": 1,
    "train_batch_size": 2,
}
MODEL = ["--model.backbone=resnet18", "--model.pre_trained=false", "--trainer.accelerator=cpu"]
DATA = [f"--data.{name}={value}" for name, value in IMAGES.items()]
DATA_MODULE = ["--data=PhantomSlices", *DATA]
CHECKPOINT = ["--ckpt_path", "results/ScaleAwareCRD/PhantomSlices/v0/weights/lightning/model.ckpt"]
GRID = {
    "accelerator": "cpu",
    "benchmark": {
        "seed": 42,
        "model": {"class_path": {"grid": ["ScaleAwareCRD", "Dfm"]}, "init_args": INIT_ARGS},
        "data": {"class_path": "PhantomSlices", "init_args": IMAGES},
    },
}
COMMANDS: dict[str, list[str]] = {
    "help": ["train", "--model.help", "ScaleAwareCRD"],
    "train again": ["train", "--config", "results/ScaleAwareCRD/PhantomSlices/v0/config.yaml"],
    "test": ["test", "--model=anomalib_scrd.ScaleAwareCRD", *MODEL, *DATA_MODULE, *CHECKPOINT],
    "predict": ["predict", "--model=ScaleAwareCRD", *MODEL, "--data=drawn/test/large", *CHECKPOINT],
    "export": ["export", "--model=ScaleAwareCRD", *MODEL, "--export_type=torch", *CHECKPOINT],
    "benchmark": ["benchmark", "--config", "grid.yaml"],
    "wrong layer": ["train", "--model=ScaleAwareCRD", *MODEL, "--model.layers=[layer1,layer9]", *DATA_MODULE],
    "wrong backbone": ["export", "--model=ScaleAwareCRD", *MODEL, "--model.backbone=resnet19", "--export_type=torch"],
    "no such weights": ["predict", "--model=ScaleAwareCRD", *MODEL, "--model.pre_trained=gone.pth", "--data=drawn"],
    "old name": ["train", "--model=ScaleAwareCRD", *MODEL, "--model.noise_strength=0.4", *DATA_MODULE],
    "wrong field": ["train", "--model=ScaleAwareCRD", *MODEL, "--model.noise.strenght=0.4", *DATA_MODULE],
    "old file": ["train", "--config", "old.yaml"],
    "wrong rate": ["test", "--model=ScaleAwareCRD", *MODEL, "--model.optimiser.learning_rate=-1", *DATA_MODULE],
}
MISTAKES = {
    "old name": "noise_strength is now noise.strength: noise={'strength': 0.4} in Python, --model.noise.strength on ",
    "old file": "sigma is now scoring.sigma: ",
    "wrong field": "noise.strenght is unknown; did you mean noise.strength? noise has kind, share, ",
    "wrong layer": "layers ['layer9'] are unknown in backbone 'resnet18'; it has: ",
    "wrong backbone": "backbone 'resnet19' is unknown to timm; close names are ",
    "no such weights": "pre_trained: there is no file 'gone.pth'; give true, false or a path ",
    "wrong rate": "optimiser.learning_rate must be a finite number in (0, 1], got -1.0",
}
# The pipeline has no argument for the length of a training; Lightning reads this variable.
VARIABLES = {"benchmark": {"PL_TRAINER_MAX_STEPS": "2"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the results of the first training."""
    folder = tmp_path_factory.mktemp("command_line")
    arguments = ["--model", "ScaleAwareCRD", *MODEL, "--data", "PhantomSlices", *DATA, "--trainer.max_steps", "2"]
    done = run([SCRIPT, "train", *arguments], folder)
    assert "image_AUROC" in done.stdout
    return folder


@pytest.fixture(scope="module")
def printed(folder: Path) -> dict[str, str]:
    """What each command printed; its exit status is at the end."""
    commands = [
        {"name": name, "arguments": arguments, "variables": VARIABLES.get(name, {})}
        for name, arguments in COMMANDS.items()
    ]
    Path(folder, "commands.json").write_text(json.dumps(commands), encoding="utf-8")
    old = {"class_path": "ScaleAwareCRD", "init_args": INIT_ARGS | {"sigma": 2.0}}
    data = {"class_path": "PhantomSlices", "init_args": IMAGES}
    Path(folder, "old.yaml").write_text(yaml.safe_dump({"model": old, "data": data}), encoding="utf-8")
    Path(folder, "grid.yaml").write_text(yaml.safe_dump(GRID), encoding="utf-8")
    driver = Path(__file__).with_name("drive_console_script.py")
    done = run([sys.executable, "-I", driver, SCRIPT, "commands.json"], folder)
    return {part.partition("\n")[0]: part for part in done.stdout.split("\n=== ")}


def succeeded(printed: dict[str, str], name: str) -> str:
    """What this command printed, which ended well."""
    text = printed[name]
    assert text.rstrip().endswith("--- 0"), text
    return text


def test_train(folder: Path):
    results = folder / "results/ScaleAwareCRD/PhantomSlices/v0"
    config = yaml.safe_load((results / "config.yaml").read_text(encoding="utf-8"))
    assert config["model"]["class_path"] == "anomalib_scrd.ScaleAwareCRD"
    assert config["model"]["init_args"].items() >= INIT_ARGS.items()
    assert config["data"]["class_path"] == "anomalib_scrd.PhantomSlices"
    assert (results / "weights/lightning/model.ckpt").is_file()
    assert list((results / "images").rglob("*.png"))  # drawn by the test that follows the training


def test_help_lists_the_arguments(printed: dict[str, str]):
    text = succeeded(printed, "help")
    for name in ("backbone", "layers", "pre_trained", "preset", "scoring", "noise", "optimiser"):
        assert f"--model.{name}" in text
    assert "Name of a timm model, the teacher; None for the preset" in text


def test_saved_configuration_runs_again(folder: Path, printed: dict[str, str]):
    assert "image_AUROC" in succeeded(printed, "train again")
    first, second = (folder / f"results/ScaleAwareCRD/PhantomSlices/{run}" for run in ("v0", "v1"))
    assert (second / "weights/lightning/model.ckpt").is_file()
    configs = [yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")) for run in (first, second)]
    for part in ("model", "data"):
        assert configs[0][part] == configs[1][part]


def test_test_by_the_full_class_path(printed: dict[str, str]):
    assert "pixel_AUROC" in succeeded(printed, "test")


def test_predict_draws_heat_maps(folder: Path, printed: dict[str, str]):
    succeeded(printed, "predict")
    assert list((folder / "results/ScaleAwareCRD/latest/images").rglob("*.png"))


def test_export_writes_the_model(folder: Path, printed: dict[str, str]):
    succeeded(printed, "export")
    assert list((folder / "results").rglob("weights/torch/model.pt"))


def test_benchmark_beside_a_model_of_anomalib(folder: Path, printed: dict[str, str]):
    assert "There were some errors" not in succeeded(printed, "benchmark")
    (table,) = (folder / "runs/benchmark").rglob("results.csv")
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["model.class_path"] for row in rows] == ["ScaleAwareCRD", "Dfm"]
    for row in rows:
        assert 0 <= float(row["image_AUROC"]) <= 1
        assert 0 <= float(row["pixel_F1Score"]) <= 1


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_message(printed: dict[str, str], mistake: str):
    before, _, last = printed[mistake].rstrip().rpartition("\n--- ")
    assert last.startswith(f"anomalib: error: {MISTAKES[mistake]}")
    assert "\n" not in last
    for noise in ("Traceback", "Union subtypes", "Namespace(", "Expected a"):
        assert noise not in before
