"""Images for a quantisation: normal ones, never a test image."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from anomalib.data import Folder
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import RandomHorizontalFlip, Resize

from anomalib_scrd.export import quantisation_images
from anomalib_scrd.export.quantisation_images import calibration_images, labelled_images
from anomalib_scrd.training.held_out import HeldOut


def paths(loader: DataLoader) -> set[str]:
    return {path for batch in loader for path in batch.image_path}


def files_of(data: Folder, part: str) -> set[str]:
    return set(getattr(data, f"{part}_data").samples["image_path"])


def normal(files: set[str]) -> set[str]:
    return {path for path in files if Path(path).parent.name == "good"}


@pytest.mark.parametrize("mode", ["same_as_test", "from_test", "from_train", "synthetic", "none"])
def test_no_test_image_takes_part(mode: str, tiny_data: Callable[..., Folder]) -> None:
    """anomalib calibrates on its validation images, which are by default those of the test, anomalous ones too."""
    data = tiny_data(val_split_mode=mode, seed=0)
    loader = calibration_images(data)
    found = paths(loader)
    test = files_of(data, "test")
    assert len(loader) == len(found) > 0
    assert not found & test
    train = files_of(data, "train")
    if mode in {"same_as_test", "none"}:
        assert found == train
    else:
        validation = files_of(data, "val")
        samples = data.val_data.samples
        wanted = set(samples["image_path"][samples["label_index"] == 0])
        assert found == train | wanted
        assert (wanted < validation) == (mode != "from_train")
        assert wanted


def test_validation_images_come_first(tiny_data: Callable[..., Folder], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantisation_images, "_ENOUGH", 5)
    data = tiny_data(val_split_mode="from_test", seed=0)
    found = paths(calibration_images(data))
    validation = normal(files_of(data, "val"))
    assert len(validation) == 3
    assert validation < found
    assert len(found) == 5
    rest = sorted(found - validation)
    train = sorted(files_of(data, "train"))
    assert abs(train.index(rest[1]) - train.index(rest[0])) > 2  # from all over the set


def test_images_are_those_of_the_files(tiny_data: Callable[..., Folder]) -> None:
    """Neither augmented nor resized: the graph does that."""
    data = tiny_data(train_augmentations=RandomHorizontalFlip(1.0), val_augmentations=Resize(10))
    plain = tiny_data()
    plain.setup()
    wanted = {item.image_path: item.image for item in plain.train_data}
    for batch in calibration_images(data):
        assert batch.image.shape == (1, 3, 64, 64)
        torch.testing.assert_close(batch.image[0], wanted[batch.image_path[0]], rtol=0, atol=0)


def test_held_out_images_come_before_those_that_were_trained_on(
    tiny_data: Callable[..., Folder], monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out = HeldOut(0.25, seed=1)
    data = tiny_data()
    data.setup("fit")
    held_out.take(data)  # as a training does
    files = set(held_out.dataset.samples["image_path"])
    held_out.give_back()
    assert 0 < len(files) < 5
    monkeypatch.setattr(quantisation_images, "_ENOUGH", 5)
    again = tiny_data()
    found = paths(calibration_images(again, HeldOut(0.25, seed=1)))
    assert len(found) == 5
    assert files < found
    assert len(again.train_data) == 12  # the data module has its images back


def test_no_normal_image_outside_the_test_is_refused(
    tiny_data: Callable[..., Folder], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tiny_data()
    data.setup("fit")
    data.test_data = data.val_data = data.train_data
    monkeypatch.setattr(data, "setup", lambda _stage: None)
    with pytest.raises(ValueError, match=r"normal images that are not in the test set.*Folder has none in validation"):
        calibration_images(data)


def test_the_loss_is_measured_on_validation_images(tiny_data: Callable[..., Folder]) -> None:
    data = tiny_data(val_split_mode="from_test", seed=0)
    data.setup()
    found = paths(labelled_images(data))
    assert found == files_of(data, "val")
    assert not found & files_of(data, "test")


@pytest.mark.parametrize("mode", ["same_as_test", "from_train", "none"])
def test_no_labelled_images_but_those_of_the_test_are_refused(mode: str, tiny_data: Callable[..., Folder]) -> None:
    data = tiny_data(val_split_mode=mode, seed=0)
    data.setup()
    with pytest.raises(ValueError, match=rf"not in the test set, and Folder with val_split_mode '{mode}' lacks them"):
        labelled_images(data)


def test_splits_at_random_need_a_seed(tiny_data: Callable[..., Folder], caplog: pytest.LogCaptureFixture) -> None:
    """Without one, the test set of the export is not that of the training."""
    data = tiny_data(val_split_mode="from_test", seed=None)
    calibration_images(data)
    assert "splits its images at random and has no seed" in caplog.text
    with pytest.raises(ValueError, match="INT8_ACQ chooses by validation images, and Folder draws them at random"):
        labelled_images(data)
    caplog.clear()
    for steady in ({"val_split_mode": "from_test", "seed": 3}, {"val_split_mode": "none", "seed": None}):
        calibration_images(tiny_data(**steady))
    assert not caplog.text


def test_images_are_evenly_spaced(tiny_data: Callable[..., Folder], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantisation_images, "_ENOUGH", 7)
    data = tiny_data(val_split_mode="none")  # of 12
    rows = sorted(paths(calibration_images(data)))
    train = sorted(files_of(data, "train"))
    assert [train.index(path) for path in rows] == [0, 2, 4, 6, 7, 9, 11]
