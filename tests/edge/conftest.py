"""A model with known map and score, as ONNX and OpenVINO file, and images for it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
from onnx import TensorProto, helper
from PIL import Image

SIZE = 16
FACTS = {
    "format": 1,
    "version": "0.2.0",
    "input": {"range": [0, 1], "layout": "NCHW", "height": SIZE, "width": SIZE, "resized_before": True},
    "window": {"mode": "values", "limits": [0.0, 4095.0], "eight_bit": [0.0, 255.0]},
    "thresholds": {"image": 0.5, "pixel": 0.5, "false_alarm_rate": 0.05},
    "outputs": ["pred_score", "pred_label", "anomaly_map", "pred_mask"],
    "arguments": {"backbone": "resnet18"},
    "training": {"images": 42, "steps": 7, "files_sha256": "ab" * 32},
}


def build_onnx(path: Path, facts: dict | None = FACTS, size: int | str = SIZE) -> Path:
    """Map: mean over the channels; score: the highest value of the map; label: score above 0.5."""
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, size, size])]
    outputs = [
        helper.make_tensor_value_info("pred_score", TensorProto.FLOAT, ["batch"]),
        helper.make_tensor_value_info("pred_label", TensorProto.BOOL, ["batch"]),
        helper.make_tensor_value_info("anomaly_map", TensorProto.FLOAT, ["batch", 1, size, size]),
        helper.make_tensor_value_info("pred_mask", TensorProto.BOOL, ["batch", 1, size, size]),
    ]
    constants = [
        helper.make_tensor("channels", TensorProto.INT64, [1], [1]),
        helper.make_tensor("all", TensorProto.INT64, [3], [1, 2, 3]),
        helper.make_tensor("half", TensorProto.FLOAT, [], [0.5]),
    ]
    nodes = [
        helper.make_node("ReduceMean", ["input", "channels"], ["anomaly_map"], keepdims=1),
        helper.make_node("ReduceMax", ["anomaly_map", "all"], ["pred_score"], keepdims=0),
        helper.make_node("Greater", ["pred_score", "half"], ["pred_label"]),
        helper.make_node("Greater", ["anomaly_map", "half"], ["pred_mask"]),
    ]
    graph = helper.make_graph(nodes, "known", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    if facts is not None:
        helper.set_model_props(model, {"anomalib_scrd": json.dumps(facts)})
    onnx.save(model, path)
    return path


def build_openvino(path: Path, facts: dict | None = FACTS, size: int | str = SIZE) -> Path:
    """The same as .xml."""
    model = openvino.Core().read_model(build_onnx(path.with_suffix(".onnx"), None, size))
    if facts is not None:
        model.set_rt_info(json.dumps(facts), ["anomalib_scrd"])
    openvino.save_model(model, path, compress_to_fp16=False)
    return path


@pytest.fixture(scope="session")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_onnx(tmp_path_factory.mktemp("onnx") / "model.onnx")


@pytest.fixture(scope="session")
def xml_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_openvino(tmp_path_factory.mktemp("openvino") / "model.xml")


def save_grey(path: Path, value: int, size: tuple[int, int] = (SIZE, SIZE)) -> Path:
    """An image whose brightest pixel, in the middle of its first row, has this value; its score is value / 255."""
    pixels = np.zeros(size, np.uint8)
    pixels[0, size[1] // 2] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Nine images in folders; those of ``good`` score below 0.5."""
    root = tmp_path / "images"
    for index in range(6):
        save_grey(root / "good" / f"{index}.png", 20 * (index + 1))
    for index in range(3):
        save_grey(root / "spot" / "deep" / f"{index}.png", 200 + 20 * index)
    return root


def edge(*words: object, cwd: Path | None = None, check: bool = False) -> "subprocess.CompletedProcess[str]":
    """Run the command line in a process of its own."""
    return subprocess.run(
        command(words), cwd=cwd, capture_output=True, text=True, timeout=120, check=check, env=ENVIRONMENT
    )


def command(words: Sequence[object]) -> list[str]:
    return [sys.executable, "-m", "anomalib_scrd.edge", *map(str, words)]


ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}

Edge = Callable[..., "subprocess.CompletedProcess[str]"]
