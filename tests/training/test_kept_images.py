"""Training images in memory: the same training, each file read once, released afterwards, not kept if unsafe.

On the device, which is the CPU here: the same batches, selected from one tensor.
"""

import copy
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from anomalib.data import Folder, ImageBatch
from anomalib.data.datasets.base import image as reader
from anomalib.data.datasets.image.folder import FolderDataset
from lightning.pytorch import Callback, Trainer
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from anomalib_scrd import PhantomSlices
from anomalib_scrd.training import kept_images
from anomalib_scrd.training.kept_images import KeptDataset, KeptImages
from tests.models import build_engine, build_quick_model

STEPS = 12  # of four of nine images


class Look(Callback):
    """What the training loads from, its worker processes, and its batches, and whether those are on the device."""

    def __init__(self) -> None:
        self.on_device: list[bool] = []
        self.batches: list[ImageBatch] = []

    def on_train_batch_start(self, trainer: Trainer, _module: object, batch: ImageBatch, _index: int) -> None:
        assert isinstance(trainer.train_dataloader, DataLoader)
        self.dataset = trainer.train_dataloader.dataset
        self.workers = trainer.train_dataloader.num_workers
        self.on_device.append(getattr(self.dataset, "_all", None) is not None)
        self.batches.append(copy.copy(batch))


def assert_same_batch(one: ImageBatch, other: ImageBatch) -> None:
    assert type(one) is type(other)
    for (name, value), expected in zip(vars(one).items(), vars(other).values(), strict=True):
        assert type(value) is type(expected), name
        if isinstance(value, torch.Tensor):
            assert value.dtype == expected.dtype, name
            assert torch.equal(value, expected), name
        else:
            assert value == expected, name


def name_of(path: str) -> str:
    return "/".join(Path(path).parts[-3:])


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """Number of times that this process has read each file."""
    counts: Counter = Counter()
    original = reader.read_image

    def read_image(path: str, **arguments: bool) -> object:
        counts[name_of(path)] += 1
        return original(path, **arguments)

    monkeypatch.setattr(reader, "read_image", read_image)
    return counts


def fit(root: Path, data: Folder, steps: int = STEPS, **arguments: object) -> tuple[dict[str, torch.Tensor], Look]:
    look = Look()
    model = build_quick_model(seed=3, **arguments)
    engine = build_engine(root, max_steps=steps, limit_val_batches=0, callbacks=[look], logger=False)
    engine.fit(model, datamodule=data)
    return model.state_dict(), look


