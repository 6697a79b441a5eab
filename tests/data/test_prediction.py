"""Predictions on a path of any format, in Python and on anomalib's command line."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.cli.cli import AnomalibCLI
from anomalib.data import PredictDataset
from anomalib.engine import Engine
from anomalib.models import Padim
from torch.testing import assert_close
from torch.utils.data import DataLoader

from anomalib_scrd import MedicalPredictDataset, ScaleAwareCRD
from anomalib_scrd.imaging import UnreadableImageError
from tests.data.test_medical_folder import engine, grey, module, small_model, write_as, write_set

nibabel = pytest.importorskip("nibabel")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[ScaleAwareCRD, Path]:
    """A model trained on DICOM files, and its checkpoint."""
    root = tmp_path_factory.mktemp("trained")
    images = write_set(root / "set", lambda index: ("dicom", "monochrome1")[index % 2])
    runner = engine(root)
    runner.fit(model := small_model(), datamodule=module(images))
    return model, Path(runner.trainer.checkpoint_callback.best_model_path)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """The same picture four times, in four formats, and a volume of three slices."""
    for kind in ("png", "dicom", "monochrome1", "turned"):
        write_as(kind, tmp_path / "study" / kind, grey(7))
    volume = np.stack([grey(index) for index in range(3)], axis=-1).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "study/volume.nii.gz")
    return tmp_path / "study"


def scores(batches: list) -> dict[str, float]:
    return {
        Path(name).name: float(score) for b in batches for name, score in zip(b.image_path, b.pred_score, strict=True)
    }


@pytest.mark.parametrize("way", ["model", "checkpoint"])
def test_a_folder_of_all_formats(trained: tuple[ScaleAwareCRD, Path], study: Path, way: str, tmp_path: Path) -> None:
    model, checkpoint = trained
    arguments = {"model": model} if way == "model" else {"model": small_model(), "ckpt_path": checkpoint}
    found = scores(engine(tmp_path).predict(data_path=study, **arguments))
    assert set(found) == {
        *("png.png", "dicom.dcm", "monochrome1.dcm", "turned.dcm"),
        *(f"volume_{index:04d}.nii.gz" for index in range(3)),
    }
    for name in ("dicom.dcm", "monochrome1.dcm", "turned.dcm"):
        assert found[name] == pytest.approx(found["png.png"], abs=1e-6)
    alone = scores(engine(tmp_path).predict(data_path=study / "dicom.dcm", **arguments))
    assert alone == pytest.approx({"dicom.dcm": found["png.png"]}, abs=1e-6)


def test_batches_and_skipping(trained: tuple[ScaleAwareCRD, Path], study: Path, tmp_path: Path) -> None:
    model, _ = trained
    (study / "broken.dcm").write_bytes((study / "dicom.dcm").read_bytes()[:-9])
    write_as("dicom", study / "wider", grey(3, 40, 70))
    with pytest.raises(UnreadableImageError, match=r"broken.dcm': it is truncated"):
        engine(tmp_path).predict(model, data_path=study)
    data = MedicalPredictDataset(study, model, on_error="skip")
    loader = DataLoader(data, batch_size=4, collate_fn=data.collate_fn)
    found = scores(engine(tmp_path).predict(model, dataloaders=loader))
    assert len(found) == 8
    assert list(data.left_out) == [study / "broken.dcm"]
    assert found["wider.dcm"] == pytest.approx(
        scores(engine(tmp_path).predict(model, data_path=study / "wider.dcm"))["wider.dcm"], abs=1e-5
    )


def test_a_stored_window_without_a_model(trained: tuple[ScaleAwareCRD, Path], study: Path) -> None:
    model, _ = trained
    with_model, without = MedicalPredictDataset(study, model), MedicalPredictDataset(study, window=model.window)
    assert with_model[0].image.shape == (3, 32, 32)
    assert without[0].image.shape == (3, 48, 40)
    assert without.preparation == with_model.preparation


def test_a_model_of_eight_bits_refuses_deeper_pictures(study: Path, tiny_folder: Path, tmp_path: Path) -> None:
    model = small_model()
    with pytest.raises(UnreadableImageError, match=r"it has more than 8 bits, .* MedicalFolder trains on pictures of"):
        engine(tmp_path).predict(model, data_path=study)
    ours = engine(tmp_path).predict(model, data_path=tiny_folder / "test/spot")
    theirs = engine(tmp_path).predict(model, dataset=PredictDataset(tiny_folder / "test/spot"))
    assert len(ours) == len(theirs) == 6
    for one, other in zip(ours, theirs, strict=True):
        assert_close(one.pred_score, other.pred_score, rtol=0, atol=0)
    with pytest.raises(UnreadableImageError, match=r"1 images have more than 8 bits per channel: .*png.png'"):
        engine(tmp_path).predict(model, dataset=PredictDataset(study))


def test_other_models_keep_anomalibs_reader(tiny_folder: Path, tiny_data: Callable, tmp_path: Path) -> None:
    model = Padim(backbone="resnet18", pre_trained=False, layers=["layer1"], n_features=10, visualizer=False)
    runner = Engine(default_root_dir=tmp_path, logger=False, accelerator="cpu", max_epochs=1)
    runner.fit(model, datamodule=tiny_data())
    batches = runner.predict(model, data_path=tiny_folder / "test/good")
    assert {type(batch).__name__ for batch in batches} == {"ImageBatch"}


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match="Found 0 images in"):
        engine(tmp_path).predict(small_model(), data_path=tmp_path / "nothing")


def test_on_the_command_line(
    trained: tuple[ScaleAwareCRD, Path], study: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model, checkpoint = trained
    expected = scores(engine(tmp_path).predict(model, data_path=study))
    size = ScaleAwareCRD.configure_pre_processor((32, 32))
    monkeypatch.setattr(ScaleAwareCRD, "configure_pre_processor", staticmethod(lambda _=None: size))
    results: list = []
    original = Engine.predict

    def keep(self: Engine, *args: object, **kwargs: object) -> object:
        results.append(original(self, *args, **kwargs))
        return results[-1]

    keep.__wrapped__ = original
    keep.anomalib_scrd = True
    monkeypatch.setattr(Engine, "predict", keep)
    common = ["anomalib", "predict", "--model", "ScaleAwareCRD", "--model.backbone", "resnet18"]
    common += ["--model.layers", "[layer1,layer2]", "--model.student.depth", "1", "--model.pre_trained", "false"]
    common += ["--model.visualizer", "false", "--ckpt_path", str(checkpoint)]
    module_arguments = ["--data", "MedicalFolder", "--data.name", "x", "--data.root", str(study.parent)]
    module_arguments += ["--data.normal_dir", "study", "--data.num_workers", "0", "--data.patients", "null"]
    module_arguments += ["--data.test_split_ratio", "0.5", "--data.val_split_mode", "none", "--data.seed", "0"]
    for data in (["--data", str(study)], module_arguments):
        monkeypatch.setattr(sys, "argv", [*common, *data])
        AnomalibCLI()
        found = scores(results[-1])
        assert found
        assert found == pytest.approx({name: expected[name] for name in found}, rel=1e-5)
    assert torch.is_tensor(results[0][0].pred_score)
