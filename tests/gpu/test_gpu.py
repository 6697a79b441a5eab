"""The command for a GPU, with tiny sizes on the CPU: every part runs, and a stopped part keeps its results."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from anomalib.pre_processing import PreProcessor
from jsonargparse import ArgumentParser

from anomalib_scrd.benchmark.__main__ import load_config as load_config_of_benchmark
from tests.gpu.__main__ import load_config, main
from tests.gpu.config import GpuConfig
from tests.gpu.parts import PARTS, Part, Training
from tests.gpu.precision import BOUNDS, compare
from tests.gpu.runner import run_gpu
from tests.models import build_model


def rows(output: Path) -> dict[str, list[str]]:
    lines = (output / "report.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return {row[0]: row[1:] for row in cells[1:]}


def test_every_part_runs(tmp_path: Path) -> None:
    """Not `graphs`, which would start a compiler, nor `steps`, which takes minutes: their settings are read below."""
    parts = ["short", "precision", "six sets"]
    words = ["--tiny", "true", "--device", "cpu", "--output", str(tmp_path), "--parts", json.dumps(parts)]
    assert main([*words, "--minutes", "300"]) == 0, [path.read_text()[-2000:] for path in tmp_path.rglob("log.txt")]
    found = rows(tmp_path)
    assert list(found) == parts
    assert all(row[2] == "ended" for row in found.values())
    assert re.match(r"8 steps in [\d.]+ s, [\d.]+ ms a step after the first \d+, whole", found["short"][1])
    assert found["precision"][1].count("of the scores' range") == 4
    assert re.fullmatch(r"drawn, default: [\d.]+; drawn, contrast-free: [\d.]+", found["six sets"][1])
    assert "TINY SIZES: nothing here is a measurement." in (tmp_path / "report.md").read_text()


class Sleeping(Part):
    def command(self, folder: Path, **_: object) -> list[str]:
        (folder / "found").write_text("7 of 9")
        return [sys.executable, "-c", "import time; time.sleep(600)"]

    def result(self, folder: Path) -> str:
        return (folder / "found").read_text() if (folder / "found").exists() else ""


class Failing(Sleeping):
    def command(self, folder: Path, **_: object) -> list[str]:
        super().command(folder)
        return [sys.executable, "-c", "raise SystemExit(3)"]


def test_the_time_is_kept_and_a_failure_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = {"fails": Failing("a", 1.0), "sleeps": Sleeping("b", 0.4), "again": Sleeping("c", 1.0)}
    for name, part in made.items():
        monkeypatch.setitem(PARTS, name, part)
    assert not run_gpu(GpuConfig(tmp_path, minutes=0.1, parts=[*made, "short"], device="cpu"))
    found = rows(tmp_path)
    assert found["fails"][1:3] == ["7 of 9", "FAILED, exit status 3, see log.txt"]
    assert found["sleeps"][1:3] == found["again"][1:3] == ["7 of 9", "its time was over"]
    assert float(found["sleeps"][3]) <= 4
    assert found["short"][1:3] == ["-", "not begun: no time was left"]


@pytest.mark.parametrize("name", PARTS)
def test_the_settings_of_every_part_are_read(name: str, tmp_path: Path) -> None:
    """At full size: the command line's own parsers and the model's checks take them; nothing is run."""
    words = PARTS[name].command(tmp_path, device="cpu", tiny=False, seed=0)
    if not isinstance(PARTS[name], Training):
        assert words[:2] == [sys.executable, "-m"]
        if name == "steps":
            load_config_of_benchmark("speed", words[4:])
        if name == "six sets":
            config = load_config_of_benchmark("quality", words[3:])
            assert len(config.runs()) == 12
            assert all(run.description["model"]["max_steps"] == 5000 for run in config.runs())
        return
    settings = json.loads((tmp_path / "settings.yaml").read_text())
    arguments = settings["model"]["init_args"]
    from anomalib_scrd import ScaleAwareCRD

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--pre_processor", type=PreProcessor)
    read = parser.instantiate_classes(parser.parse_object({"pre_processor": arguments.pop("pre_processor")}))
    side = settings["data"]["init_args"]["image_size"]
    assert read.pre_processor.transform(torch.zeros(1, 3, 40, 50)).shape[2:] == (side, side)
    if arguments["backbone"] != "wide_resnet50_2":
        assert ScaleAwareCRD(**arguments).hparams["seed"] == 0
    (callback,) = settings["trainer"]["callbacks"]
    assert callback["class_path"].endswith("Progress")


def test_a_part_without_its_images_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANOMALIB_SCRD_DATA", raising=False)
    assert run_gpu(GpuConfig(tmp_path, minutes=1, parts=["six sets"], device="cpu"))
    assert rows(tmp_path)["six sets"][2] == "not begun: ANOMALIB_SCRD_DATA is not set"


def test_wrong_arguments_are_refused() -> None:
    for words in (["--minutes", "0"], ["--parts", "[nothing]"], ["--device", "tpu"]):
        with pytest.raises(SystemExit) as caught:
            load_config(words)
        assert caught.value.code == 2


def test_a_cut_line_of_progress_is_no_line(tmp_path: Path) -> None:
    training = Training("x", steps=100)
    assert training.result(tmp_path) == ""
    lines = [json.dumps({"steps": steps, "seconds": 0.02 * steps}) for steps in (0, 20, 40)]
    (tmp_path / "progress.jsonl").write_text("\n".join([*lines, '{"steps": 60, "sec']))
    assert training.result(tmp_path) == "40 steps in 0.8 s, 20.00 ms a step after the first 20"


def test_scores_in_other_precisions() -> None:
    """Of a model that has learned nothing, whose features are as large as a trained one's; the bound is stated."""
    torch.manual_seed(0)
    model = build_model(layers=["layer1", "layer2"])
    images = torch.rand(6, 3, 64, 64) * torch.linspace(0.2, 2, 6).view(-1, 1, 1, 1)
    found = compare(model.model, images, ("bf16", "fp16", "channels_last", "tf32")).set_index("form")
    assert found.loc["tf32", "score"] == 0  # a CPU has none
    assert found.loc["channels_last", "score"] < BOUNDS["channels_last"]
    assert 0 < found.loc["fp16", "score"] < BOUNDS["fp16"]
    assert 0 < found.loc["bf16", "score"] < BOUNDS["bf16"]
    assert torch.get_float32_matmul_precision() == "highest"
