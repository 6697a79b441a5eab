"""Images that cannot be read, are missing, too small or grey, in anomalib's data modules."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import AnomalibDataModule, Folder
from anomalib.engine import Engine
from PIL import Image

from anomalib_scrd import MedIAnomaly, PhantomSlices, ScaleAwareCRD
from anomalib_scrd.data.unreadable_files import UnreadableImageError
from anomalib_scrd.training.held_out import HeldOut
from tests.data.trees import build


@pytest.fixture
def model() -> ScaleAwareCRD:
    torch.manual_seed(0)
    return small_model()


def small_model(**arguments: object) -> ScaleAwareCRD:
    defaults: dict = {"backbone": "resnet18", "pre_trained": False, "student": {"depth": 1}, "visualizer": False}
    size = ScaleAwareCRD.configure_pre_processor((32, 32))
    return ScaleAwareCRD(**(defaults | {"pre_processor": size} | arguments))


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(
        default_root_dir=tmp_path / "results", max_steps=2, accelerator="cpu", enable_progress_bar=False, logger=False
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Grey images of 48 x 40 pixels: 8 normal, 4 defective."""
    rng = np.random.default_rng(0)
    for part, count in (("normal", 8), ("defect", 4)):
        (tmp_path / part).mkdir()
        for index in range(count):
            pixels = rng.integers(0, 256, (48, 40), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / part / f"{index}.png")
    return tmp_path


def folder(root: Path, **arguments: object) -> Folder:
    defaults: dict = {
        "name": "mine",
        "normal_dir": "normal",
        "abnormal_dir": "defect",
        "train_batch_size": 4,
        "num_workers": 0,
        "val_split_mode": "same_as_test",
        "seed": 0,
    }
    return Folder(root=root, **(defaults | arguments))


def cut_short(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def phantoms(root: Path) -> tuple[PhantomSlices, Path]:
    counts = dict.fromkeys(("n_val_good", "n_val_lesions", "n_test_good", "n_test_lesions"), 1)
    data = PhantomSlices(root=root / "drawn", image_size=40, n_train=4, train_batch_size=2, **counts)
    data.prepare_data()
    return data, root / "drawn/train/good/00002.png"


def medical(root: Path) -> tuple[MedIAnomaly, Path]:
    path = build(root, "Camelyon16") / "train/good/2.png"
    return MedIAnomaly("Camelyon16", root, train_batch_size=16, num_workers=0, val_split_mode="none"), path


@pytest.mark.parametrize("workers", [0, 1])
def test_truncated_image_in_training(root: Path, workers: int, model: ScaleAwareCRD, engine: Engine) -> None:
    path = cut_short(root / "normal/5.png")
    with pytest.raises(OSError, match=rf"1 files cannot be read as images: '{path}' \(.*truncated"):
        engine.fit(model, datamodule=folder(root, num_workers=workers, normal_test_dir="defect", train_batch_size=8))


@pytest.mark.parametrize("source", [phantoms, medical], ids=["PhantomSlices", "MedIAnomaly"])
def test_truncated_image_in_this_packages_data(
    source: Callable[[Path], tuple[AnomalibDataModule, Path]], tmp_path: Path, model: ScaleAwareCRD, engine: Engine
) -> None:
    data, path = source(tmp_path)
    cut_short(path)
    with pytest.raises(OSError, match=rf"'{path}'.*(truncated|damaged)"):
        engine.fit(model, datamodule=data)


def test_truncated_image_in_validation_test_and_prediction(root: Path, model: ScaleAwareCRD, engine: Engine) -> None:
    path = cut_short(root / "defect/3.png")
    message = rf"1 files cannot be read as images: '{path}' \(.*truncated"
    with pytest.raises(OSError, match=message):
        engine.fit(model, datamodule=folder(root))
    with pytest.raises(OSError, match=message):
        engine.test(model, datamodule=folder(root))
    with pytest.raises(OSError, match=rf"cannot read '{path}'.*truncated"):
        engine.predict(model, data_path=path.parent)


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "empty file"), (b"<html>", "UnidentifiedImageError")], ids=["empty", "html"]
)
@pytest.mark.parametrize("part", ["normal/2.png", "defect/1.png"])
def test_files_that_are_no_images_are_found_before_the_training(
    root: Path, part: str, content: bytes, reason: str, model: ScaleAwareCRD, engine: Engine
) -> None:
    (root / part).write_bytes(content)
    model.training_step = lambda *_args, **_kwargs: pytest.fail("the training began")  # type: ignore[method-assign]
    with pytest.raises(UnreadableImageError, match=rf"1 files cannot be read as images: '{root / part}' \({reason}\)"):
        engine.fit(model, datamodule=folder(root))


