"""Exported files have one input, the images, whatever else anomalib hands to the exporter."""

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch

from tests.models import build_model


def test_sensitivities_of_a_later_anomalib_are_no_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As anomalib's open pull request 3596 calls the exporter, ported to the exporter of 2.7."""
    export = torch.onnx.export

    def with_sensitivities(args: tuple, input_names: list, dynamic_shapes: tuple, **others: Any) -> Any:
        if len(args) == 1:
            args, dynamic_shapes = (*args, torch.tensor(0.5), torch.tensor(0.5)), (*dynamic_shapes, None, None)
            input_names = [*input_names, "image_sensitivity", "pixel_sensitivity"]
        return export(args=args, input_names=input_names, dynamic_shapes=dynamic_shapes, **others)

    monkeypatch.setattr(torch.onnx, "export", with_sensitivities)
    model = build_model(layers=["layer1", "layer2"]).eval()
    session = onnxruntime.InferenceSession(model.to_onnx(tmp_path))
    images = torch.rand(2, 3, 70, 64)
    (inputs,) = session.get_inputs()
    scores, *_ = session.run(["pred_score"], {inputs.name: images.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(scores), model(images).pred_score, atol=1e-4, rtol=1e-4)
