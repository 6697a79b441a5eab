"""One model, one score: Lightning, torch, ONNX Runtime and OpenVINO agree after training, with post-processing."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from anomalib.deploy import OpenVINOInferencer, TorchInferencer
from anomalib.pre_processing import PreProcessor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import Compose, Normalize, Resize

from anomalib_scrd import ScaleAwareCRD
from anomalib_scrd.decision.calibrated_score import _OUTLINE_OF_PEAK
from tests.export.conftest import ODD_SIZE, Exported, Trained, engine, export

# Without it OpenVINO computes in bfloat16 where the processor can.
FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32"}
FIELDS = ("pred_score", "anomaly_map", "pred_label", "pred_mask")
TOLERANCE = 1e-4

Results = dict[str, np.ndarray]


def collect(predict: Callable[[torch.Tensor], Any], images: torch.Tensor, batch: int) -> Results:
    """Predict in batches; every field with a row per image."""
    parts = images.split(batch)
    results = [predict(part) for part in parts]
    return {field: np.concatenate([rows(result, field) for result in results]) for field in FIELDS}


def rows(result: Any, field: str) -> np.ndarray:
    values = torch.as_tensor(getattr(result, field)).detach().numpy()
    return values.reshape(len(torch.as_tensor(result.pred_score).flatten()), -1)


def assert_agree(results: Results, expected: Results) -> None:
    for field in ("pred_score", "anomaly_map"):
        np.testing.assert_allclose(results[field], expected[field], rtol=TOLERANCE, atol=1e-5, err_msg=field)
    # A decision may differ where a value is at its threshold up to rounding: 0.5, or a share of the peak of an
    # anomalous image without a pixel above 0.5.
    by_peak = expected["anomaly_map"] - _OUTLINE_OF_PEAK * expected["anomaly_map"].max(axis=1, keepdims=True)
    for field, source, others in (("pred_label", "pred_score", ()), ("pred_mask", "anomaly_map", (by_peak,))):
        decided = np.min(np.abs([expected[source] - 0.5, *others]), axis=0) > TOLERANCE
        assert (results[field] == expected[field])[decided].all(), field


def openvino_predict(path: Path) -> Callable[[torch.Tensor], Any]:
    return OpenVINOInferencer(path, device="CPU", config=FLOAT32).predict


def onnx_predict(path: Path) -> Callable[[torch.Tensor], Any]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (name,) = (entry.name for entry in session.get_inputs())
    names = [entry.name for entry in session.get_outputs()]
    return lambda images: SimpleNamespace(**dict(zip(names, session.run(names, {name: images.numpy()}), strict=True)))


def torch_predict(path: Path) -> Callable[[torch.Tensor], Any]:
    return torch.no_grad()(TorchInferencer(path, device="cpu").predict)


def static_shape(path: Path) -> list[int | None]:
    """Shape of the input, None where it is free."""
    shape = openvino.Core().read_model(path).input(0).partial_shape
    return [axis.get_length() if axis.is_static else None for axis in shape]


def test_the_scores_are_worth_comparing(edge: Trained, odd: Trained) -> None:
    """Scores and maps that are all clipped to 0 or 1 would always agree."""
    for trained in (edge, odd):
        expected = collect(trained.predict, trained.images, 5)
        for field in ("pred_score", "anomaly_map"):
            inside = (expected[field] > 0) & (expected[field] < 1)
            assert inside.mean() > 0.3, field
            assert expected[field][inside].std() > 100 * TOLERANCE, field
        assert not torch.isnan(trained.model.post_processor.image_threshold)
    assert 0 < collect(edge.predict, edge.images, 5)["pred_label"].mean() < 1


@pytest.mark.parametrize("batch", [1, 5])
def test_engine_predicts_what_the_model_computes(edge: Trained, batch: int, tmp_path: Path) -> None:
    batches = engine(tmp_path).predict(edge.model, datamodule=edge.data(eval_batch_size=batch))
    assert len(batches) == len(edge.images) / batch
    results = {field: np.concatenate([rows(item, field) for item in batches]) for field in FIELDS}
    assert_agree(results, collect(edge.predict, edge.images, 5))


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("kind", ["torch", "onnx", "onnx in openvino", "openvino"])
def test_the_training_size_agrees(
    kind: str, batch: int, edge: Trained, edge_export: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "torch":
        monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
        predict = torch_predict(edge.model.to_torch(tmp_path))
    else:
        path = edge_export.openvino if kind == "openvino" else edge_export.onnx
        assert static_shape(path) == [None, 3, None, None]
        predict = onnx_predict(path) if kind == "onnx" else openvino_predict(path)
    assert_agree(collect(predict, edge.images, batch), collect(edge.predict, edge.images, 5))


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("kind", ["torch", "onnx", "onnx in openvino", "openvino"])
def test_any_size_agrees(
    kind: str, batch: int, odd: Trained, odd_export: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a checkpoint, at a size that no stride divides, and at sizes that the model resizes itself."""
    if kind == "torch":
        monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
        loaded = ScaleAwareCRD.load_from_checkpoint(odd.checkpoint)
        predict = torch_predict(loaded.to_torch(tmp_path))
    else:
        path = odd_export.openvino if kind == "openvino" else odd_export.onnx
        assert static_shape(path) == [None, 3, None, None]
        predict = onnx_predict(path) if kind == "onnx" else openvino_predict(path)
    for size in (ODD_SIZE, (96, 80), (50, 122)):
        images = torch.nn.functional.interpolate(odd.images, size=size, mode="bilinear", antialias=True)
        results = collect(predict, images, batch)
        assert_agree(results, collect(odd.predict, images, 5))
        assert results["anomaly_map"].shape[1] == ODD_SIZE[0] * ODD_SIZE[1]


