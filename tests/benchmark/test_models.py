"""Models of the benchmark, built from import paths and arguments; origin of a result."""

import subprocess
import sys

import pytest
import torch
from anomalib.data import Folder
from anomalib.models import AnomalibModule, Padim

from anomalib_scrd.benchmark.machine import code_digest, describe
from anomalib_scrd.benchmark.models import build, build_model, find_class

PADIM = {"backbone": "resnet18", "layers": ["layer1"], "pre_trained": False, "n_features": 8}


def test_bare_names_are_anomalibs() -> None:
    assert find_class("Padim", AnomalibModule, "anomalib.models") is Padim
    with pytest.raises(ValueError, match="must name a subclass of AnomalibModule, found None"):
        find_class("NoSuchModel", AnomalibModule, "anomalib.models")
    with pytest.raises(ValueError, match="must name a subclass of AnomalibModule"):
        find_class("anomalib.data.Folder", AnomalibModule, "anomalib.models")


def test_a_model_of_the_benchmark_gives_raw_scores_at_its_size() -> None:
    model = build_model("Padim", PADIM, (48, 64))
    assert model.input_size == (48, 64)
    assert model.post_processor is None
    assert model.evaluator is None
    assert model.visualizer is None
    assert build_model("Padim", PADIM, (48, 64), post_processor=True).post_processor is not None


def test_arguments_are_checked_and_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", "/somewhere")
    data = build(Folder, {"name": "x", "root": "${oc.env:PLACE}/x", "normal_dir": "good", "val_split_mode": "none"})
    assert str(data.root) == "/somewhere/x"
    with pytest.raises(Exception, match="NOT_SET"):
        build(Folder, {"name": "x", "root": "${oc.env:NOT_SET}"})
    with pytest.raises(Exception, match="wrong_name"):
        build_model("Padim", PADIM | {"wrong_name": 1}, (64, 64))


def test_code_has_a_digest() -> None:
    digests = {code_digest(path) for path in ("ScaleAwareCRD", "Padim", "tests.gpu.config.GpuConfig")}
    assert len(digests) == 3
    assert code_digest("Padim") == code_digest("anomalib.models.Patchcore")
    assert code_digest("ScaleAwareCRD") == code_digest("anomalib_scrd.ScaleAwareCRD")


MEMORY = """
import torch
from anomalib_scrd.benchmark.machine import PeakMemory
print(PeakMemory(torch.device("cpu")).of(lambda: torch.ones(256 * 2**18).sum()))
"""


def test_memory_of_some_work() -> None:
    # A process of its own: what earlier tests freed here, the C library may give back to the system meanwhile.
    printed = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True).stdout
    assert 251 < float(printed.split()[-1]) < 286  # MiB, of 256


def test_the_machine_in_words() -> None:
    assert {"device", "cores", "torch", "anomalib", "openvino"} <= describe(torch.device("cpu")).keys()
