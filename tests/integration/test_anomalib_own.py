"""The steps of anomalib's tests/integration/model/test_models.py for every model, without a network.

It builds each listed model by name, with no argument, then fits, validates, tests, predicts and exports it. The weights
are random ones in a cache of Hugging Face's layout: those of the default backbone, wide_resnet50_2.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from anomalib.data import Folder
from anomalib.deploy import ExportType
from anomalib.engine import Engine
from anomalib.models import get_model
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from anomalib_scrd import ScaleAwareCRD

NAME = "scale_aware_c_r_d"
BACKBONE = "wide_resnet50_2"


@pytest.fixture(scope="module")
def closed_network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, torch.Tensor]]:
    """The hub's client offline, with a cache of its own; gives the weights that lie there."""
    torch.manual_seed(0)
    backbone = timm.create_model(BACKBONE, pretrained=False)
    repository = tmp_path_factory.mktemp("hub") / f"models--{backbone.pretrained_cfg['hf_hub_id'].replace('/', '--')}"
    revision = "0" * 40
    snapshot = repository / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(revision, encoding="utf-8")
    save_file(backbone.state_dict(), snapshot / "model.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        # The client has read HF_HOME and HF_HUB_OFFLINE into these when it was imported.
        patch.setattr(constants, "HF_HUB_CACHE", str(repository.parent))
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        yield backbone.state_dict()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One image to train on and one of each kind to test on."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name in ("train/0.png", "test/good/0.png", "test/bad/0.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(root / name)
    return root


@pytest.fixture(scope="module")
def engine_and_data(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Callable[[], tuple[Engine, Folder]]:
    """Build what anomalib's test builds anew for every call."""
    results = tmp_path_factory.mktemp("results")

    def build() -> tuple[Engine, Folder]:
        data = Folder(
            name="dummy",
            root=folder,
            normal_dir="train",
            abnormal_dir="test/bad",
            normal_test_dir="test/good",
            train_batch_size=1,
            num_workers=0,
            val_split_mode="same_as_test",
        )
        return Engine(logger=False, default_root_dir=results, max_epochs=1, devices=1, accelerator="cpu"), data

    return build


def _directions(filters: torch.Tensor) -> torch.Tensor:
    """Each filter at length 1, (C_out, C_in * h * w)."""
    return nn.functional.normalize(filters.flatten(1))


@pytest.fixture(scope="module")
def checkpoint(closed_network: dict[str, torch.Tensor], engine_and_data: Callable[[], tuple[Engine, Folder]]) -> Path:
    """The checkpoint of a training."""
    model = get_model(NAME)
    # Batch norm is folded into the convolutions: of the weights that were read, the filters' directions remain.
    first = _directions(closed_network["conv1.weight"])
    shape = closed_network["conv1.weight"].shape
    teacher = [value for value in model.model.teacher.state_dict().values() if value.shape == shape]
    assert any(torch.allclose(_directions(value), first, atol=1e-5) for value in teacher)
    engine, data = engine_and_data()
    engine.fit(model=model, datamodule=data)
    return Path(engine.trainer.checkpoint_callback.best_model_path)


@pytest.fixture(scope="module")
def untrained(closed_network: dict[str, torch.Tensor]) -> ScaleAwareCRD:
    """The model that anomalib's test builds for what it does with a checkpoint."""
    del closed_network  # only needs to be there
    return get_model(NAME)


def test_test_and_predict(
    checkpoint: Path, untrained: ScaleAwareCRD, engine_and_data: Callable[[], tuple[Engine, Folder]]
):
    engine, data = engine_and_data()
    (scores,) = engine.test(model=untrained, datamodule=data, ckpt_path=str(checkpoint))
    assert "image_AUROC" in scores
    engine, data = engine_and_data()
    (batch,) = engine.predict(model=untrained, datamodule=data, ckpt_path=str(checkpoint))
    assert torch.isfinite(batch.anomaly_map).all()


def test_export(
    checkpoint: Path,
    untrained: ScaleAwareCRD,
    engine_and_data: Callable[[], tuple[Engine, Folder]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
):
    export, folders, kept = torch.onnx.export, [], tmp_path / "kept"

    def export_once(*arguments: object, **options: object) -> object:
        # OpenVINO is converted from ONNX; to trace the same model a second time would take half a minute.
        file = Path(str(arguments[2] if len(arguments) > 2 else options["f"]))
        folders.append(file.parent)
        if len(folders) == 2:
            return shutil.copytree(kept, file.parent, dirs_exist_ok=True)
        program = export(*arguments, **options)
        shutil.copytree(file.parent, kept)  # the export itself moves its file away
        return program

    monkeypatch.setattr(torch.onnx, "export", export_once)
    suffixes = {ExportType.TORCH: ".pt", ExportType.ONNX: ".onnx", ExportType.OPENVINO: ".xml"}
    for kind, suffix in suffixes.items():
        engine, _ = engine_and_data()
        path = engine.export(model=untrained, ckpt_path=str(checkpoint), export_type=kind)
        assert path.suffix == suffix
        assert path.stat().st_size > 0
    assert set(suffixes) == set(ExportType)
    assert len(folders) == 2
