"""The sections of the speed benchmark run on tiny models and report their measurements."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openvino
import pandas as pd
import pytest
import torch

from anomalib_scrd.benchmark.__main__ import main
from anomalib_scrd.benchmark.speed import prediction, runner, step
from anomalib_scrd.benchmark.speed.config import SpeedConfig
from anomalib_scrd.benchmark.speed.training_step import TrainingStep, build_contender

SMALL = {"backbone": "resnet18", "pre_trained": False, "student": {"depth": 1}}
SCRD = {"class_path": "anomalib_scrd.ScaleAwareCRD", "init_args": SMALL}
RD = {
    "class_path": "anomalib.models.ReverseDistillation",
    "init_args": {"backbone": "resnet18", "layers": ["layer1", "layer2", "layer3"], "pre_trained": False},
}


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., SpeedConfig]:
    def make(**changes: Any) -> SpeedConfig:
        defaults: dict[str, Any] = {
            "models": {"baseline": RD, "default": SCRD},
            "output": tmp_path / "out",
            "image_sizes": [64],
            "batch": 2,
            "rounds": 1,
            "warmup": 0,
            "step": ["default"],
            "device": "cpu",
        }
        return SpeedConfig(**(defaults | changes))

    return make


def test_a_step_trains_as_the_model_does(config: Callable[..., SpeedConfig]) -> None:
    """The state is that of a training past its first batches, and the parameters move."""
    made = TrainingStep(config(), "default", 64)
    before = [parameter.clone() for parameter in made.module.model.trainable_parameters()]
    updates: list[int] = []
    standardise = made.module.model.standardise
    standardise.update = lambda features: updates.append(len(features))
    made()
    after = made.module.model.trainable_parameters()
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert not updates


def test_features_are_kept_from_the_second_step_on(config: Callable[..., SpeedConfig]) -> None:
    cached = SCRD | {"init_args": SMALL | {"feature_cache": 0.1, "loss": {"restore": 0.0, "contrast": 0.0}}}
    made = TrainingStep(config(models={"cached": cached}, step=["cached"]), "cached", 64)
    passes: list[int] = []
    made.module.model.teacher.register_forward_hook(lambda _m, args, _o: passes.append(len(args[0])))
    made()
    made()
    assert sum(passes) == 2


def test_ways_to_run_a_step(config: Callable[..., SpeedConfig]) -> None:
    models = {"plain": SCRD, "bf16": SCRD | {"precision": "bf16"}}
    settings = config(models=models, step=list(models))
    steps = {name: TrainingStep(settings, name, 64) for name in models}
    dtypes = {}
    for name, made in steps.items():
        outputs: list[Any] = []
        made.module.model.student.register_forward_hook(lambda _m, _a, output, outputs=outputs: outputs.extend(output))
        made()
        dtypes[name] = outputs[0].dtype
    assert dtypes == {"plain": torch.float32, "bf16": torch.bfloat16}
    # the same seed, the same weights
    built = (build_contender(settings, name, 64).parameters() for name in models)
    assert all(torch.equal(first, second) for first, second in zip(*built, strict=True))


def test_command_line_writes_what_it_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "speed.yaml"
    broken = {"class_path": "anomalib_scrd.ScaleAwareCRD", "init_args": SMALL | {"backbone": "no_such_backbone"}}
    models = {"baseline": RD, "default": SCRD, "broken": broken}
    file.write_text(str({"models": models, "step": list(models), "image_sizes": [64, 96]}))
    arguments = ["--batch", "2", "--rounds", "2", "--warmup", "0", "--device", "cpu", "--output", str(tmp_path / "out")]
    assert main(["speed", "--config", str(file), *arguments]) == 0

    samples = pd.read_csv(tmp_path / "out" / "speed.csv")
    labels = {f"{name}, {side}" for name in ("baseline", "default") for side in (64, 96)}
    assert set(samples["contender"]) == labels
    assert samples.groupby("contender")["round"].apply(list).to_dict() == {label: [0, 1] for label in labels}
    assert (samples["seconds"] > 0).all()
    markdown = (tmp_path / "out" / "speed.md").read_text()
    head = "| model, height and width | ms (quartiles) | images/s | time / baseline | time per pixel / at 64 | GFLOP |"
    for part in (
        "python -m anomalib_scrd.benchmark speed",
        "Machine: date",
        head,
        "- broken, 64: ",
        "no_such_backbone",
    ):
        assert part in markdown
    rows = {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ") for line in markdown.splitlines()}
    assert rows["baseline, 96"][3] == rows["default, 64"][4] == "1.000"  # relative to themselves
    assert float(rows["default, 96"][5]) == pytest.approx(float(rows["default, 64"][5]) * (96 / 64) ** 2, rel=0.02)
    assert "| default, 64 |" in capsys.readouterr().out


def test_a_section_that_fails_is_recorded(config: Callable[..., SpeedConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: SpeedConfig) -> None:
        msg = "as requested"
        raise RuntimeError(msg)

    monkeypatch.setattr(step, "measure", fail)
    monkeypatch.setattr(prediction, "measure", lambda _: prediction.Section(notes=["done"]))
    settings = config(prediction=["default"])
    assert not runner.run_speed(settings)
    markdown = (settings.output / "speed.md").read_text()
    assert "FAILED, the complete section step: RuntimeError: as requested" in markdown
    assert "done" in markdown


def test_predictions_run(config: Callable[..., SpeedConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    # an export by anomalib takes half a minute and is tested elsewhere
    converted = openvino.convert_model(torch.nn.Conv2d(3, 2, 3), example_input=torch.rand(2, 3, 64, 64))
    exported: list[str] = []

    def export(_: Any, engine: str, folder: Path, *__: Any) -> Path:
        if engine == "onnx":
            msg = "no ONNX today"
            raise RuntimeError(msg)
        exported.append(engine)
        folder.mkdir(parents=True)
        openvino.save_model(converted, folder / "model.xml")
        return folder / "model.xml"

    monkeypatch.setattr(prediction, "export_model", export)
    engines = ["torch", "onnx", "openvino-f32", "openvino-bf16"]
    models = ["baseline", "default"]
    result = prediction.measure(config(engines=engines, prediction=models, prediction_batches=[1, 3], image_sizes=[64]))
    assert exported == ["openvino-f32"] * 2  # bfloat16 reads the same file
    assert set(result.errors) == {"baseline, 64, onnx", "default, 64, onnx"}
    assert list(result.tables) == ["Predictions of 1", "Predictions of 3"]
    table = result.tables["Predictions of 3"]
    assert list(table.index) == [f"{m}, 64, {e}" for m in models for e in engines if e != "onnx"]
    assert set(table["time / baseline"][:3]) == {"1.000"}  # against itself
    assert table.loc["default, 64, openvino-f32", "speed-up over openvino-f32"] == "1.000"
    assert set(table["time per pixel / at 64"]) == {"1.000"}
    assert table["file, MiB"].eq("-").tolist() == [True, False, False] * 2
    assert len(result.samples["prediction, batch 1"]) == 1


def test_released_openvino_models_leave_a_process_that_takes_signals(tmp_path: Path) -> None:
    converted = openvino.convert_model(torch.nn.Conv2d(3, 2, 3), example_input=torch.rand(2, 3, 16, 16))
    openvino.save_model(converted, tmp_path / "model.xml")
    code = f"""
import os, pathlib, signal, numpy
from anomalib_scrd.benchmark.exported_models import open_file
signal.signal(signal.SIGUSR1, lambda *_: print("taken"))
images = numpy.zeros((1, 3, 16, 16), "float32")
first, second = (open_file("openvino-f32", pathlib.Path({str(tmp_path / "model.xml")!r}), images, 1) for _ in "12")
del first
del second
os.kill(os.getpid(), signal.SIGUSR1)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "taken\n"), done.stderr
