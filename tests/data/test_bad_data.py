"""Data that would give a useless model or a wrong number is reported before the work starts, in one sentence."""

import logging
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from anomalib.data import AnomalibDataModule, AnomalibDataset, Folder, PredictDataset
from anomalib.data.dataclasses.torch import ImageItem
from anomalib.engine import Engine
from PIL import Image
from torch.utils.data import DataLoader, Subset
from torchvision.transforms.v2 import Resize
from torchvision.tv_tensors import Image as ImageTensor

from anomalib_scrd import ScaleAwareCRD
from anomalib_scrd.data.resizing import resize_of
from anomalib_scrd.imaging import UnreadableImageError
from tests.data.test_medical_folder import engine, grey, small_model
from tests.data.test_reading import folder

DEEP = {
    "12 bits in 16": lambda path: Image.fromarray(grey(0)).save(path.with_suffix(".png")),
    "16 bits": lambda path: Image.fromarray(grey(0) * np.uint16(16)).save(path.with_suffix(".png")),
    "16-bit colour": lambda path: cv2.imwrite(str(path.with_suffix(".png")), np.dstack([grey(0)] * 3)),
    "16-bit TIFF": lambda path: tifffile.imwrite(path.with_suffix(".tif"), grey(0)),
    "float TIFF": lambda path: tifffile.imwrite(path.with_suffix(".tif"), grey(0).astype(np.float32) / 4095),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """8 normal and 4 anomalous images of 8 bits."""
    for part, count in (("normal", 8), ("defect", 4)):
        (tmp_path / part).mkdir()
        for index in range(count):
            eight = (grey(100 * (part == "defect") + index) // 16).astype(np.uint8)
            Image.fromarray(eight).save(tmp_path / part / f"{index}.png")
    return tmp_path


@pytest.fixture
def model() -> ScaleAwareCRD:
    model = small_model()
    model.training_step = lambda *_args, **_kwargs: pytest.fail("the training began")  # type: ignore[method-assign]
    return model


@pytest.mark.parametrize("kind", DEEP)
def test_deep_images_are_refused_before_every_kind_of_run(root: Path, kind: str, model: ScaleAwareCRD) -> None:
    DEEP[kind](root / "defect/deep")
    message = r"1 images have more than 8 bits per channel: '.*defect/deep\.\w+' \(.* MedicalFolder"
    runner = engine(root)
    with pytest.raises(UnreadableImageError, match=message):
        runner.fit(model, datamodule=folder(root))
    with pytest.raises(UnreadableImageError, match=message):
        runner.test(model, datamodule=folder(root))
    with pytest.raises(UnreadableImageError, match=message):
        runner.validate(model=model, datamodule=folder(root))
    with pytest.raises(UnreadableImageError, match=message):
        runner.predict(model, dataset=PredictDataset(root / "defect"))
    with pytest.raises(UnreadableImageError, match=message):
        runner.predict(model, dataloaders=loader(PredictDataset(root / "defect")))


def loader(data: object, size: int = 2) -> DataLoader:
    return DataLoader(data, batch_size=size, collate_fn=getattr(data, "dataset", data).collate_fn)


def test_deep_masks_and_other_depths_pass(root: Path) -> None:
    (root / "mask").mkdir()
    for index in range(4):
        Image.fromarray((grey(index) > 3000).astype(np.uint16) * np.uint16(4095)).save(root / f"mask/{index}.png")
    Image.fromarray(grey(0) > 2000).save(root / "normal/bits.png")
    Image.fromarray((grey(0) // 16).astype(np.uint8)).convert("P").save(root / "normal/palette.png")
    engine(root).fit(small_model(), datamodule=folder(root, mask_dir="mask"))


def test_exif_orientation_is_named(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    exif = Image.Exif()
    exif[274] = 6
    for index in range(2):
        Image.open(root / f"normal/{index}.png").save(root / f"normal/{index}.jpg", exif=exif)
    engine(root).fit(small_model(), datamodule=folder(root))
    assert "2 images have an EXIF orientation: " in caplog.text
    assert "MedicalFolder turns the images" in caplog.text


class ArrayDataset(AnomalibDataset):
    """A data set with its own reader."""

    def __init__(self, paths: list[Path], split: str, label: int = 0) -> None:
        super().__init__()
        columns = {"image_path": [str(path) for path in paths], "label_index": label, "mask_path": "", "split": split}
        samples = pd.DataFrame(columns)
        samples.attrs["task"] = "classification"
        self.samples = samples

    def __getitem__(self, index: int) -> ImageItem:
        row = self.samples.iloc[index]
        image = torch.from_numpy(np.load(row.image_path)).float().expand(3, -1, -1)
        return ImageItem(
            image=ImageTensor(image), gt_label=torch.tensor(int(row.label_index)), image_path=row.image_path
        )


class Arrays(AnomalibDataModule):
    """A data module of .npy files."""

    def __init__(self, root: Path) -> None:
        super().__init__(train_batch_size=2, eval_batch_size=2, num_workers=0, val_split_mode="same_as_test")
        self.root = root

    def _setup(self, _stage: str | None = None) -> None:
        self.train_data = ArrayDataset(sorted(self.root.glob("normal*.npy")), "train")
        self.test_data = ArrayDataset(sorted(self.root.glob("bad*.npy")), "test", 1)
        self.test_data += ArrayDataset(sorted(self.root.glob("good*.npy")), "test")

    def _create_test_split(self) -> None:
        pass


def test_data_with_a_reader_of_its_own_is_trained_on(tmp_path: Path) -> None:
    for index in range(4):
        for part in ("normal", "bad", "good"):
            np.save(tmp_path / f"{part}{index}.npy", grey(hash(part) % 1000 + index, 32, 32) / 4095)
    runner = engine(tmp_path)
    runner.fit(model := small_model(), datamodule=(data := Arrays(tmp_path)))
    assert runner.trainer.global_step == 2
    assert len(runner.test(model, datamodule=data)) == 1
    assert len(runner.predict(model, datamodule=data)) == 4


def fit(root: Path, caplog: pytest.LogCaptureFixture, **arguments: object) -> str:
    """Warnings of a training."""
    engine(root).fit(small_model(), datamodule=folder(root, **arguments))
    return "\n".join(record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)


def test_one_training_image(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    for path in list((root / "normal").iterdir())[1:]:
        path.unlink()
    data = folder(root, normal_test_dir="defect", test_split_mode="none", val_split_mode="same_as_test")
    engine(root).fit(small_model((64, 64)), datamodule=data)
    said = caplog.text
    assert "the training set has one image, " in said


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (np.zeros((48, 40), np.uint8), "are black"),
        (np.full((48, 40), 90, np.uint8), "are of a single colour"),
        (grey(5).astype(np.uint8), "are equal"),
    ],
)
def test_training_images_without_content(root: Path, pixels: np.ndarray, words: str, model: ScaleAwareCRD) -> None:
    for path in (root / "normal").iterdir():
        Image.fromarray(pixels).save(path)
    with pytest.raises(ValueError, match=rf"all .*training images {words}, '.*normal/.*' among them: there is nothing"):
        engine(root).fit(model, datamodule=folder(root))


def test_the_look_at_training_images_leaves_the_random_numbers_alone(root: Path) -> None:
    states = []
    for look in (True, False):
        data = folder(root)
        torch.manual_seed(0)
        data.setup()
        if look:
            from anomalib_scrd.data.degenerate_sets import check_sets

            check_sets(data.train_data, None, None)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_the_same_file_in_training_and_test(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "other").mkdir()
    for index in range(3):
        Image.open(root / f"normal/{index + 4}.png").convert("RGB").save(root / f"other/{index}.png")
    (root / "other/copy.png").write_bytes((root / "normal/3.png").read_bytes())
    said = fit(root, caplog, normal_test_dir="other")
    assert "1 training images are in the validation or test set as well, for example" in said
    assert "normal/3.png" in said
    assert "other/copy.png" in said


def test_the_same_file_among_normal_and_anomalous(
    root: Path, caplog: pytest.LogCaptureFixture, model: ScaleAwareCRD
) -> None:
    (root / "defect/copy.png").write_bytes((root / "normal/3.png").read_bytes())
    said = fit(root, caplog)
    assert "1 files are among the normal and among the anomalous images, for example" in said
    assert "no score can be correct for both" in said
    for path in (root / "defect").iterdir():
        path.unlink()
    for index in range(3):
        (root / f"defect/{index}.png").write_bytes((root / f"normal/{index}.png").read_bytes())
    with pytest.raises(
        ValueError, match="these are all anomalous images: do abnormal_dir and normal_dir have the same"
    ):
        engine(root).fit(model, datamodule=folder(root))


def test_validation_of_one_image_or_of_anomalous_ones_alone(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = folder(root, val_split_mode="from_test", val_split_ratio=0.5, test_split_ratio=0.3)
    data.setup()
    samples = data.val_data.samples
    data.val_data = data.val_data.subsample(samples.index[samples.label_index == 1].tolist())
    data._is_setup = True
    engine(root).fit(small_model(), datamodule=data)
    assert "a threshold from it" not in caplog.text  # it comes from images that are held out
    without: dict = {"scoring": {"held_out": 0.0}}
    engine(root).fit(small_model(**without), datamodule=data)
    assert "anomalous images and no normal ones: with a threshold from it every image is anomalous" in caplog.text
    data.val_data = data.val_data.subsample([0])
    engine(root).fit(small_model(**without), datamodule=data)
    assert "the validation set has one image, " in caplog.text


@pytest.mark.parametrize("present", [(0, 1), (0, 1, 2, 9)], ids=["too few", "others"])
def test_missing_masks_are_named(root: Path, present: tuple[int, ...], model: ScaleAwareCRD) -> None:
    (root / "mask").mkdir()
    for index in present:
        Image.fromarray(np.full((48, 40), 255, np.uint8)).save(root / f"mask/{index}.png")
    with pytest.raises(Exception, match=r"[12] of 4 images in abnormal_dir have no mask in mask_dir: .*defect/3.png"):
        engine(root).fit(model, datamodule=folder(root, mask_dir="mask"))


def test_a_path_that_anomalib_refuses(root: Path, model: ScaleAwareCRD) -> None:
    (root / "normal").rename(root / "größe")
    message = r"anomalib refuses the path '.*größe' for 'ö' \(U\+00F6\) in it: it takes ASCII only.*MedicalFolder takes"
    with pytest.raises(ValueError, match=message):
        engine(root).fit(model, datamodule=folder(root, normal_dir="größe"))


def test_other_errors_of_a_folder_stay(root: Path, model: ScaleAwareCRD) -> None:
    with pytest.raises(ValueError, match="All split ratios must be between 0 and 1"):
        engine(root).fit(model, datamodule=folder(root, test_split_ratio=1.5, mask_dir=None))


def test_loaders_are_given_the_models_resizing(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Images of several sizes in one batch would be enlarged to the largest before the model resizes them."""
    for index in range(4):
        Image.open(root / f"defect/{index}.png").resize((40 + 9 * index, 60)).save(root / f"defect/{index}.png")
    model, runner = small_model(), engine(root)
    alone = [
        float(batch.pred_score)
        for batch in runner.predict(model, dataloaders=loader(PredictDataset(root / "defect"), 1))
    ]
    together = runner.predict(model, dataloaders=loader(PredictDataset(root / "defect"), 4))[0]
    assert together.pred_score.tolist() == pytest.approx(alone, rel=1e-5)
    data = folder(root)
    data.setup()
    whole = data.test_data
    assert resize_of(whole.augmentations) is None
    runner.test(model, dataloaders=loader(whole, 4))
    assert resize_of(whole.augmentations).size == [32, 32]

    class Plain(torch.utils.data.Dataset):
        collate_fn = whole.collate_fn

        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> ImageItem:
            return whole[index]

    runner.test(model, dataloaders=loader(Plain(), 2))
    assert "Plain: images of different sizes in one batch would be enlarged" in caplog.text


@pytest.mark.parametrize(
    ("resize", "batch_size", "reported"), [(Resize(40), 2, True), (Resize(40), 1, False), (Resize((40, 40)), 2, False)]
)
def test_shapes_that_differ_after_a_resize_are_reported(
    resize: Resize, batch_size: int, reported: bool, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = small_model()
    model.pre_processor.transform = resize
    predict = PredictDataset(root / "defect")
    engine(root).predict(model, dataloaders=loader(predict, batch_size))
    assert "stretched to the largest" not in caplog.text  # all have one shape
    Image.open(root / "defect/3.png").resize((90, 40)).save(root / "defect/3.png")
    engine(root).predict(model, dataloaders=loader(PredictDataset(root / "defect"), batch_size))
    assert ("stretched to the largest of their batch" in caplog.text) == reported
    if reported:
        assert "defect/0.png" in caplog.text
        assert "defect/3.png" in caplog.text


def test_subsets_are_looked_at(root: Path, model: ScaleAwareCRD) -> None:
    DEEP["16 bits"](root / "normal/deep")
    data = Folder("x", "normal", root, num_workers=0, val_split_mode="none", test_split_mode="none")
    data.setup()
    part = Subset(data.train_data, list(range(len(data.train_data))))
    part_loader = DataLoader(part, batch_size=2, collate_fn=data.train_data.collate_fn)
    with pytest.raises(UnreadableImageError, match="1 images have more than 8 bits"):
        Engine(default_root_dir=root, max_steps=1, logger=False, limit_val_batches=0).fit(model, part_loader)


@pytest.mark.parametrize("size", [(32, 32), (40, 48)])
def test_resize_of_a_transform(size: tuple[int, int]) -> None:
    assert list(resize_of(ScaleAwareCRD.configure_pre_processor(size).transform).size) == list(size)
    assert resize_of(None) is None
    assert isinstance(resize_of(Resize(size)), Resize)
