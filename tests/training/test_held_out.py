"""Normal training images that the student is not trained on."""

import copy
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from anomalib.data import Folder, ImageBatch
from lightning.pytorch import Callback, LightningDataModule
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import RandomHorizontalFlip

from anomalib_scrd.training.held_out import ENOUGH, HeldOut, held_out_indices
from tests.models import build_engine, build_quick_model


class Seen(Callback):
    """Keeps the paths of the images that a training step and a validation step saw."""

    def __init__(self) -> None:
        self.trained: set[str] = set()
        self.validated: set[str] = set()

    def on_train_batch_start(self, _trainer: object, _model: object, batch: ImageBatch, _index: int) -> None:
        self.trained |= set(batch.image_path)

    def on_validation_batch_start(self, _trainer: object, _model: object, batch: ImageBatch, _index: int) -> None:
        self.validated |= set(batch.image_path)


def _paths(dataset: object) -> set[str]:
    return set(dataset.samples.image_path)


@pytest.mark.parametrize(
    ("images", "share", "count"),
    [
        (500, 0.1, 50),
        (48, 0.1, 8),
        (12, 0.1, 3),
        (4, 0.1, 1),
        (3, 0.1, 0),
        (20_000, 0.1, ENOUGH),
        (100, 0.0, 0),
        (20, 0.99, 19),
    ],
)
def test_number_of_images(images: int, share: float, count: int) -> None:
    paths = [f"/data/{index:05d}.png" for index in range(images)]
    assert len(held_out_indices(paths, share)) == count


def test_the_choice_depends_on_seed_and_names_and_on_nothing_else() -> None:
    paths = [f"/data/train/{index:05d}.png" for index in range(300)]
    chosen = {paths[index] for index in held_out_indices(paths, 0.1)}
    backwards = paths[::-1]
    assert {backwards[index] for index in held_out_indices(backwards, 0.1)} == chosen
    moved = [path.replace("/data/train", "/elsewhere") for path in paths]
    assert {moved[index].replace("/elsewhere", "/data/train") for index in held_out_indices(moved, 0.1)} == chosen
    other = {paths[index] for index in held_out_indices(paths, 0.1, seed=1)}
    assert len(other) == 30
    assert len(other & chosen) < 10
    more = [*paths, *(f"/data/train/{index:05d}.png" for index in range(300, 330))]
    assert len(chosen & {more[index] for index in held_out_indices(more, 0.1)}) >= 25


def test_slices_of_one_volume_stay_together() -> None:
    paths = [f"/data/patient{patient:02d}_{part:03d}.png" for patient in range(40) for part in range(5)]
    chosen = held_out_indices(paths, 0.1)
    patients = Counter(paths[index].split("_")[0] for index in chosen)
    assert sum(patients.values()) == 20
    assert set(patients.values()) == {5}
    folders = [f"/data/{patient:02d}/slice_{part}.png" for patient in range(40) for part in range(5)]
    assert set(Counter(folders[index].split("/")[2] for index in held_out_indices(folders, 0.1)).values()) == {5}


def test_anomalous_training_images_are_not_chosen() -> None:
    paths = [f"/data/{index:05d}.png" for index in range(200)]
    normal = [index % 2 == 0 for index in range(200)]
    chosen = held_out_indices(paths, 0.1, normal=normal)
    assert len(chosen) == 10
    assert all(index % 2 == 0 for index in chosen)


@pytest.mark.parametrize("share", [-0.1, 1.0, 1.5, float("nan"), True])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"must be in \[0, 1\), got"):
        HeldOut(share)


def test_the_student_never_sees_them_and_the_data_module_gets_them_back(tiny_data: Callable, tmp_path: Path) -> None:
    model, data, seen = build_quick_model(), tiny_data(), Seen()
    build_engine(tmp_path, max_epochs=2, callbacks=[seen]).fit(model, datamodule=data)
    held_out = _paths(model.held_out.dataset)
    assert len(held_out) == len(model.held_out) == 3
    assert len(seen.trained) == 9
    assert not held_out & seen.trained
    assert _paths(data.train_data) == held_out | seen.trained
    assert seen.validated == _paths(data.val_data) == _paths(data.test_data)
    assert not held_out & seen.validated


def test_a_second_fit_holds_the_same_images_out_once_and_other_data_anew(
    tiny_data: Callable, tiny_folder: Path, tmp_path: Path
) -> None:
    model, data = build_quick_model(), tiny_data()
    build_engine(tmp_path / "a", max_steps=1, limit_val_batches=0).fit(model, datamodule=data)
    first = _paths(model.held_out.dataset)
    build_engine(tmp_path / "b", max_steps=1, limit_val_batches=0).fit(model, datamodule=data)
    assert _paths(model.held_out.dataset) == first
    assert len(data.train_data) == 12
    other = tiny_data(normal_dir="test/good", normal_test_dir="train/good")
    build_engine(tmp_path / "c", max_steps=1, limit_val_batches=0).fit(model, datamodule=other)
    assert all(Path(path).parent == tiny_folder / "test/good" for path in _paths(model.held_out.dataset))


