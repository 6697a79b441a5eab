"""anomalib's own command line: train on normal images only, change the rate, predict; messages and files."""

import csv
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from anomalib.cli.cli import AnomalibCLI

from anomalib_scrd import ScaleAwareCRD
from anomalib_scrd.training import console

MODEL = [
    "--model=ScaleAwareCRD",
    "--model.backbone=resnet18",
    "--model.pre_trained=false",
    "--trainer.accelerator=cpu",
    "--trainer.devices=1",
    "--trainer.enable_progress_bar=false",
]
SMALL = [
    "--model.pre_processor=anomalib.pre_processing.PreProcessor",
    "--model.pre_processor.transform=torchvision.transforms.v2.Resize",
    "--model.pre_processor.transform.size=[64,64]",
]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    monkeypatch.setattr(console, "_on_command_line", True)

    def run(name: str, *arguments: str) -> None:
        torch.manual_seed(0)
        AnomalibCLI(args=[name, *MODEL, "--default_root_dir", str(tmp_path / "results"), *arguments])

    yield run
    root.handlers[:] = handlers
    root.setLevel(level)


def test_normal_images_alone_from_training_to_prediction(
    command: Callable,
    tiny_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = Path(__file__).resolve().parents[2] / "configs/data/normal_images.yaml"
    data = [f"--data={config}", f"--data.normal_dir={tiny_folder / 'train/good'}", "--data.num_workers=0"]
    command("train", *SMALL, *data, "--trainer.max_steps=4")
    captured = capsys.readouterr()
    said = captured.out
    assert "in the validation or test set as well" not in said + captured.err + caplog.text
    checkpoint = Path(re.search(r"^checkpoint: (.*)$", said, re.MULTILINE)[1])
    assert checkpoint.is_file()
    assert len(re.findall(r"^threshold: 0.5 \(raw score .* for a false-alarm rate of 0.05", said, re.MULTILINE)) == 1
    assert len(re.findall(r"^next: anomalib predict --model ScaleAwareCRD", said, re.MULTILINE)) == 1
    pictures = re.search(r"^pictures: 2 in (.*), with a table in predictions.csv$", said, re.MULTILINE)[1]
    assert len(list(Path(pictures).rglob("*.png"))) == 2
    assert "AUROC and F1 are undefined (nan): the test images are all normal." in said

    rate = [
        "--model.post_processor=anomalib_scrd.decision.post_processor.CalibratedPostProcessor",
        "--model.post_processor.false_alarm_rate=0.4",
    ]
    labels = {}
    for name, more in (("stored", []), ("0.4", rate)):
        command("predict", *more, f"--ckpt_path={checkpoint}", f"--data={tiny_folder / 'test/good'}")
        said = capsys.readouterr().out
        folder = Path(re.search(r"^pictures: 6 in (.*), with a table", said, re.MULTILINE)[1])
        with (folder / "predictions.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 6
        for row in rows:
            line = f"{float(row['score']):>8.4f}  {row['label']:<9}  {row['file']}"
            assert line in said.splitlines()
        labels[name] = sum(row["label"] == "anomalous" for row in rows)
    assert labels["0.4"] >= labels["stored"]
    processor = ScaleAwareCRD.load_from_checkpoint(checkpoint).post_processor
    assert processor.false_alarm_rate == 0.05