def test_no_kernel_of_one_row(edge_export: Exported) -> None:
    """With one, OpenVINO 2026.4 never finishes compiling in bfloat16, its default on processors with AMX."""
    kernels = [
        tuple(node.input_value(1).get_partial_shape().to_shape())[-2:]
        for node in openvino.Core().read_model(edge_export.openvino).get_ops()
        if node.get_type_name() == "GroupConvolution"
    ]
    assert kernels  # the backbone's
    assert not [kernel for kernel in kernels if kernel[0] == 1 and kernel[1] > 1]


def test_default_precision_of_openvino(edge: Trained, edge_export: Exported, tmp_path: Path) -> None:
    """bfloat16 where the processor has it: a few per cent off, in a process that may be killed if it never ends."""
    code = f"""
import numpy, openvino
model = openvino.Core().compile_model({str(edge_export.openvino)!r}, "CPU")
print(*model(numpy.load({str(tmp_path / "images.npy")!r}))["pred_score"].ravel())
"""
    np.save(tmp_path / "images.npy", edge.images.numpy())
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    scores = np.array(done.stdout.split(), dtype=np.float32)
    np.testing.assert_allclose(scores, collect(edge.predict, edge.images, 5)["pred_score"].ravel(), atol=0.1)


def test_fixed_batch_agrees(odd: Trained, tmp_path: Path) -> None:
    """OpenVINO drops the last operation here, and anomalib's inferencer would read the name of another tensor."""
    exported = export(
        tmp_path, lambda root: odd.model.to_openvino(root, input_size=ODD_SIZE, onnx_kwargs={"dynamic_axes": {}})
    )
    expected = collect(odd.predict, odd.images, 5)
    assert static_shape(exported.onnx) == static_shape(exported.openvino) == [1, 3, *ODD_SIZE]
    assert_agree(collect(openvino_predict(exported.openvino), odd.images, 1), expected)
    # anomalib's inferencer cannot read this ONNX file: there the names of inner tensors are part of the format
    compiled = openvino.Core().compile_model(exported.onnx, "CPU", FLOAT32)
    direct = [compiled(image[None].numpy()) for image in odd.images]
    results = {field: np.concatenate([result[field].reshape(1, -1) for result in direct]) for field in FIELDS}
    assert_agree(results, expected)


SMALL: dict[str, Any] = {"backbone": "resnet18", "pre_trained": False, "student": {"depth": 1}}
STATISTICS = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@pytest.mark.parametrize("pre_processor", [False, PreProcessor(Normalize(*STATISTICS))])
@pytest.mark.parametrize("kind", ["to_onnx", "to_openvino"])
def test_an_export_needs_a_size(kind: str, pre_processor: PreProcessor | bool, tmp_path: Path) -> None:
    """anomalib would write a file for images of 2 x 2 pixels."""
    model = ScaleAwareCRD(**SMALL, pre_processor=pre_processor)
    with pytest.raises(ValueError, match=r"has no Resize.*: give input_size, \(height, width\), each at least 32"):
        getattr(model, kind)(tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="images must be at least 32 x 32 pixels"):
        getattr(model, kind)(tmp_path, input_size=(16, 64))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_resize_that_keeps_the_aspect_ratio(tmp_path: Path) -> None:
    """anomalib's export makes every image square. Here the file takes images of one size, and gives their scores."""
    torch.manual_seed(0)
    pre_processor = PreProcessor(Compose([Resize(48), Normalize(*STATISTICS)]))
    model = ScaleAwareCRD(**SMALL, layers=["layer1", "layer2"], pre_processor=pre_processor).eval()
    with pytest.raises(ValueError, match=r"resizes to one number, which keeps the aspect ratio.*: give input_size"):
        model.to_openvino(tmp_path)
    assert not list(tmp_path.iterdir())
    exported = export(tmp_path, lambda root: model.to_openvino(root, input_size=(90, 70)))
    images = torch.rand(2, 3, 90, 70)
    with torch.no_grad():
        expected = model(images)
    assert expected.anomaly_map.shape[-2:] == (61, 48)
    for predict in (onnx_predict(exported.onnx), openvino_predict(exported.openvino)):
        found = predict(images)
        for field in ("pred_score", "anomaly_map"):
            np.testing.assert_allclose(rows(found, field), rows(expected, field), rtol=1e-4, atol=1e-5)
    assert static_shape(exported.openvino) == static_shape(exported.onnx) == [None, 3, 90, 70]
    with pytest.raises(RuntimeError):
        openvino_predict(exported.openvino)(images[..., :64])


def test_other_interpolations_are_refused(tmp_path: Path) -> None:
    pre_processor = PreProcessor(Resize((64, 64), interpolation=InterpolationMode.BICUBIC))
    model = ScaleAwareCRD(**SMALL, pre_processor=pre_processor)
    for kind in ("to_onnx", "to_openvino"):
        with pytest.raises(ValueError, match=r"interpolation 'bicubic'.*train with bilinear"):
            getattr(model, kind)(tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_input_size_is_not_needed(edge_export: Exported, odd: Trained, caplog: pytest.LogCaptureFixture) -> None:
    """As given by anomalib's users: the file still takes any size, and the log says so."""
    assert static_shape(edge_export.openvino) == [None, 3, None, None]  # exported with one
    with caplog.at_level("INFO"):
        assert odd.model._fixed_size((50, 50), {}) is None
    assert "takes images of any size and resizes them to 75 x 61" in caplog.text
    assert odd.model._fixed_size((50, 50), {"dynamic_axes": {}}) == (50, 50)
    assert odd.model._fixed_size(None, {"dynamic_axes": {}}) == ODD_SIZE