def test_other_errors_keep_their_message(root: Path, model: ScaleAwareCRD, engine: Engine) -> None:
    def full(*_args: object, **_kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    cut_short(root / "defect/3.png")
    model.training_step = full  # type: ignore[method-assign]
    with pytest.raises(OSError, match="No space left on device"):
        engine.fit(model, datamodule=folder(root))


@pytest.mark.parametrize("part", ["normal_dir", "abnormal_dir"])
def test_folder_without_images(root: Path, part: str, model: ScaleAwareCRD, engine: Engine) -> None:
    """anomalib's own messages."""
    (root / "nothing").mkdir()
    with pytest.raises(RuntimeError, match=rf"Found 0 .* images in {root / 'nothing'} with extensions \('\.jpg'"):
        engine.fit(model, datamodule=folder(root, **{part: "nothing"}))
    with pytest.raises(FileNotFoundError, match=f"Path does not exist: {root / 'nowhere'}"):
        engine.fit(model, datamodule=folder(root, **{part: "nowhere"}))
    with pytest.raises(ValueError, match=f"Found 0 images in {root / 'nothing'}"):
        engine.predict(model, data_path=root / "nothing")


def test_folder_without_validation_images(root: Path, model: ScaleAwareCRD, engine: Engine, tmp_path: Path) -> None:
    model.held_out = HeldOut(0)  # which would replace them
    data = folder(root, val_split_mode="none")
    with pytest.raises(ValueError, match=r"Folder has no validation images \(val_split_mode 'none'\).*another"):
        engine.fit(model, datamodule=data)
    without = Engine(
        default_root_dir=tmp_path, max_steps=1, limit_val_batches=0, accelerator="cpu", enable_progress_bar=False
    )
    without.fit(small_model(), datamodule=folder(root, val_split_mode="none"))
    assert without.trainer.global_step == 1


def test_normal_images_alone_are_enough(root: Path, model: ScaleAwareCRD, engine: Engine) -> None:
    engine.fit(model, datamodule=folder(root, abnormal_dir=None, val_split_mode="synthetic", val_split_ratio=0.5))
    assert engine.trainer.global_step == 2
    assert not torch.isnan(model.post_processor.image_threshold)


def test_images_smaller_than_the_deepest_stride(root: Path, engine: Engine) -> None:
    for path in (root / "normal").iterdir():
        Image.open(path).resize((20, 30)).save(path)
    with pytest.raises(ValueError, match=r"at least 32 x 32 pixels, the stride of .* got 30 x 20"):
        engine.fit(small_model(pre_processor=False), datamodule=folder(root))
    # anomalib's tiled ensemble builds the model with 10 x 10 pixels and never runs it
    model = small_model(pre_processor=ScaleAwareCRD.configure_pre_processor((31, 64)))
    for run in (
        lambda: engine.fit(model, datamodule=folder(root)),
        lambda: engine.validate(model=model, datamodule=folder(root)),
        lambda: engine.test(model, datamodule=folder(root)),
        lambda: engine.predict(model, data_path=root / "normal"),
        lambda: model.to_onnx(root),
    ):
        with pytest.raises(ValueError, match=r"resizes images to 31 x 64 pixels; backbone 'resnet18'.* at least 32"):
            run()


def test_grey_images_are_three_equal_channels(root: Path, model: ScaleAwareCRD, engine: Engine) -> None:
    engine.fit(model, datamodule=folder(root))
    colour = root / "colour"
    colour.mkdir()
    for path in (root / "defect").iterdir():
        image = Image.open(path)
        assert image.mode == "L"
        image.convert("RGB").save(colour / path.name)
    grey, same = (engine.predict(model, data_path=root / name) for name in ("defect", "colour"))
    for first, second in zip(grey, same, strict=True):
        assert first.image.shape[1] == 3
        torch.testing.assert_close(first.pred_score, second.pred_score, rtol=0, atol=0)
    scores = torch.cat([batch.pred_score for batch in grey])
    assert torch.isfinite(scores).all()
    assert scores.std() > 0
