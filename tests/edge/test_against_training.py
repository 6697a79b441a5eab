"""The runner's scores and maps against training's, after a real export, with the complete preparation of images."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import Folder
from anomalib.engine import Engine
from PIL import Image
from torchvision.transforms.v2 import CenterCrop, Compose, Normalize, Resize
from torchvision.transforms.v2.functional import resize

from anomalib_scrd import ScaleAwareCRD
from anomalib_scrd.edge.__main__ import main
from anomalib_scrd.edge.files import read_map
from anomalib_scrd.edge.journal import read_records
from anomalib_scrd.export.metadata import _may_be_resized_before
from anomalib_scrd.export.training_scores import write_training_scores
from anomalib_scrd.tiling import Tiling
from tests.models import build_engine, build_model

INPUT = (64, 64)


@dataclass
class Exported:
    """A trained model, what it predicts for its test images, and its exported files."""

    checkpoint: Path
    images: Path
    scores: dict[str, float]
    labels: dict[str, bool]
    maps: dict[str, np.ndarray]
    openvino: Path
    onnx: Path


@pytest.fixture(scope="module")
def exported(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A short training on images of another size and aspect ratio than the model's input."""
    root = tmp_path_factory.mktemp("trained")
    images = root / "images"
    for index, path in enumerate(sorted(tiny_folder.glob("t*/*/*.png"))):
        with Image.open(path) as image:
            target = images / path.relative_to(tiny_folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            image.resize((90 + 10 * (index % 4), 75)).convert("RGB" if index % 2 else "L").save(target)
    data = Folder(
        name="tiny",
        root=images,
        normal_dir="train/good",
        normal_test_dir="test/good",
        abnormal_dir="test/spot",
        train_batch_size=4,
        eval_batch_size=1,  # anomalib enlarges images of mixed sizes to the largest of a batch
        num_workers=0,
        val_split_mode="same_as_test",
    )
    model = build_model(layers=["layer1", "layer2"])
    engine = build_engine(root, max_steps=12, logger=False)
    engine.fit(model, datamodule=data)
    batches = Engine(default_root_dir=root, accelerator="cpu", devices=1, logger=False).predict(model, datamodule=data)
    scores, labels, maps = {}, {}, {}
    for batch in batches:
        name = Path(batch.image_path[0]).relative_to(images / "test").as_posix()
        scores[name] = batch.pred_score.item()
        labels[name] = bool(batch.pred_label.item())
        maps[name] = batch.anomaly_map.reshape(INPUT)
    model = model.cpu().eval()
    with pytest.MonkeyPatch.context() as patch:
        original = ScaleAwareCRD.to_onnx

        def keep(self: ScaleAwareCRD, *args: object, **kwargs: object) -> Path:
            path = original(self, *args, **kwargs)
            shutil.copytree(path.parent, root / "onnx")
            return path

        patch.setattr(ScaleAwareCRD, "to_onnx", keep)
        openvino = model.to_openvino(root / "export", input_size=INPUT)
    return Exported(
        Path(engine.best_model_path),
        images / "test",
        scores,
        labels,
        maps,
        openvino,
        next((root / "onnx").glob("*.onnx")),
    )


@pytest.mark.parametrize("kind", ["openvino", "onnx", "onnx in openvino"])
def test_scores_and_maps_are_trainings(kind: str, exported: Exported, tmp_path: Path) -> None:
    model = exported.openvino if kind == "openvino" else exported.onnx
    engine = "onnxruntime" if kind == "onnx" else "openvino"
    words = [str(model), str(exported.images), "--output", str(tmp_path / "results"), "--engine", engine]
    assert main([*words, "--maps", "tiff"]) == 0
    records = read_records(tmp_path / "results")
    assert {record.path for record in records} == exported.scores.keys()
    for record in records:
        assert record.score == pytest.approx(exported.scores[record.path], abs=1e-4)
        if abs(record.score - 0.5) > 1e-4:
            assert record.anomalous == exported.labels[record.path]
        expected = resize(
            torch.as_tensor(exported.maps[record.path])[None], [record.height, record.width], antialias=True
        )
        np.testing.assert_allclose(read_map(tmp_path / "results" / record.map), expected[0].numpy(), atol=1e-4)
    assert np.std([record.score for record in records]) > 0.01  # scores that are worth comparing


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        (Resize((48, 64), antialias=True), True),
        (Compose([Resize((48, 64), antialias=True), Normalize([0.5] * 3, [0.5] * 3)]), True),
        (Compose([Resize((64, 80), antialias=True), CenterCrop((48, 64))]), False),
        (Resize((48, 64), antialias=False), False),
        (None, True),
    ],
)
def test_an_export_says_whether_images_may_be_resized_before(transform: object, expected: bool) -> None:
    """Otherwise the runner leaves the resizing to the graph."""
    assert _may_be_resized_before(transform, (48, 64)) is expected


def test_scores_of_the_training_for_the_report(exported: Exported, tmp_path: Path) -> None:
    """The command for a report's comparison writes the engine's predictions and maps of the scales."""
    write_training_scores(exported.checkpoint, exported.images, tmp_path / "training")
    records = read_records(tmp_path / "training")
    assert {record.path for record in records} == exported.scores.keys()
    for record in records:
        assert record.score == pytest.approx(exported.scores[record.path], abs=1e-5)
        assert record.anomalous == exported.labels[record.path]
        with np.load(tmp_path / "training" / "scales" / f"{record.path}.0000.npz") as scales:
            assert scales["maps"].shape[0] == len(scales["weights"]) == len(scales["layers"])
            assert np.isfinite(scales["maps"]).all()
    with pytest.raises(ValueError, match="already has results"):
        write_training_scores(exported.checkpoint, exported.images, tmp_path / "training")
    words = ["report", str(exported.openvino), str(exported.images), "--output", str(tmp_path / "results")]
    assert main([*words, "--training", str(tmp_path / "training"), "--seconds", "0"]) == 0
    text = (tmp_path / "results" / "report.html").read_text(encoding="utf-8")
    assert "The scores equal those of the training." in text
    assert "Mean weights of 12 pictures" in text


def test_a_tiled_model_has_scores_and_no_maps_of_scales(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The maps of its scales are those of tiles."""
    model = ScaleAwareCRD.load_from_checkpoint(exported.checkpoint, map_location="cpu")
    model.model.tiling = Tiling((32, 32), (32, 32))
    monkeypatch.setattr(ScaleAwareCRD, "load_from_checkpoint", lambda *_args, **_kwargs: model)
    write_training_scores(exported.checkpoint, exported.images, tmp_path / "training")
    assert read_records(tmp_path / "training")
    assert not (tmp_path / "training" / "scales").exists()
