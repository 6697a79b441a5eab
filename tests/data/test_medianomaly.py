"""MedIAnomaly on tiny folders in each of its layouts."""

import json
import logging
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib import TaskType
from anomalib.data.utils import LabelName, ValSplitMode, read_image, read_mask
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.trainer.states import TrainerFn
from PIL import Image

from anomalib_scrd.data import MedIAnomaly
from anomalib_scrd.data.layouts import MEDIANOMALY_SETS, LayoutError
from anomalib_scrd.data.unreadable_files import UnreadableImageError
from tests.data.trees import BUILDERS, COUNTS, build, save_image


def module(root: Path, name: str = "RSNA", **arguments: object) -> MedIAnomaly:
    return MedIAnomaly(**{"name": name, "root": root, "num_workers": 0, "val_split_mode": "none", **arguments})


def files(dataset: object) -> set[str]:
    return {Path(path).name for path in dataset.samples.image_path}


@pytest.mark.parametrize("name", list(BUILDERS))
def test_every_set_is_read_with_its_split(tmp_path: Path, name: str) -> None:
    build(tmp_path, name)
    data = module(tmp_path, name)
    data.setup()
    train, test = data.train_data, data.test_data
    assert len(train) == COUNTS[0]
    assert set(train.samples.label_index) == {LabelName.NORMAL}
    assert [(test.samples.label_index == label).sum() for label in (0, 1)] == list(COUNTS[1:])
    assert not set(train.samples.image_path) & set(test.samples.image_path)
    assert data.name == "MedIAnomaly"
    assert data.category == name
    masks = name == "BraTS2021"
    assert data.task == (TaskType.SEGMENTATION if masks else TaskType.CLASSIFICATION)
    batch = next(iter(data.test_dataloader()))
    assert batch.image.shape == (9, 3, 40, 48)
    assert (batch.gt_mask is not None) == masks
    for path, image, label in zip(batch.image_path, batch.image, batch.gt_label, strict=True):
        torch.testing.assert_close(image, read_image(path, as_tensor=True), rtol=0, atol=0)
        row = test.samples[test.samples.image_path == path].iloc[0]
        assert int(label) == row.label_index


def test_labels_come_from_the_lists_and_not_from_the_order(tmp_path: Path) -> None:
    folder = build(tmp_path, "RSNA")
    lists = json.loads((folder / "data.json").read_text())
    data = module(tmp_path)
    data.setup()
    samples = data.test_data.samples
    assert files(data.train_data) == set(lists["train"]["0"])
    for label in (0, 1):
        rows = samples[samples.label_index == label]
        assert {Path(path).name for path in rows.image_path} == set(lists["test"][str(label)])


def test_isic_trains_on_nevi_only(tmp_path: Path) -> None:
    build(tmp_path, "ISIC2018_Task3")
    data = module(tmp_path, "ISIC2018")
    data.setup()
    assert files(data.train_data) == {f"ISIC_Training{index:03d}.jpg" for index in range(COUNTS[0])}


def test_brats_masks_belong_to_their_images(tmp_path: Path) -> None:
    build(tmp_path, "BraTS2021")
    data = module(tmp_path, "BraTS2021")
    data.setup()
    for item in data.test_data:
        marked = item.gt_mask.nonzero()
        if item.gt_label == LabelName.NORMAL:
            assert len(marked) == 0
            continue
        index = int(Path(item.image_path).name.split("_")[1])
        assert len(marked) == 2 * index + 2
        assert set(marked[:, 0].tolist()) == {index}
        assert torch.equal(item.gt_mask.bool(), read_mask(item.mask_path, as_tensor=True).bool())


def test_root_may_be_the_folder_of_the_set(tmp_path: Path) -> None:
    folder = build(tmp_path, "LAG")
    data = module(folder, "lag")
    data.setup()
    assert len(data.train_data) == COUNTS[0]


def test_counts_that_differ_from_the_release_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    build(tmp_path, "RSNA")
    with caplog.at_level(logging.WARNING):
        module(tmp_path).setup()
    assert "RSNA: found 12/4/5 images" in caplog.text
    assert "the release has 3851/1000/1000" in caplog.text


