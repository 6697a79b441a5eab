"""Checkpoints load weights-only and bring back arguments, thresholds and scores."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anomalib.deploy import TorchInferencer
from anomalib.metrics import AUPRO, AUROC, Evaluator
from anomalib.models import get_model
from lightning.pytorch import Trainer
from omegaconf import OmegaConf

from anomalib_scrd import ScaleAwareCRD
from anomalib_scrd.options import NoiseOptions, OptimiserOptions, StudentOptions
from anomalib_scrd.presets import resolved
from tests.export.conftest import EDGE_SIZE, ODD_SIZE, Trained, engine
from tests.export.test_agreement import assert_agree, collect
from tests.models import build_model

ARGUMENTS: dict[str, Any] = {
    "backbone": "resnet18",
    "layers": ["layer1", "layer2"],
    "pre_trained": False,
    "student": {"depth": [1, 2]},
    "noise": {"strength": [0.2, 0.4], "size": [0.1, 0.3]},
    "optimiser": {"betas": [0.8, 0.95], "learning_rate": 0.002, "warmup_steps": 7},
    "seed": 3,
}


def tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: tuples(item) for name, item in value.items()}
    return tuple(value) if isinstance(value, list) else value


def asked_for(saved: dict[str, Any]) -> dict[str, Any]:
    """The part of saved arguments that ARGUMENTS names."""
    return {
        name: {field: saved[name][field] for field in value} if isinstance(value, dict) else saved[name]
        for name, value in ARGUMENTS.items()
    }


def test_engine_loads_weights_and_thresholds(edge: Trained, tmp_path: Path) -> None:
    """Into a fresh model without weights of its own.

    The pre-processor has to be the same: anomalib's data modules take the size to resize to from the model before the
    checkpoint brings its own.
    """
    fresh = ScaleAwareCRD(
        backbone="tf_efficientnet_lite0",
        pre_trained=False,
        visualizer=False,
        pre_processor=ScaleAwareCRD.configure_pre_processor(EDGE_SIZE),
    )
    (before,) = engine(tmp_path).test(edge.model, datamodule=edge.data())
    (after,) = engine(tmp_path).test(fresh, datamodule=edge.data(), ckpt_path=edge.checkpoint)
    assert set(after) >= {"image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score"}
    assert after == pytest.approx(before, abs=1e-6)
    with torch.no_grad():
        assert_agree(collect(fresh.cpu().eval(), edge.images, 5), collect(edge.predict, edge.images, 5))


def test_loaded_model_has_the_scores_and_arguments(odd: Trained) -> None:
    loaded = ScaleAwareCRD.load_from_checkpoint(odd.checkpoint).eval()
    with torch.no_grad():
        assert_agree(collect(loaded, odd.images, 5), collect(odd.predict, odd.images, 5))
    assert dict(loaded.hparams) == dict(odd.model.hparams)
    assert tuple(loaded.input_size) == ODD_SIZE


@pytest.mark.parametrize("kind", ["python", "classes", "numpy", "omegaconf", "get_model"])
def test_arguments_come_back_plain(kind: str, tmp_path: Path) -> None:
    """From every source of arguments: a checkpoint with other than plain values does not load weights-only."""
    if kind == "python":
        model = ScaleAwareCRD(**{name: tuples(value) for name, value in ARGUMENTS.items()})
    elif kind == "classes":
        groups = {"student": StudentOptions, "noise": NoiseOptions, "optimiser": OptimiserOptions}
        model = ScaleAwareCRD(**(ARGUMENTS | {name: cls(**ARGUMENTS[name]) for name, cls in groups.items()}))
    elif kind == "numpy":
        numbers = {
            "seed": np.int64(3),
            "optimiser": {
                "learning_rate": np.float64(0.002),
                "warmup_steps": np.int64(7),
                "betas": np.array([0.8, 0.95]),
            },
            "noise": ARGUMENTS["noise"] | {"size": (np.float64(0.1), np.float64(0.3))},
        }
        model = ScaleAwareCRD(**(ARGUMENTS | numbers))
    elif kind == "omegaconf":
        model = ScaleAwareCRD(**OmegaConf.create(ARGUMENTS))
    else:
        model = get_model({"class_path": "ScaleAwareCRD", "init_args": ARGUMENTS})
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(tmp_path / "model.ckpt")

    saved = torch.load(tmp_path / "model.ckpt", weights_only=True)["hyper_parameters"]
    assert asked_for(saved) == ARGUMENTS
    loaded = ScaleAwareCRD.load_from_checkpoint(tmp_path / "model.ckpt")
    assert dict(loaded.hparams) == saved | {"pre_trained": False}
    assert loaded.model.teacher.layers == ("layer1", "layer2")
    assert [len(stage.blocks) for stage in loaded.model.student.stages] == [1, 2]
    anomalies = loaded.synthetic_anomalies
    assert (anomalies.strength, anomalies.size) == ((0.2, 0.4), (0.1, 0.3))


@pytest.mark.parametrize(("saved", "loading"), [("more", "default"), ("default", "more"), ("none", "more")])
def test_a_checkpoint_loads_whatever_evaluator_it_was_trained_with(saved: str, loading: str, tmp_path: Path) -> None:
    """AUPRO stores its limit in the model's state; the evaluator of the loading model is used."""

    def evaluator(kind: str, limit: float) -> Evaluator | bool:
        if kind == "more":
            aupro = AUPRO(fields=["anomaly_map", "gt_mask"], prefix="pixel_", strict=False, fpr_limit=limit)
            return Evaluator(test_metrics=[aupro, AUROC(fields=["pred_score", "gt_label"], prefix="image_")])
        return kind == "default"

    trained = build_model(evaluator=evaluator(saved, 0.3))
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(trained)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    keys = torch.load(tmp_path / "model.ckpt", weights_only=True)["state_dict"]
    assert any(key.startswith("evaluator.") for key in keys) == (saved == "more")

    loaded = ScaleAwareCRD.load_from_checkpoint(tmp_path / "model.ckpt", evaluator=evaluator(loading, 0.1))
    for name, tensor in trained.model.state_dict().items():
        assert torch.equal(tensor, loaded.model.state_dict()[name]), name
    if saved == "default":  # anomalib switches the evaluator off where the checkpoint had none
        assert loaded.evaluator.test_metrics[0].fpr_limit == pytest.approx(0.1)

    # into a model that is there, as `engine.test(model, ckpt_path=...)` does
    checkpoint = torch.load(tmp_path / "model.ckpt", weights_only=True)
    fresh = build_model(evaluator=evaluator(loading, 0.1))
    fresh.on_load_checkpoint(checkpoint)
    fresh.load_state_dict(checkpoint["state_dict"])


