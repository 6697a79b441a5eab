"""Images of any size: every export gives the scores and maps of ``engine.predict``."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import openvino
import pandas as pd
import pytest
import torch
from anomalib.data.utils import read_image
from PIL import Image
from torchvision import transforms as v1
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2.functional import resize, to_pil_image

from anomalib_scrd.edge.run import main as run_edge
from anomalib_scrd.export.resizing import axis_weights, network_size, resized, transformed, unsupported
from tests.export.conftest import EDGE_SIZE, Exported, Trained, engine
from tests.export.test_agreement import (
    FIELDS,
    FLOAT32,
    Results,
    collect,
    onnx_predict,
    openvino_predict,
    rows,
    torch_predict,
)
from tests.export.test_metadata import create

SIZES = ((64, 64), (200, 168), (97, 203), (300, 70), (64, 40), (33, 35), (128, 128), (65, 63), (71, 400), (480, 512))


@pytest.fixture(scope="module")
def folder(edge: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Test slices at other sizes, in colour and grey, with fine grain that anti-aliasing takes away."""
    root = tmp_path_factory.mktemp("sizes")
    torch.manual_seed(0)
    for number, size in enumerate(SIZES):
        slices = edge.images[number : number + 1]
        enlarged = torch.nn.functional.interpolate(slices, size=size, mode="bilinear")
        grain = 0.1 * torch.randn(1, 3, *size) if size != EDGE_SIZE else 0
        colour = to_pil_image((enlarged + grain).clamp(0, 1)[0])
        colour.save(root / f"{number:02d}_colour.png")
        colour.convert("L").save(root / f"{number:02d}_grey.png")
    return root


@pytest.fixture(scope="module")
def expected(edge: Trained, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Results]:
    """Lightning's predictions by file name."""
    batches = engine(tmp_path_factory.mktemp("engine")).predict(edge.model, data_path=folder)
    return {
        Path(path).name: {field: rows(batch, field)[index : index + 1] for field in FIELDS}
        for batch in batches
        for index, path in enumerate(batch.image_path)
    }


def assert_near(results: Results, wanted: Results, tolerance: float, name: str) -> None:
    for field in ("pred_score", "anomaly_map"):
        np.testing.assert_allclose(results[field], wanted[field], rtol=0, atol=tolerance, err_msg=f"{name} {field}")
    for field, source in (("pred_label", "pred_score"), ("pred_mask", "anomaly_map")):
        decided = np.abs(wanted[source] - 0.5) > tolerance
        assert (results[field] == wanted[field])[decided].all(), (name, field)


@pytest.mark.parametrize("kind", ["torch", "onnx", "onnx in openvino", "openvino"])
def test_every_size_agrees_with_lightning(
    kind: str,
    edge: Trained,
    edge_export: Exported,
    folder: Path,
    expected: dict[str, Results],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    predict: Callable[[Any], Any]
    if kind == "torch":
        monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
        predict = torch_predict(edge.model.to_torch(tmp_path))
    elif kind == "onnx":
        predict = onnx_predict(edge_export.onnx)
    else:
        predict = openvino_predict(edge_export.openvino if kind == "openvino" else edge_export.onnx)
    assert len(expected) == 2 * len(SIZES)
    for name, wanted in expected.items():
        size = SIZES[int(name[:2])]
        image = read_image(folder / name, as_tensor=True)[None]
        results = collect(predict, image, 1)
        assert_near(results, wanted, 1e-4 if size == EDGE_SIZE else 1e-3, name)


def test_inferencers_read_the_files_themselves(
    edge: Trained,
    edge_export: Exported,
    folder: Path,
    expected: dict[str, Results],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    for predict in (torch_predict(edge.model.to_torch(tmp_path)), openvino_predict(edge_export.openvino)):
        for name, wanted in expected.items():
            prediction = predict(folder / name)
            assert_near({field: rows(prediction, field) for field in FIELDS}, wanted, 1e-3, name)


def test_real_images_agree(
    real_data: Path, edge: Trained, edge_export: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five grey and five colour ones, of ten sizes, in six runtimes; and one of each at the size of the training."""
    files: dict[tuple[int, int], Path] = {}
    for part, mode in (("magnetic_tile/test/good", "L"), ("brain_mri/test/good", "RGB")):
        found = {Image.open(path).size: path for path in sorted((real_data / part).iterdir())}
        files |= dict(list(found.items())[:5])
        assert all(Image.open(path).mode == mode for path in found.values())
    assert len(files) == 10
    folder = tmp_path / "images"
    folder.mkdir()
    for number, path in enumerate(files.values()):
        shutil.copy(path, folder / f"{number}{path.suffix}")
        if number in {0, 5}:
            Image.open(path).resize(EDGE_SIZE[::-1]).save(folder / f"{number}_exact.png")
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    inferencers = {"torch": torch_predict(edge.model.to_torch(tmp_path))}
    inferencers["openvino"] = openvino_predict(edge_export.openvino)
    tensors = inferencers | {"onnx": onnx_predict(edge_export.onnx), "plain openvino": plain_openvino(edge_export)}
    model_api = create(edge_export.openvino)
    assert run_edge([str(edge_export.openvino), str(folder), "--output", str(tmp_path / "edge"), "--quiet"]) == 0
    table = pd.read_csv(tmp_path / "edge" / "scores.csv", index_col="path")
    for batch in engine(tmp_path).predict(edge.model, data_path=folder):
        (path,) = batch.image_path
        wanted = {field: rows(batch, field) for field in FIELDS}
        tolerance = 1e-4 if "exact" in path else 1e-3
        image = read_image(path, as_tensor=True)[None]
        for name, predict in tensors.items():
            assert_near(collect(predict, image, 1), wanted, tolerance, f"{name} {path}")
        for name, predict in inferencers.items():
            prediction = predict(path)
            assert_near({field: rows(prediction, field) for field in FIELDS}, wanted, tolerance, f"{name} {path}")
        score, label = wanted["pred_score"].item(), bool(wanted["pred_label"])
        seen = model_api(np.asarray(Image.open(path).convert("RGB")))
        row = table.loc[Path(path).name]
        assert [float(seen.pred_score), row["score"]] == pytest.approx([score] * 2, abs=tolerance)
        if abs(score - 0.5) > tolerance:
            assert (seen.pred_label, row["anomalous"]) == (str(label), label)
        if "exact" in path:
            decided = np.abs(wanted["anomaly_map"] - 0.5) > tolerance
            np.testing.assert_array_equal(seen.pred_mask.reshape(1, -1)[decided], wanted["pred_mask"][decided])


def plain_openvino(exported: Exported) -> Callable[[torch.Tensor], Any]:
    """OpenVINO without anomalib."""
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(exported.openvino), "CPU", FLOAT32)

    def predict(images: torch.Tensor) -> Any:
        outputs = compiled(images.numpy())
        return SimpleNamespace(**{field: outputs[field] for field in FIELDS})

    return predict


def test_scores_without_anti_aliasing_differ(edge: Trained, folder: Path, expected: dict[str, Results]) -> None:
    """Resized without it, as anomalib's exports do, scores differ: the tests above see it."""
    scores = np.concatenate([wanted["pred_score"].ravel() for wanted in expected.values()])
    assert ((scores > 0) & (scores < 1)).mean() > 0.5  # not clipped
    gaps = []
    for name, wanted in expected.items():
        image = read_image(folder / name, as_tensor=True)[None]
        careless = edge.predict(resize(image, list(EDGE_SIZE), antialias=False))
        gaps.append(abs(careless.pred_score.item() - wanted["pred_score"].item()))
    assert max(gaps) > 0.02


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 5), (7, 7), (64, 64), (5, 13), (13, 5), (100, 3), (256, 255)])
def test_weights_are_those_of_torch(inputs: int, outputs: int, antialias: bool) -> None:
    found = axis_weights(inputs, outputs, antialias=antialias)
    eye = torch.eye(inputs, dtype=torch.float64)[:, None, None].expand(-1, 1, 2, -1)
    wanted = torch.nn.functional.interpolate(
        eye, size=(2, outputs), mode="bilinear", antialias=antialias, align_corners=False
    )
    torch.testing.assert_close(found, wanted[:, 0, 0].mT.float(), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(outputs))