def test_counts_of_the_release_are_not_mentioned(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    build(tmp_path, "RSNA")
    monkeypatch.setitem(MEDIANOMALY_SETS, "RSNA", replace(MEDIANOMALY_SETS["RSNA"], published=COUNTS))
    with caplog.at_level(logging.WARNING):
        module(tmp_path).setup()
    assert not caplog.records


# --- validation -------------------------------------------------------------------------------------------------------


def test_validation_is_made_from_training_images_by_default(tmp_path: Path) -> None:
    build(tmp_path, "RSNA")
    data = MedIAnomaly("RSNA", tmp_path, num_workers=0, val_split_ratio=0.5)
    assert data.val_split_mode == ValSplitMode.SYNTHETIC
    data.setup()
    labels = data.val_data.samples.label_index
    assert [(labels == label).sum() for label in (0, 1)] == [3, 3]
    assert len(data.train_data) == 6
    assert len(data.test_data) == 9
    normal = set(data.val_data.samples.image_path[labels == LabelName.NORMAL])
    assert not normal & (set(data.train_data.samples.image_path) | set(data.test_data.samples.image_path))
    source = {Path(path).name for path in data.val_data.source_samples.image_path}
    assert source.isdisjoint(files(data.train_data) | files(data.test_data))
    batch = next(iter(data.val_dataloader()))
    assert batch.gt_mask[batch.gt_label].flatten(1).any(dim=1).all()
    assert not batch.gt_mask[~batch.gt_label].any()


def validation_pixels(root: Path, seed: int | None) -> torch.Tensor:
    data = MedIAnomaly("RSNA", root, num_workers=0, val_split_ratio=0.5, seed=seed)
    data.setup()
    batch = next(iter(data.val_dataloader()))
    order = sorted(
        range(len(batch.image_path)), key=lambda i: (bool(batch.gt_label[i]), Path(batch.image_path[i]).name)
    )
    return batch.image[order]


def test_synthetic_validation_repeats_with_its_seed_and_leaves_the_random_state(tmp_path: Path) -> None:
    build(tmp_path, "RSNA")
    torch.manual_seed(11)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    MedIAnomaly("RSNA", tmp_path, val_split_ratio=0.5, seed=3).setup()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]  # noqa: NPY002
    first = validation_pixels(tmp_path, 3)
    assert torch.equal(first, validation_pixels(tmp_path, 3))
    assert not torch.equal(first, validation_pixels(tmp_path, 4))


def test_synthetic_validation_survives_copies_and_workers_and_goes_with_its_owner(tmp_path: Path) -> None:
    build(tmp_path, "RSNA")
    data = MedIAnomaly("RSNA", tmp_path, num_workers=2, val_split_ratio=0.5)
    data.setup()
    folder = data.val_data.root
    part = data.val_data.subsample([0])
    del part
    assert [len(list(data.val_dataloader())) for _ in range(2)] == [1, 1]
    assert folder.is_dir()
    del data
    assert not folder.is_dir()


@pytest.mark.parametrize(
    ("mode", "train", "val", "test"),
    [("from_train", 9, 3, 9), ("from_test", 12, 2, 7), ("same_as_test", 12, 9, 9)],
)
def test_other_validation_modes(tmp_path: Path, mode: str, train: int, val: int, test: int) -> None:
    build(tmp_path, "RSNA")
    data = module(tmp_path, val_split_mode=mode, val_split_ratio=0.25)
    data.setup()
    assert (len(data.train_data), len(data.val_data), len(data.test_data)) == (train, val, test)


def test_training_without_validation(tmp_path: Path) -> None:
    build(tmp_path, "RSNA")
    data = module(tmp_path, val_split_mode="none")
    data.setup()
    model = BoringModel()
    model.training_step = lambda batch: model.layer(batch.image.flatten(1)[:, :32]).mean()
    trainer = Trainer(
        default_root_dir=tmp_path, max_epochs=1, logger=False, enable_checkpointing=False, accelerator="cpu"
    )
    trainer.fit(model, datamodule=data)
    assert trainer.global_step == 1
    assert len(data.train_data) == COUNTS[0]