@pytest.mark.parametrize("held_out", [0.0, 0.1])
def test_a_training_is_the_same_and_reads_each_image_once(
    held_out: float, tiny_data: Callable[..., Folder], tmp_path: Path, reads: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = {"scoring": {"held_out": held_out}}
    data = tiny_data(num_workers=2)
    kept, look = fit(tmp_path / "kept", data, **arguments)
    assert isinstance(look.dataset, KeptDataset)
    assert look.workers == 0
    trained_on = set(map(name_of, look.dataset.samples.image_path))
    batches, steps = look.batches, -(-len(look.dataset) // 4)
    # The workers of the first epoch keep their images to themselves.
    assert look.on_device == [number >= 2 * steps for number in range(STEPS)]
    # Once, though the first epoch has worker processes; without held-out images thresholds need them once more.
    assert {reads[name] for name in trained_on} <= {1, 2}
    assert (look.dataset._all, look.dataset._items) == (None, {})
    assert type(data.train_data) is FolderDataset
    assert (len(data.train_data), data.num_workers) == (12, 2)
    monkeypatch.setattr(kept_images, "_MEMORY", 0)
    reads.clear()
    plain, look = fit(tmp_path / "plain", tiny_data(), **arguments)
    assert type(look.dataset) is FolderDataset
    assert not any(look.on_device)
    for batch, expected in zip(batches, look.batches, strict=True):
        assert_same_batch(batch, expected)
    assert min(reads[name] for name in trained_on) >= STEPS * 4 // 12
    torch.testing.assert_close(kept, plain, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("case", ["random", "too large"])
def test_images_that_may_change_or_do_not_fit_are_not_kept(
    case: str, tiny_data: Callable[..., Folder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tiny_data(**({"train_augmentations": v2.RandomHorizontalFlip()} if case == "random" else {}))
    if case == "too large":  # of 12 images, 3 of which are held out
        item = 4 * 3 * 32 * 32 + 32 * 32
        monkeypatch.setattr(kept_images, "_MEMORY", 9 * item - 1)
    _, look = fit(tmp_path, data, steps=1)
    assert not isinstance(look.dataset, KeptDataset)


def test_the_limit_is_that_of_all_images(
    tiny_data: Callable[..., Folder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_images, "_MEMORY", 9 * (4 * 3 * 32 * 32 + 32 * 32 + 8))
    _, look = fit(tmp_path, tiny_data(), steps=1)
    assert isinstance(look.dataset, KeptDataset)


class Stops(Callback):
    def on_train_batch_end(self, *_: object) -> None:
        msg = "on purpose"
        raise RuntimeError(msg)


def test_the_training_set_is_given_back_after_a_failure(tiny_data: Callable[..., Folder], tmp_path: Path) -> None:
    data, look = tiny_data(), Look()
    with pytest.raises(RuntimeError, match="on purpose"):
        build_engine(tmp_path, max_steps=2, callbacks=[look, Stops()]).fit(build_quick_model(), datamodule=data)
    assert type(data.train_data) is FolderDataset
    assert len(data.train_data) == 12
    assert (look.dataset._all, look.dataset._items) == (None, {})


class Flickering(FolderDataset):
    """A data set with a reader of its own, which may give another image each time."""

    def __getitem__(self, index: int) -> object:
        return super().__getitem__(index)


@pytest.mark.parametrize("case", ["gone", "own reader"])
def test_what_cannot_be_read_or_has_its_own_reader_is_left_alone(case: str, tiny_data: Callable[..., Folder]) -> None:
    data = tiny_data()
    data.setup()
    if case == "gone":
        data.train_data.samples.loc[0, "image_path"] = "gone.png"
    else:
        data.train_data.__class__ = Flickering
    trainer = Trainer(accelerator="cpu", logger=False)
    trainer.datamodule = data  # type: ignore[attr-defined]
    KeptImages().setup(trainer, build_quick_model(), "fit")
    assert isinstance(data.train_data, FolderDataset)


@pytest.fixture
def kept(tiny_data: Callable[..., Folder]) -> KeptDataset:
    data = tiny_data()
    data.setup()
    return KeptDataset(data.train_data)


@pytest.mark.parametrize("own", [False, True])
def test_batches_on_the_device_are_those_of_the_loader(own: bool, tiny_data: Callable[..., Folder]) -> None:
    data = PhantomSlices(root="drawn", image_size=32, n_train=12, num_workers=0) if own else tiny_data()
    data.prepare_data()
    data.setup()
    plain, kept = data.train_data, KeptDataset(data.train_data)
    for index in range(11):
        kept[index]
    kept.move(torch.device("cpu"))
    assert kept._all is None  # one has not been read
    kept[11]
    kept.move(torch.device("cpu"))
    assert kept._all is not None
    assert kept._items == {}
    for indices in ([3, 1, 1, 11], [0], list(range(12))):
        batch = kept.collate_fn(kept.__getitems__(indices))
        assert_same_batch(batch, plain.collate_fn([plain[index] for index in indices]))
        batch.image.zero_()  # nobody's image but this batch's
    assert torch.equal(kept[0].image, plain[0].image)
    assert kept._items == {}
    kept.forget()
    assert kept._all is None


def test_images_of_several_sizes_stay_where_they_are(kept: KeptDataset) -> None:
    """Batches of them are resized to their largest image."""
    items = [kept[index] for index in range(12)]
    items[3].image = items[3].image[:, :40]
    kept._items = dict(enumerate(items))
    kept.move(torch.device("cpu"))
    assert kept._all is None


def test_a_collate_function_of_the_users_is_asked(tiny_data: Callable[..., Folder], tmp_path: Path) -> None:
    def collate(items: list) -> ImageBatch:
        batch = ImageBatch.collate(items)
        batch.image_path = ["mine" for _ in items]
        return batch

    data = tiny_data()
    data.external_collate_fn = collate
    _, look = fit(tmp_path, data, steps=7, scoring={"held_out": 0.0})
    assert not any(look.on_device)
    assert [batch.image_path for batch in look.batches] == [["mine"] * 4] * 7


def test_items_are_those_of_the_data_set(kept: KeptDataset) -> None:
    first, again, wanted = kept[1], kept[1], kept.dataset[1]
    assert torch.equal(first.image, wanted.image)
    assert (first.image_path, kept.samples.shape, len(kept)) == (wanted.image_path, kept.dataset.samples.shape, 12)
    first.image = torch.zeros(3, 8, 8)  # a collate function that puts in another image
    assert torch.equal(again.image, kept[1].image)
    for other in (copy.deepcopy(kept), pickle.loads(pickle.dumps(kept))):
        assert torch.equal(other[1].image, wanted.image)
    with pytest.raises(AttributeError, match="nothing"):
        kept.nothing  # noqa: B018