def test_a_failed_fit_gives_the_images_back(tiny_data: Callable, tmp_path: Path) -> None:
    class Fails(Callback):
        def on_train_batch_end(self, *_: object) -> None:
            msg = "no"
            raise RuntimeError(msg)

    data = tiny_data()
    with pytest.raises(RuntimeError, match="no"):
        build_engine(tmp_path, max_steps=2, callbacks=[Fails()]).fit(build_quick_model(), datamodule=data)
    assert len(data.train_data) == 12


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_a_resumed_fit_holds_the_checkpoints_images_out(share: float, tiny_data: Callable, tmp_path: Path) -> None:
    first = build_quick_model()
    first.held_out = HeldOut(0.1, seed=5)
    engine = build_engine(tmp_path / "a", max_epochs=1)
    engine.fit(first, datamodule=tiny_data())
    model, data, seen = build_quick_model(scoring={"held_out": share}), tiny_data(), Seen()
    assert model.held_out.seed != 5
    build_engine(tmp_path / "b", max_epochs=2, callbacks=[seen]).fit(
        model, datamodule=data, ckpt_path=engine.best_model_path
    )
    assert _paths(model.held_out.dataset) == _paths(first.held_out.dataset)
    assert not seen.trained & _paths(first.held_out.dataset)
    assert len(seen.trained) == 9
    assert len(data.train_data) == 12


def test_a_share_of_zero_holds_nothing_out(
    tiny_data: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, seen = build_quick_model(), Seen()
    model.held_out = HeldOut(0)
    build_engine(tmp_path, max_epochs=1, callbacks=[seen]).fit(model, datamodule=tiny_data())
    assert len(seen.trained) == 12
    assert model.held_out.dataset is None
    assert "held out" not in caplog.text


def test_images_are_read_as_in_validation(tiny_data: Callable, tmp_path: Path) -> None:
    """No training augmentations, and the pixels that a validation step would get."""
    model = build_quick_model()
    data = tiny_data(train_augmentations=RandomHorizontalFlip(1.0))
    build_engine(tmp_path, max_steps=1, limit_val_batches=0).fit(model, datamodule=data)
    batch = next(iter(model.held_out.loader()))
    images = next(model.held_out.images(model))
    assert images.shape == (3, 3, 32, 32)
    train = data.train_data
    train.augmentations = None
    places = [list(train.samples.image_path).index(path) for path in batch.image_path]
    expected = model.pre_processor.transform(torch.stack([train[place].image for place in places]))
    torch.testing.assert_close(images, expected)


def test_images_that_the_student_is_trained_on_are_some_of_the_others(tmp_path: Path) -> None:
    """Normal ones, read as in validation, the same in every process, and not more than two hundred."""
    for index in range(300):  # a fifth of them goes into the test set
        Image.new("L", (8, 8), index % 256).save(tmp_path / f"{index:03d}.png")
    data = Folder(name="x", root=tmp_path, normal_dir=".", train_augmentations=RandomHorizontalFlip(1.0), num_workers=0)
    data.setup()
    data.train_data.samples.loc[:9, "label_index"] = 1
    anomalous = set(data.train_data.samples.image_path[:10])
    held_out = HeldOut(0.1)
    held_out.take(data)
    some = _paths(held_out._trained)
    assert len(some) == 200
    assert not some & (_paths(held_out.dataset) | anomalous)
    assert some <= _paths(data.train_data)
    assert held_out._trained.augmentations is held_out.dataset.augmentations
    held_out.give_back()
    again = HeldOut(0.1)
    again.take(data)
    assert _paths(again._trained) == some
    model, before = build_quick_model(), torch.get_rng_state()
    assert sum(map(len, again.images(model, trained=True))) == 200
    assert torch.equal(torch.get_rng_state(), before)  # reading them does not change the training
    assert list(HeldOut(0.1).images(model, trained=True)) == []


def test_held_out_images_stand_in_where_there_is_no_validation_set(
    tiny_data: Callable, tmp_path: Path, tiny_folder: Path
) -> None:
    model, seen = build_quick_model(), Seen()
    data = tiny_data(val_split_mode="none")
    build_engine(tmp_path, max_epochs=1, callbacks=[seen]).fit(model, datamodule=data)
    assert seen.validated == _paths(model.held_out.dataset)
    assert all(Path(path).parent == tiny_folder / "train/good" for path in seen.validated)
    assert not hasattr(data, "val_data")


class PlainData(LightningDataModule):
    """A data module that is not one of anomalib's."""

    def __init__(self, data: Folder) -> None:
        super().__init__()
        data.setup()
        self.data = data

    def train_dataloader(self) -> DataLoader:
        return self.data.train_dataloader()


@pytest.mark.parametrize("kind", ["loader", "module"])
def test_without_anomalibs_data_module_one_warning_says_what_happens(
    kind: str, tiny_data: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tiny_data()
    data.setup()
    model, seen = build_quick_model(), Seen()
    trainer = build_engine(tmp_path, max_epochs=1, callbacks=[seen], limit_val_batches=0)
    if kind == "loader":
        trainer.fit(model, train_dataloaders=data.train_dataloader())
    else:
        trainer._setup_trainer(model)
        trainer.trainer.fit(model, datamodule=PlainData(data))
    assert len(seen.trained) == 12
    warnings = [record.message for record in caplog.records if "held out" in record.message]
    assert len(warnings) == 1
    assert ("loaders" if kind == "loader" else "PlainData") in warnings[0]


def test_a_data_modules_own_collation_is_used(tiny_data: Callable) -> None:
    """A tiled ensemble takes one tile of each image by it."""
    data = tiny_data()
    data.setup()

    def tile(items: list) -> ImageBatch:
        batch = ImageBatch.collate(items)
        batch.image = batch.image[..., :32, :32]
        return batch

    data.external_collate_fn = tile
    held_out = HeldOut(0.1)
    held_out.take(data)
    assert next(iter(held_out.loader())).image.shape == (3, 3, 32, 32)


def test_copies_and_pickles_hold_no_training_paths(tiny_data: Callable) -> None:
    data = tiny_data()
    data.setup()
    held_out = HeldOut(0.1)
    held_out.take(data)
    path = next(iter(_paths(held_out.dataset)))
    assert Path(path).parent.name.encode() not in pickle.dumps(held_out)
    assert copy.deepcopy(held_out).dataset is None
    held_out.give_back()