def test_too_few_images_for_synthetic_validation(tmp_path: Path) -> None:
    build(tmp_path, "RSNA")
    with pytest.raises(ValueError, match=r"val_split_ratio 0.05 of 12 training images holds out 0"):
        MedIAnomaly("RSNA", tmp_path, val_split_ratio=0.05).setup()
    with pytest.raises(ValueError, match=r"val_split_ratio must be between 0 and 1, got 1.5"):
        MedIAnomaly("RSNA", tmp_path, val_split_ratio=1.5).setup()


def test_set_up_by_the_trainer_happens_once(tmp_path: Path) -> None:
    build(tmp_path, "RSNA")
    data = MedIAnomaly("RSNA", tmp_path, num_workers=0, val_split_ratio=0.5)
    data.setup(TrainerFn.FITTING)
    folder = data.val_data.root
    data.setup(TrainerFn.TESTING)
    assert data.val_data.root == folder
    assert len(data.train_data) == 6


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_unknown_set_lists_those_that_exist() -> None:
    with pytest.raises(ValueError, match=r"name must be one of .*BraTS2021.*, got 'Chest'"):
        MedIAnomaly("Chest")


def test_from_dir_is_refused() -> None:
    with pytest.raises(ValueError, match=r"val_split_mode must be one of .*got 'from_dir'"):
        MedIAnomaly("RSNA", val_split_mode="from_dir")


@pytest.mark.parametrize("name", list(BUILDERS))
def test_missing_root_says_what_to_get(tmp_path: Path, name: str) -> None:
    with pytest.raises(LayoutError, match=rf"{name}: .*not a folder.*Expected in .*Get it from: ") as caught:
        module(tmp_path / "nowhere", name).setup()
    assert str(tmp_path / "nowhere" / name) in str(caught.value)
    assert ("ISIC archive" if "ISIC" in name else "Zenodo record 12677223") in str(caught.value)


REMOVED = [
    ("RSNA", "images", "has no folder 'images'; it has data.json"),
    ("VinCXR", "data.json", "has no file 'data.json'; it has images"),
    ("ISIC2018_Task3", "ISIC2018_Task3_Test_Input", "has no folder 'ISIC2018_Task3_Test_Input'; it has ISIC2018_"),
    ("ISIC2018_Task3", "ISIC2018_Task3_Training_GroundTruth", "has no folder 'ISIC2018_Task3_Training_GroundTruth'"),
    (
        "ISIC2018_Task3",
        "ISIC2018_Task3_Test_GroundTruth/ISIC2018_Task3_Test_GroundTruth.csv",
        "has no file 'ISIC2018_Task3_Test_GroundTruth.csv'; it has nothing",
    ),
    ("Camelyon16", "test/Ungood", "has no folder 'test/Ungood'; it has test, train"),
    ("BraTS2021", "test/annotation", "has no folder 'test/annotation'; it has test, train"),
]


@pytest.mark.parametrize(("name", "part", "message"), REMOVED)
def test_missing_part_of_a_layout(tmp_path: Path, name: str, part: str, message: str) -> None:
    target = build(tmp_path, name) / part
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    with pytest.raises(LayoutError) as caught:
        module(tmp_path, name).setup()
    assert message in str(caught.value)
    assert MEDIANOMALY_SETS[name].layout in str(caught.value)
    assert MEDIANOMALY_SETS[name].source in str(caught.value)


def test_empty_folder(tmp_path: Path) -> None:
    folder = build(tmp_path, "Camelyon16")
    for path in (folder / "test/Ungood").iterdir():
        path.unlink()
    with pytest.raises(LayoutError, match=r"Ungood' has no images; it has nothing"):
        module(tmp_path, "Camelyon16").setup()