def test_other_keys_are_still_strict(tmp_path: Path) -> None:
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(build_model())
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    checkpoint = torch.load(tmp_path / "model.ckpt", weights_only=True)
    name = next(name for name in checkpoint["state_dict"] if name.startswith("model.student"))
    checkpoint["state_dict"]["evaluate"] = checkpoint["state_dict"].pop(name)
    torch.save(checkpoint, tmp_path / "other.ckpt")
    with pytest.raises(RuntimeError, match=r"(?s)Missing key\(s\).*Unexpected key\(s\).*\"evaluate\"") as caught:
        ScaleAwareCRD.load_from_checkpoint(tmp_path / "other.ckpt")
    assert name in str(caught.value)


def test_predictions_of_a_torch_export_carry_no_gradients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    model = build_model()
    prediction = TorchInferencer(model.to_torch(tmp_path), device="cpu").predict(torch.rand(3, 50, 70))
    for field in ("pred_score", "anomaly_map"):
        assert not getattr(prediction, field).requires_grad
    assert all(parameter.requires_grad for parameter in model.model.trainable_parameters())
    assert len(model.model.trainable_parameters()) > 10


def test_arguments_beside_a_checkpoint_win_field_by_field(odd: Trained) -> None:
    """Fields that are not given are the checkpoint's, not the preset's."""
    saved = odd.model.hparams
    loaded = ScaleAwareCRD.load_from_checkpoint(odd.checkpoint, optimiser={"learning_rate": 0.1})
    assert loaded.hparams["optimiser"] == saved["optimiser"] | {"learning_rate": 0.1}
    assert saved["optimiser"]["warmup_steps"] != resolved().optimiser.warmup_steps
    assert {name: value for name, value in loaded.hparams.items() if name != "optimiser"} == {
        name: value for name, value in saved.items() if name != "optimiser"
    }