def test_weights_of_long_axes_are_exact() -> None:
    """In float32 the centre of a pixel far out would be off by a thousandth of a pixel."""
    inputs, outputs = 40_000, 1_023
    found = axis_weights(inputs, outputs)[-1].double().numpy()
    centre = (outputs - 0.5) * inputs / outputs - 0.5
    wanted = np.maximum(0, 1 - np.abs(np.arange(inputs) - centre) * outputs / inputs)
    np.testing.assert_allclose(found, wanted / wanted.sum(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("size", [(64, 64), (30, 90), (90, 30), (20, 20)])
def test_images_are_resized_as_torchvision_does(size: tuple[int, int], antialias: bool) -> None:
    images = torch.rand(2, 3, 64, 64)
    found = resized(images, size, antialias=antialias)
    # torch rounds the centres of pixels to float32
    torch.testing.assert_close(found, resize(images, list(size), antialias=antialias), rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    "transform",
    [
        v2.Compose([v2.Resize((40, 50)), v2.CenterCrop(32), v2.Normalize([0.5] * 3, [0.2] * 3)]),
        v2.Compose([v2.Resize((40, 50), antialias=False), v2.Compose([v2.Normalize([0.5] * 3, [0.2] * 3)])]),
        v1.Compose([v1.Resize((40, 50)), v1.Normalize([0.5] * 3, [0.2] * 3)]),
        torch.nn.Sequential(v2.Resize((40, 50)), v2.CenterCrop((60, 70))),
        v2.Resize(40),
        v2.Resize(40, max_size=45),
        v2.Resize(None, max_size=45),
        v1.Resize(40),
        v1.Resize([40], max_size=45),
    ],
)
@pytest.mark.parametrize("size", [(61, 89), (90, 31), (33, 33)])
def test_transforms_give_the_same_images(transform: Any, size: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *size)
    torch.testing.assert_close(transformed(transform, images), transform(images), rtol=0, atol=1e-4)


def test_size_of_the_network() -> None:
    assert network_size(None) is None
    assert network_size(v2.Normalize([0.5] * 3, [0.2] * 3)) is None
    assert network_size(v2.Resize(40)) is None
    assert network_size(v1.Resize(40)) is None
    assert network_size(v2.Compose([v2.Resize(40), v2.CenterCrop(32)])) == (32, 32)
    assert network_size(v2.Compose([v2.Resize((40, 50)), v2.Normalize([0.5] * 3, [0.2] * 3)])) == (40, 50)


def test_other_interpolations_are_found() -> None:
    assert unsupported(None) is None
    assert unsupported(v2.Compose([v2.Resize((40, 50)), v2.CenterCrop(32)])) is None
    nested = v2.Compose([v2.Compose([v2.Resize((40, 50), interpolation=InterpolationMode.BICUBIC)])])
    assert unsupported(nested) == "bicubic"
