"""Every model config starts with its command and builds the model that it describes."""

from pathlib import Path

import pytest
import yaml
from anomalib.models import AnomalibModule
from jsonargparse import ArgumentParser

import anomalib_scrd.lightning_model  # noqa: F401 - short class names are those of imported classes
from anomalib_scrd import ScaleAwareCRD
from anomalib_scrd.components.scale_adaptation import PublishedScaleAdaptation
from anomalib_scrd.presets import resolved

CONFIGS = Path(__file__).parents[2] / "configs"
MODELS = sorted((CONFIGS / "model").glob("*.yaml"))


def build(path: Path, *arguments: str) -> ScaleAwareCRD:
    parser = ArgumentParser()
    parser.add_subclass_arguments(AnomalibModule, "model")
    config = parser.parse_args(["--model", str(path), *arguments])
    return parser.instantiate_classes(config).model


def test_the_configs_are_there() -> None:
    assert [path.stem for path in MODELS] == ["default", "edge", "published"]


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_config_builds_its_model(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith(f"# anomalib train --model configs/model/{path.name} --data configs/data/")
    model = build(path, "--model.pre_trained", "false")
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["init_args"] == {"preset": path.stem}
    expected = resolved(path.stem)
    assert model.hparams["backbone"] == expected.backbone
    for group in ("student", "loss", "noise", "scoring", "optimiser"):
        assert model.hparams[group] == getattr(expected, group).as_dict()


def test_default_config_is_the_default() -> None:
    written = build(CONFIGS / "model/default.yaml", "--model.pre_trained", "false")
    assert dict(ScaleAwareCRD(pre_trained=False).hparams) == dict(written.hparams)


def test_published_config_has_the_settings_of_the_paper() -> None:
    """Li et al., ICLR 2025: the ratio alone, Adam 1e-3, patches of 10 to 31 pixels of 256, lambda 0.2, mean score."""
    model = build(CONFIGS / "model/published.yaml", "--model.pre_trained", "false")
    assert (model.loss.pull, model.loss.restore, model.loss.contrast, model.loss.ratio) == (0, 0, 0, 1)
    assert model.hparams["optimiser"] | {"warmup_steps": 0} == {
        "learning_rate": 1e-3,
        "betas": [0.5, 0.999],
        "weight_decay": 0,
        "schedule": "none",
        "warmup_steps": 0,
        "fill_last_batch": False,
    }
    assert model.model.teacher.layers == ("layer1", "layer2", "layer3")
    assert model.model.standardise is None
    scoring = model.model.map_and_score
    assert scoring.published
    assert isinstance(model.model.scale_adaptation, PublishedScaleAdaptation)
    assert (scoring.damping, scoring.smooth_maps.sigma, model.held_out.share) == (0, 4, 0)
    assert model.hparams["noise"]["share"] == 1
    anomalies = model.hparams["noise"]
    assert [side * 256 for side in anomalies["size"]] == [10, 31]
    assert (anomalies["period"] * 256, anomalies["octaves"]) == (32, 6)
    assert (anomalies["kind"], anomalies["persistence"], anomalies["strength"]) == ("simplex", 0.6, 0.2)


def test_quick_start_needs_no_download_and_ends_soon() -> None:
    path = CONFIGS / "quickstart.yaml"
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# anomalib train --config configs/quickstart.yaml\n")
    config = yaml.safe_load(text)
    assert config["model"]["init_args"]["backbone"] == "tf_efficientnet_lite0"
    assert config["trainer"]["max_steps"] <= 300
    parser = ArgumentParser()
    parser.add_subclass_arguments(AnomalibModule, "model")
    model = parser.instantiate_classes(parser.parse_object({"model": config["model"]})).model
    assert model.input_size == (128, 128)
