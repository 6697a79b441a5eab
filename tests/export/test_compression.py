"""Compressed OpenVINO files: how far their scores may be from those in float32."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino
import pytest
from anomalib.deploy import CompressionType
from anomalib.metrics import AUROC

from anomalib_scrd import ScaleAwareCRD
from anomalib_scrd.export.quantisation import comparison_nodes, quantise, quantise_with_accuracy_control
from tests.export.conftest import EDGE_SIZE, Exported, Trained
from tests.export.test_agreement import collect, openvino_predict


@pytest.fixture
def compress(
    edge: Trained, edge_export: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """``to_openvino`` from the ONNX file that is there already."""
    monkeypatch.setattr(ScaleAwareCRD, "to_onnx", lambda *_args, **_kwargs: edge_export.onnx)

    def run(kind: str, **arguments: object) -> Path:
        return edge.model.to_openvino(
            tmp_path, input_size=EDGE_SIZE, compression_type=CompressionType[kind], **arguments
        )

    return run


def differences(path: Path, edge: Trained) -> tuple[float, float, float, float]:
    """Mean and largest difference of the scores, and the correlations of scores and of maps, with float32."""
    results, expected = (collect(predict, edge.images, 5) for predict in (openvino_predict(path), edge.predict))
    assert all(np.isfinite(values).all() for values in results.values())
    gap = np.abs(results["pred_score"] - expected["pred_score"])
    correlations = [
        np.corrcoef(results[field].ravel(), expected[field].ravel())[0, 1] for field in ("pred_score", "anomaly_map")
    ]
    return gap.mean(), gap.max(), *correlations


def quantised_nodes(path: Path) -> set[str]:
    model = openvino.Core().read_model(path)
    return {
        target.get_node().get_friendly_name()
        for node in model.get_ops()
        if node.get_type_name() == "FakeQuantize"
        for target in node.output(0).get_target_inputs()
    }


@pytest.mark.parametrize(("kind", "mean", "largest"), [("FP16", 2e-3, 5e-3), ("INT8", 0.03, 0.1)])
def test_compressed_weights(kind: str, mean: float, largest: float, compress: Callable, edge: Trained) -> None:
    path = compress(kind)
    original = edge_size(edge, path)
    assert original < 0.75
    found = differences(path, edge)
    assert found[0] < mean
    assert found[1] < largest
    assert min(found[2:]) > 0.98


def edge_size(edge: Trained, path: Path) -> float:
    """Size of the file relative to the weights in float32."""
    weights = sum(value.numel() for value in edge.model.model.state_dict().values())
    return path.with_suffix(".bin").stat().st_size / (4 * weights)


def test_quantised_activations(compress: Callable, edge: Trained) -> None:
    """Without the exclusion of the cosine every image gets the same score. The images are resized for calibration."""
    path = compress("INT8_PTQ", datamodule=edge.data(root=Path("larger").resolve(), image_size=(96, 80)))
    mean, largest, scores, maps = differences(path, edge)
    assert mean < 0.1
    assert largest < 0.4
    assert scores > 0.9
    assert maps > 0.85
    assert len(quantised_nodes(path)) > 20


def test_quantised_activations_with_accuracy_control(compress: Callable, edge: Trained) -> None:
    metric = AUROC(fields=["pred_score", "gt_label"])
    path = compress("INT8_ACQ", datamodule=edge.data(), metric=metric, max_drop=0.1)
    mean, largest, scores, maps = differences(path, edge)
    assert mean < 0.1
    assert largest < 0.4
    assert scores > 0.9
    assert maps > 0.85
    assert len(quantised_nodes(path)) > 20
    # anomalib's own version never resets: the metric would hold every trial since the first
    assert sum(part.numel() for part in metric.preds) <= len(edge.images)


def test_the_comparison_of_teacher_and_student_stays_in_float(edge_export: Exported) -> None:
    model = openvino.Core().read_model(edge_export.openvino)
    types = {node.get_friendly_name(): node.get_type_name() for node in model.get_ops()}
    kept = set(comparison_nodes(model))
    convolutions = [name for name, kind in types.items() if "Convolution" in kind]
    assert len(convolutions) > 30
    assert not kept.intersection(convolutions)
    # the products are the smoothing of the map, and the weights of the scales, which belong to the networks
    products = [name for name, kind in types.items() if kind == "MatMul"]
    assert len(set(products) - kept) == 1
    assert len(products) > 10
    for kind in ("ReduceSum", "TopK", "SoftPlus"):
        assert all(name in kept for name, other in types.items() if other == kind), kind


def test_wrong_arguments_are_named(edge: Trained) -> None:
    with pytest.raises(ValueError, match=r"INT8_PTQ needs a datamodule with validation images, got None"):
        quantise(None, None)
    with pytest.raises(ValueError, match=r"INT8_ACQ needs a datamodule with validation images, got <.*PhantomSlices"):
        quantise_with_accuracy_control(None, edge.data(val_split_mode="none"), None, 0.01)
    with pytest.raises(ValueError, match=r"max_drop must lie in \[0, 1\], got 1.5"):
        quantise_with_accuracy_control(None, edge.data(), None, 1.5)
