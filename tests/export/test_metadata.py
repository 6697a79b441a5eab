"""Metadata of exported files, and Model API, which they configure."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from openvino import opset13 as opset

from anomalib_scrd import ScaleAwareCRD
from anomalib_scrd.export.metadata import DOCUMENT, description, write_openvino_metadata
from anomalib_scrd.export.training_facts import file_list_hash
from tests.export.conftest import EDGE_SIZE, Exported, Trained
from tests.export.test_agreement import FLOAT32
from tests.models import build_model, build_quick_model


def openvino_document(path: Path) -> dict[str, Any]:
    return json.loads(openvino.Core().read_model(path).get_rt_info(DOCUMENT).astype(str))


def create(path: Path) -> Any:
    """Model API's wrapper of a file, from the file's metadata only."""
    adapters = pytest.importorskip("model_api.adapters", reason="openvino-model-api is not installed (extra test)")
    models = pytest.importorskip("model_api.models")
    adapter = adapters.OpenvinoAdapter(openvino.Core(), str(path), device="CPU", plugin_config=FLOAT32)
    return models.Model.create_model(adapter, preload=True)


def onnx_entries(path: Path) -> dict[str, str]:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).get_modelmeta().custom_metadata_map


@pytest.fixture(scope="module")
def document(edge_export: Exported) -> dict[str, Any]:
    return openvino_document(edge_export.openvino)


def test_both_files_hold_the_same_document(document: dict[str, Any], edge_export: Exported) -> None:
    entries = onnx_entries(edge_export.onnx)
    assert json.loads(entries[DOCUMENT]) == document
    model = openvino.Core().read_model(edge_export.openvino)
    info = {name: value.astype(str) for name, value in model.get_rt_info("model_info").astype(dict).items()}
    assert {f"model_info {name}": value for name, value in info.items()}.items() <= entries.items()
    assert info["model_type"] == "AnomalyDetection"
    assert info["scale_values"] == "255.0 255.0 255.0"


def test_contents_of_the_document(document: dict[str, Any], edge: Trained) -> None:
    assert document["format"] == 1
    assert document["version"] == version("anomalib-scrd")
    assert document["input"] == {
        "range": [0, 1],
        "layout": "NCHW",
        "resized_before": True,
        "height": EDGE_SIZE[0],
        "width": EDGE_SIZE[1],
        "resize": "in graph, anti-aliased",
    }
    assert document["window"] is None
    assert document["thresholds"]["image"] == document["thresholds"]["pixel"] == 0.5
    assert document["outputs"] == ["pred_score", "pred_label", "anomaly_map", "pred_mask"]
    assert document["arguments"]["backbone"] == "tf_efficientnet_lite0"
    data = edge.data()
    data.setup()
    edge.model.held_out.take(data)
    files = data.train_data.samples["image_path"]
    edge.model.held_out.give_back()
    assert 16 < len(files) < 32  # some are held out
    assert document["training"] == {"images": len(files), "steps": 60, "files_sha256": file_list_hash(files)}


def test_facts_come_back_from_a_checkpoint(edge: Trained) -> None:
    loaded = ScaleAwareCRD.load_from_checkpoint(edge.checkpoint)
    assert loaded.training_facts == edge.model.training_facts
    assert loaded.training_facts["steps"] == 60


def test_files_hold_no_path_of_the_machine(edge: Trained, edge_export: Exported, tmp_path: Path) -> None:
    """Neither the graph nor the metadata holds a path of this machine."""
    folder = str(Path(__file__).parents[2]).encode()
    for path in (edge_export.onnx, edge_export.openvino):
        content = path.read_bytes()
        assert folder not in content
        assert b"site-packages" not in content
    model = build_model()
    model.hparams["pre_trained"] = str(tmp_path / "weights.pth")
    assert str(tmp_path) not in json.dumps(description(model, None))
    assert description(model, None)["arguments"]["pre_trained"] == "weights.pth"


@pytest.mark.parametrize("post_processor", [True, False])
def test_settings_of_the_model_are_in_the_document(post_processor: bool) -> None:
    model = build_model(post_processor=post_processor)
    model.window = {"mode": "values", "limits": (0.0, 4095.0)}
    if post_processor:
        assert description(model, None)["outputs"] == ["pred_score", "anomaly_map"]  # no threshold, no labels
        model.post_processor.normal_evidence = torch.rand(30, 3)
        model.post_processor.false_alarm_rate = 0.1
        model.post_processor.image_sensitivity = 0.25
    found = json.loads(json.dumps(description(model, None), allow_nan=False))
    assert found["window"] == {"mode": "values", "limits": [0.0, 4095.0]}
    if post_processor:
        assert found["thresholds"] == {"image": 0.75, "pixel": 0.5, "false_alarm_rate": 0.1}
        assert found["normalized"]
        model.post_processor.enable_normalization = False
        found = description(model, None)
        assert (found["thresholds"]["image"], found["thresholds"]["pixel"]) == model.post_processor.output_thresholds
        assert not found["normalized"]
    else:
        assert set(found["thresholds"].values()) == {None}
        assert found["outputs"] == ["pred_score", "anomaly_map"]


def test_file_lists_have_one_hash(tmp_path: Path) -> None:
    """For any order and location; another name or size changes it."""

    def files(folder: str, **contents: str) -> list[Path]:
        paths = [tmp_path / folder / name / "image.png" for name in contents]
        for path, content in zip(paths, contents.values(), strict=True):
            path.parent.mkdir(parents=True)
            path.write_text(content)
        return paths

    first = files("one", a="1", b="22")
    wanted = file_list_hash(map(str, first))
    assert file_list_hash(map(str, reversed(first))) == wanted
    assert file_list_hash(map(str, files("two", a="1", b="33"))) == wanted
    assert file_list_hash(map(str, files("three", a="1", c="22"))) != wanted
    assert file_list_hash(map(str, files("four", a="1", b="2"))) != wanted
    assert len(file_list_hash([])) == len(wanted) == 64


@pytest.mark.parametrize("kind", ["openvino", "onnx"])
@pytest.mark.parametrize("size", [None, (48, 150)])
def test_model_api_gives_the_scores_of_training(
    kind: str, size: tuple[int, int] | None, edge: Trained, edge_export: Exported, tmp_path: Path
) -> None:
    """From pixels of 0 to 255, without arguments about the model. Unscaled, a normal image became anomalous."""
    model = create(edge_export.openvino if kind == "openvino" else edge_export.onnx)
    assert type(model).__name__ == "AnomalyDetection"
    labels = set()
    images = edge.images
    if size is not None:
        images = torch.nn.functional.interpolate(images, size=size, mode="bilinear")
    for index, image in enumerate(images):
        pixels = (255 * image).round().byte()
        expected = edge.predict(pixels[None] / 255)
        result = model(pixels.permute(1, 2, 0).numpy())
        assert result.pred_score == pytest.approx(expected.pred_score.item(), abs=1e-4), index
        assert result.pred_label == str(bool(expected.pred_label))
        labels.add(result.pred_label)
        if size is None:
            decided = (expected.anomaly_map[0, 0] - 0.5).abs().numpy() > 1e-4
            np.testing.assert_array_equal(result.pred_mask[decided], expected.pred_mask[0, 0].numpy()[decided])
            wanted = 255 * expected.anomaly_map[0, 0].numpy()
            np.testing.assert_allclose(result.anomaly_map, wanted, rtol=0, atol=0.6)
        else:
            assert result.pred_mask.shape == result.anomaly_map.shape == size
    assert labels == {"True", "False"}


@pytest.mark.parametrize("case", ["one size", "no labels", "raw"])
def test_model_api_refuses_what_it_would_score_otherwise(case: str, tmp_path: Path) -> None:
    """It would resize to the file's only size without anti-aliasing, make up labels, or clip raw scores."""
    outputs = ["anomaly_map"] if case == "no labels" else ["pred_score", "pred_label", "anomaly_map", "pred_mask"]
    image = opset.parameter([1, 3, 8, 8], np.float32, name="image")
    image.output(0).set_names({"input"})
    nodes = [opset.relu(image) for _ in outputs]
    for node, name in zip(nodes, outputs, strict=True):
        node.output(0).set_names({name})
    network = openvino.Model([opset.result(node) for node in nodes], [image])
    document = {"outputs": outputs, "thresholds": {"image": 0.5, "pixel": 0.5}, "normalized": case != "raw"}
    write_openvino_metadata(network, document, any_size=case != "one size")
    openvino.save_model(network, tmp_path / "model.xml")
    reasons = {"one size": "the file takes images of one size", "no labels": "the file has no threshold"}
    with pytest.raises(Exception, match=f"no model with name none: {reasons.get(case, 'scores and maps')}"):
        create(tmp_path / "model.xml")


def test_onnx_is_one_file_unless_asked(edge_export: Exported, tmp_path: Path) -> None:
    assert [file.name for file in edge_export.onnx.parent.iterdir()] == ["model.onnx"]
    onnx.checker.check_model(edge_export.onnx)
    apart = build_quick_model().to_onnx(tmp_path, external_data=True)
    assert sorted(file.name for file in apart.parent.iterdir()) == ["model.onnx", "model.onnx.data"]
    session = onnxruntime.InferenceSession(apart, providers=["CPUExecutionProvider"])
    # neither has the prediction of this model, which has no threshold, a label
    assert [output.name for output in session.get_outputs()] == ["pred_score", "anomaly_map"]
    (score,) = session.run(["pred_score"], {"input": np.zeros((1, 3, 50, 70), np.float32)})
    assert np.isfinite(score).all()
    assert DOCUMENT in onnx_entries(apart)