def test_folder_of_other_files(tmp_path: Path) -> None:
    folder = build(tmp_path, "Camelyon16")
    for path in (folder / "test/good").iterdir():
        path.rename(path.with_suffix(".dcm"))
    with pytest.raises(LayoutError, match=r"good' has no images; it has 0.dcm, 1.dcm, 2.dcm, 3.dcm"):
        module(tmp_path, "Camelyon16").setup()


@pytest.mark.parametrize("name", ["RSNA", "ISIC2018_Task3"])
def test_listed_images_that_do_not_exist(tmp_path: Path, name: str) -> None:
    folder = build(tmp_path, name)
    gone = sorted(next(folder.glob("*/*.*g")).parent.glob("*.*g"))[:7]
    gone = [path for path in gone if path.name != "unlisted.png"]
    for path in gone:
        path.unlink()
    with pytest.raises(LayoutError, match=r"\d+ of \d+ images named in .* do not exist: .* and \d more"):
        module(tmp_path, name).setup()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "is not valid JSON"),
        ('{"train": ["a.png"]}', "lacks one of the lists train/0, test/0 and test/1; it has {'train': 'list of 1'}"),
        ("[]", "lacks one of the lists train/0, test/0 and test/1; it has list of 0"),
        ('{"train": {"0": [1]}, "test": {"0": ["a.png"], "1": ["b.png"]}}', "must hold lists of file names"),
        ('{"train": {"0": []}, "test": {"0": ["a.png"], "1": ["b.png"]}}', "there are no training images"),
    ],
)
def test_bad_data_json(tmp_path: Path, text: str, message: str) -> None:
    folder = build(tmp_path, "RSNA")
    (folder / "data.json").write_text(text)
    with pytest.raises(LayoutError) as caught:
        module(tmp_path).setup()
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not valid CSV"),
        ("image,MEL\nISIC_0,1\n", "lacks one of the columns image and NV; it has ['image', 'MEL']"),
    ],
)
def test_bad_csv(tmp_path: Path, text: str, message: str) -> None:
    folder = build(tmp_path, "ISIC2018_Task3")
    (folder / "ISIC2018_Task3_Training_GroundTruth/ISIC2018_Task3_Training_GroundTruth.csv").write_text(text)
    with pytest.raises(LayoutError) as caught:
        module(tmp_path, "ISIC2018_Task3").setup()
    assert message in str(caught.value)


def test_missing_masks(tmp_path: Path) -> None:
    folder = build(tmp_path, "BraTS2021")
    (folder / "test/annotation/BraTS_01_seg_60.png").unlink()
    with pytest.raises(
        LayoutError,
        match=r"1 of 5 images in test/tumor have no mask, expected .*BraTS_01_seg_60.png; .*has BraTS_00_seg",
    ):
        module(tmp_path, "BraTS2021").setup()


def test_files_that_are_no_images_are_found_before_the_training(tmp_path: Path) -> None:
    folder = build(tmp_path, "BraTS2021")
    (folder / "train/BraTS_03_flair_60.png").write_bytes(b"")
    (folder / "test/annotation/BraTS_02_seg_60.png").write_text("an error page of some server")
    with pytest.raises(UnreadableImageError) as caught:
        module(tmp_path, "BraTS2021").setup()
    message = str(caught.value)
    assert "2 files cannot be read as images" in message
    assert "BraTS_03_flair_60.png' (empty file)" in message
    assert "BraTS_02_seg_60.png' (UnidentifiedImageError)" in message


def cut_short(path: Path) -> None:
    save_image(path, 0)
    path.write_bytes(path.read_bytes()[:-60])
    with Image.open(path):  # the header is whole
        pass


def test_image_that_is_cut_short_is_named_when_it_is_read(tmp_path: Path) -> None:
    folder = build(tmp_path, "Camelyon16")
    cut_short(folder / "train/good/3.png")
    data = module(tmp_path, "Camelyon16")
    data.setup()
    with pytest.raises(UnreadableImageError, match=r"cannot read .*train/good/3\.png'.*incomplete\?"):
        list(data.train_data)
    with pytest.raises(UnreadableImageError, match=r"3\.png"):
        MedIAnomaly("Camelyon16", tmp_path, val_split_ratio=0.9).setup()
