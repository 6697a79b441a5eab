"""Arrays of 12 or 16 bits given to an inferencer: an error if the model can raise one, otherwise NaN."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import InferenceBatch

from anomalib_scrd.export.input_range import check_range, marked, out_of_range
from tests.export.conftest import Exported, Trained
from tests.export.test_agreement import onnx_predict, openvino_predict, rows, torch_predict
from tests.export.test_any_size import plain_openvino
from tests.models import build_model


def test_pixels_are_looked_at_image_by_image() -> None:
    images = torch.rand(6, 3, 4, 4)
    images[1, 2, 3, 3] = 16.0  # 12 bits over 255
    images[2, 0, 0, 0] = -3.0
    images[3, 1, 1, 1] = float("nan")
    images[4, 0, 0, 0] = 1.02  # what a cubic filter overshoots
    assert out_of_range(images).tolist() == [False, True, True, True, False, False]
    check_range(images[4:])
    with pytest.raises(ValueError, match=r"images must have pixels in \[0, 1\], got values from .* to 16"):
        check_range(images[:2])


def test_marked_images_have_no_number_and_are_called_anomalous() -> None:
    mask = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    plain = InferenceBatch(torch.rand(2), torch.tensor([False, False]), torch.rand(2, 1, 4, 4), mask)
    found = marked(plain, torch.tensor([False, True]))
    assert torch.isnan(found.pred_score).tolist() == [False, True]
    assert torch.isnan(found.anomaly_map).flatten(1).all(1).tolist() == [False, True]
    assert torch.equal(found.anomaly_map[0], plain.anomaly_map[0])
    assert found.pred_label.tolist() == [False, True]
    assert marked(InferenceBatch(pred_score=torch.rand(2)), torch.tensor([True, True])).pred_label is None


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_a_file_gives_no_number_for_deep_pixels(kind: str, edge: Trained, edge_export: Exported) -> None:
    # Not anomalib's inferencer, which divides a batch by 255 where one value in it is above 1.
    predict: Callable = onnx_predict(edge_export.onnx) if kind == "onnx" else plain_openvino(edge_export)
    images = edge.images[:3]
    alone = predict(images)
    deep = images.clone()
    deep[1] *= 4095 / 255
    found = predict(deep)
    assert np.isnan(rows(found, "pred_score")).ravel().tolist() == [False, True, False]
    assert np.isnan(rows(found, "anomaly_map")[1]).all()
    assert bool(rows(found, "pred_label")[1])
    for field in ("pred_score", "anomaly_map", "pred_label", "pred_mask"):
        np.testing.assert_allclose(rows(found, field)[[0, 2]], rows(alone, field)[[0, 2]], rtol=0, atol=1e-6)


def test_inferencers_of_anomalib_with_a_deep_array(
    edge: Trained, edge_export: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """anomalib divides every array by 255: 12 bits become white, and the score was that of a white image."""
    deep = (4095 * edge.images[0].permute(1, 2, 0).numpy()).astype(np.uint16)
    assert np.isnan(openvino_predict(edge_export.openvino)(deep).pred_score).all()
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    predict = torch_predict(edge.model.to_torch(tmp_path))
    with pytest.raises(ValueError, match=r"images must have pixels in \[0, 1\]"):
        predict(torch.from_numpy(deep.astype(np.float32)).permute(2, 0, 1))


def test_a_training_on_other_ranges_takes_them() -> None:
    """A data set with a reader of its own may standardise its images."""
    model = build_model().eval()
    images = 3 * torch.randn(2, 3, 64, 64)
    with pytest.raises(ValueError, match="images must have pixels in"):
        model(images)
    model.note_range(torch.rand(2, 3, 8, 8))
    assert dict(model.training_facts) == {}
    model.note_range(images)
    with torch.no_grad():
        assert model(images).pred_score.isfinite().all()
