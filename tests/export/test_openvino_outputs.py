"""Names of outputs in OpenVINO's files, with and without optional attributes."""

import re
from pathlib import Path

import numpy as np
import openvino
import pytest
from openvino import opset13

from anomalib_scrd.export.openvino_outputs import keep_names_of_outputs


def _model() -> openvino.Model:
    """An input, an operation within and one at the output."""
    image = opset13.parameter([1, 3], np.float32, name="input")
    image.output(0).get_tensor().set_names({"input"})
    within = opset13.relu(image)
    within.output(0).get_tensor().set_names({"within"})
    last = opset13.sigmoid(within)
    last.output(0).get_tensor().set_names({"pred_score"})
    return openvino.Model([last], [image], "small")


@pytest.mark.parametrize("attribute", [True, False])
def test_names_of_outputs_stay_and_others_go(attribute: bool, tmp_path: Path) -> None:
    """`output_names` of a Result is optional in a file; without it all names of outputs were lost."""
    path = tmp_path / "model.xml"
    openvino.save_model(_model(), path, compress_to_fp16=False)
    if not attribute:
        path.write_text(re.sub(r' output_names="[^"]*"', "", path.read_text()))
    model = openvino.Core().read_model(path)
    keep_names_of_outputs(model, ["pred_score", "anomaly_map"])
    assert [output.names for output in model.outputs] == [{"pred_score"}]
    assert [value.names for value in model.inputs] == [{"input"}]
    inner = [node for node in model.get_ops() if node.get_type_name() == "Relu"]
    assert [node.output(0).names for node in inner] == [set()]


def test_an_output_without_its_name_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"outputs must be among \['pred_mask'\], got one that is named \['pred_score'"
    ):
        keep_names_of_outputs(_model(), ["pred_mask"])
