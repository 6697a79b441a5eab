"""Cached features of the teacher: exact, bounded, counted, cleaned up, refused if images change."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from anomalib.data import Folder, ImageBatch
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import Callback, Trainer
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Subset
from torchvision.transforms import v2

from anomalib_scrd import ScaleAwareCRD
from anomalib_scrd.components.teacher import Teacher
from anomalib_scrd.training.feature_cache import FeatureCache, unsteady_step
from tests.models import build_engine, build_model, build_quick_model
from tests.training.test_step_counts import images, no_waiting, ready

EPOCHS = 3
IMAGES, BATCH = 12, 5  # the last batch of an epoch has two images
# resnet18 at 64 x 64: 64 x 16 x 16 and 128 x 8 x 8 numbers of float32
LAYERS = ["layer1", "layer2"]
BYTES = 4 * (64 * 16 * 16 + 128 * 8 * 8)
GIB = 2**30
FIVE = (5 * BYTES + 100) / GIB
ALL = 1.0

PLAIN = {"restore": 0.0, "contrast": 0.0}
ALL_TRAINED = {"scoring": {"held_out": 0.0}}
FORMS: dict[str, dict] = {
    "plain": ALL_TRAINED | {"loss": PLAIN},
    "ratio": ALL_TRAINED | {"loss": PLAIN | {"ratio": 0.1}, "noise": {"share": 0.0625}},
    "default": ALL_TRAINED,
    "published": {
        "loss": {"pull": 0.0, "ratio": 1.0} | PLAIN,
        "student": {"feature_scaling": "none"},
        "noise": {"share": 1.0, "kind": "simplex"},
        "scoring": {"held_out": 0.0},
    },
}
# Images of a batch of five with anomalies: a share of them, rounded up.
NOISY = {"plain": 0, "default": 2, "published": BATCH}
ONE = 1
ALONE = SimpleNamespace(strategy=SimpleNamespace(reduce_boolean_decision=lambda found, **_: found))


class Recorder(Callback):
    """Losses, and how many images the teacher saw in each step."""

    def __init__(self) -> None:
        self.losses: list[torch.Tensor] = []
        self.teacher: list[int] = []

    def on_train_batch_start(self, *_: object) -> None:
        self.teacher.append(0)

    def on_train_batch_end(self, _trainer: Trainer, _module: object, outputs: dict, *_: object) -> None:
        self.losses.append(outputs["loss"].clone())

    def watch(self, teacher: Teacher) -> None:
        def count(_module: nn.Module, args: tuple) -> None:
            if self.teacher:
                self.teacher[-1] += args[0].shape[0]

        teacher.register_forward_pre_hook(count)


def data(folder: Path) -> Folder:
    return Folder(
        name="tiny",
        root=folder,
        normal_dir="train/good",
        normal_test_dir="test/good",
        train_batch_size=BATCH,
        num_workers=0,
        val_split_mode="same_as_test",
    )


def train(folder: Path, root: Path, arguments: dict, **trainer: object) -> tuple[Recorder, dict[str, torch.Tensor]]:
    """Train with shuffled batches that a seed fixes."""
    recorder = Recorder()
    callbacks = [recorder, *trainer.pop("callbacks", [])]
    settings = {"max_epochs": EPOCHS, "limit_val_batches": 0, "logger": False} | trainer
    engine = build_engine(root, callbacks=callbacks, **settings)
    model = build_model(**({"seed": 3, "layers": LAYERS} | arguments))
    recorder.watch(model.model.teacher)
    torch.manual_seed(1)
    engine.fit(model, datamodule=data(folder))
    return recorder, model.state_dict()


@pytest.fixture(scope="module")
def plain(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable:
    """Trainings without a cache, each done once."""
    done: dict[str, tuple] = {}

    def get(form: str) -> tuple[Recorder, dict[str, torch.Tensor]]:
        if form not in done:
            done[form] = train(tiny_folder, tmp_path_factory.mktemp("plain"), FORMS[form])
        return done[form]

    return get


def assert_same(first: tuple[Recorder, dict], second: tuple[Recorder, dict]) -> None:
    assert torch.equal(torch.stack(first[0].losses), torch.stack(second[0].losses))
    assert first[1].keys() == second[1].keys()
    for name, value in first[1].items():  # without a validation the thresholds are NaN
        torch.testing.assert_close(value, second[1][name], rtol=0, atol=0, equal_nan=True, msg=name)


# --- The training is the one without ------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_training_is_the_same_to_the_last_bit(form: str, plain: Callable, tiny_folder: Path, tmp_path: Path) -> None:
    cached = train(tiny_folder, tmp_path, FORMS[form] | {"feature_cache": ALL})
    assert_same(cached, plain(form))
    noisy = NOISY.get(form, ONE)
    assert plain(form)[0].teacher == [BATCH + noisy] * 3 * EPOCHS  # the last batch of two is filled up
    # a clean image is seen once, and with nothing but clean images the teacher is not asked again
    assert cached[0].teacher == [size + noisy for size in [5, 5, 2]] + [noisy] * 3 * (EPOCHS - 1)


@pytest.mark.parametrize("form", ["plain", "ratio"])
def test_the_same_with_little_memory(form: str, plain: Callable, tiny_folder: Path, tmp_path: Path) -> None:
    """Batches mix images that are kept and images for which there is no room."""
    cached = train(tiny_folder, tmp_path, FORMS[form] | {"feature_cache": FIVE})
    assert_same(cached, plain(form))
    seen = EPOCHS * 3 * BATCH  # the last batch of an epoch is filled up
    clean = sum(cached[0].teacher) - EPOCHS * 3 * NOISY.get(form, ONE)
    # five are kept, and some of those may also fill up a batch
    borrowed = seen - EPOCHS * IMAGES
    least = IMAGES + (EPOCHS - 1) * (IMAGES - 5)
    assert least <= clean <= least + borrowed


def test_half_precision_and_accumulated_gradients(tiny_folder: Path, tmp_path: Path) -> None:
    settings = {"precision": "bf16-mixed", "accumulate_grad_batches": 2, "max_epochs": 2}
    stores: list[torch.dtype] = []

    class Look(Callback):
        def on_train_epoch_end(self, _trainer: Trainer, module: ScaleAwareCRD) -> None:
            if module.feature_cache is not None:
                stores.extend(table.dtype for table in module.feature_cache._kept)

    form = FORMS["ratio"]
    arguments = form | {"feature_cache": FIVE / 2}
    cached = train(tiny_folder, tmp_path, arguments, callbacks=[Look()], **settings)
    assert_same(cached, train(tiny_folder, tmp_path, form, **settings))
    assert set(stores) == {torch.bfloat16}


def test_resumed_training_fills_its_cache_again(tiny_folder: Path, tmp_path: Path) -> None:
    model = build_model(seed=3, **FORMS["ratio"], layers=LAYERS, feature_cache=ALL)
    first = build_engine(tmp_path / "first", max_epochs=1, limit_val_batches=0)
    first.fit(model, datamodule=data(tiny_folder))
    saved = torch.load(first.best_model_path, weights_only=True)
    assert saved["hyper_parameters"]["feature_cache"] == ALL
    names = [*saved["state_dict"], *saved["callbacks"]]
    assert not any(word in name for word in ("feature_cache", "FeatureCache") for name in names)

    def resumed(arguments: dict) -> tuple[Recorder, dict]:
        source = data(tiny_folder)
        source.setup()
        loader = DataLoader(source.train_data, batch_size=BATCH, collate_fn=source.train_data.collate_fn)
        recorder = Recorder()
        engine = build_engine(tmp_path, callbacks=[recorder], max_epochs=3, limit_val_batches=0, logger=False)
        model = build_model(**({"seed": 3, "layers": LAYERS} | FORMS["ratio"] | arguments))
        recorder.watch(model.model.teacher)
        engine.fit(model, train_dataloaders=loader, ckpt_path=first.best_model_path)
        return recorder, model.state_dict()

    cached = resumed({"feature_cache": ALL})
    assert_same(cached, resumed({}))
    assert cached[0].teacher == [6, 6, 3, 1, 1, 1]


@pytest.mark.parametrize("backbone", ["resnet18", "tf_efficientnet_lite0", "pvt_v2_b0"])
@pytest.mark.parametrize("noisy", [True, False])
def test_features_are_the_teachers_in_value_and_layout(backbone: str, noisy: bool) -> None:
    """With one thread torch takes another algorithm for 1 x 1 convolutions of fewer than 16 images."""
    torch.manual_seed(0)
    teacher = Teacher(backbone, None, pre_trained=False)
    clean, other = images(9), images(9) + 0.3 if noisy else None
    paths = [f"{index}.png" for index in range(9)]
    cache = FeatureCache(ALL)
    cache.begin(9)
    first = cache.features(teacher, clean[:4], None if other is None else other[:4], paths[:4])
    assert all(
        torch.equal(a, b)
        for a, b in zip(first, teacher(torch.cat([clean[:4], *([] if other is None else [other[:4]])])), strict=True)
    )
    expected = teacher(clean if other is None else torch.cat([clean, other]))
    for _ in range(2):
        for feature, reference in zip(cache.features(teacher, clean, other, paths), expected, strict=True):
            assert feature.stride() == reference.stride()
            scale = reference.abs().max().item()
            exact = backbone == "resnet18"
            torch.testing.assert_close(feature, reference, rtol=0, atol=0 if exact else 1e-5 * scale)


def test_order_of_the_batch_is_kept() -> None:
    """Every image gets its own features, in any batch, also if it is there twice."""
    torch.manual_seed(0)
    teacher = Teacher("resnet18", LAYERS, pre_trained=False)
    clean = images(6)
    cache = FeatureCache(2.5 * BYTES / GIB)
    cache.begin(6)
    for batch in ([4, 1], [0, 4, 5, 1], [5, 1, 1, 0, 4], [3, 3, 2], [1, 4]):
        found = cache.features(teacher, clean[batch], clean[batch] * 0.5, [str(index) for index in batch])
        expected = teacher(torch.cat([clean[batch], clean[batch] * 0.5]))
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_other_sizes_pass_by() -> None:
    torch.manual_seed(0)
    teacher = Teacher("resnet18", None, pre_trained=False)
    seen: list[int] = []
    cache = FeatureCache(ALL)
    cache.begin(2)
    small, large = images(2), torch.randn(2, 3, 64, 96)
    cache.features(teacher, small, None, ["a", "b"])
    teacher.register_forward_pre_hook(lambda _m, args: seen.append(args[0].shape[0]))
    for _ in range(2):
        found = cache.features(teacher, large, large, ["a", "b"])
        assert all(torch.equal(a, b) for a, b in zip(found, teacher(torch.cat([large, large])), strict=True))
    cache.features(teacher, small.flip(0), None, ["b", "a"])
    assert seen == [4] * 4
    cache.on_train_epoch_end(ALONE, None)


# --- What it costs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("memory", "rows"), [(ALL, IMAGES), (FIVE, 5), (0.5 * BYTES / GIB, 0)])
def test_the_bound_is_respected_and_the_rest_is_reported(
    memory: float, rows: int, tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sizes: list[int] = []

    class Look(Callback):
        def on_train_epoch_end(self, _trainer: Trainer, module: ScaleAwareCRD) -> None:
            sizes.append(sum(table.untyped_storage().nbytes() for table in module.feature_cache._kept))

    with caplog.at_level(logging.INFO, logger="anomalib_scrd.training.feature_cache"):
        train(tiny_folder, tmp_path, ALL_TRAINED | {"feature_cache": memory}, callbacks=[Look()], max_epochs=1)
    assert sizes == [rows * BYTES]
    assert rows * BYTES <= memory * GIB
    (record,) = [record for record in caplog.records if record.name == "anomalib_scrd.training.feature_cache"]
    assert record.levelno == (logging.INFO if rows == IMAGES else logging.WARNING)
    assert f"{rows} in memory, {IMAGES - rows} computed" in record.getMessage()


def test_memory_goes_with_the_training(tiny_folder: Path, tmp_path: Path) -> None:
    model = build_quick_model(feature_cache=ALL)
    build_engine(tmp_path, max_steps=1, limit_val_batches=0, logger=False).fit(model, datamodule=data(tiny_folder))
    assert model.feature_cache._kept == []


def test_a_step_from_the_cache_never_makes_the_host_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ready(feature_cache=ALL)
    model.feature_cache.begin(2)
    batch = ImageBatch(image=images(), image_path=["a", "b"])
    with no_waiting(monkeypatch):
        for _ in range(2):
            model.training_step(batch).backward()


# --- Refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("transform", "step"),
    [
        (None, None),
        (v2.Compose([v2.Resize((64, 64)), v2.ToImage(), nn.Sequential(v2.CenterCrop(32), v2.Grayscale(3))]), None),
        (v2.RandomHorizontalFlip(), v2.RandomHorizontalFlip),
        (v2.Compose([v2.Resize((64, 64)), v2.Compose([v2.Normalize([0], [1]), v2.ColorJitter()])]), v2.ColorJitter),
        (v2.RandomApply([v2.Resize((64, 64))]), v2.RandomApply),
        (v2.Lambda(lambda x: x), v2.Lambda),
        (type("Mine", (v2.Resize,), {})((64, 64)), v2.Resize),
        (nn.Dropout(), nn.Dropout),
    ],
)
def test_possibly_random_transforms_are_found(transform: object, step: type | None) -> None:
    found = unsteady_step(transform)
    assert found is None if step is None else isinstance(found, step)


@pytest.mark.parametrize("argument", ["train_augmentations", "augmentations"])
def test_augmentations_are_refused(argument: str, tiny_data: Callable, tmp_path: Path) -> None:
    engine = build_engine(tmp_path, max_steps=1, limit_val_batches=0)
    with pytest.raises(ValueError, match=r"feature_cache .*augmentations of the training images .*RandomVerticalFlip"):
        engine.fit(build_model(feature_cache=1), datamodule=tiny_data(**{argument: v2.RandomVerticalFlip()}))
    assert engine.trainer.global_step == 0


def test_augmentations_of_bare_and_joined_sets_are_refused(tiny_data: Callable, tmp_path: Path) -> None:
    data = tiny_data(train_augmentations=v2.RandomVerticalFlip())
    data.setup()
    plain = tiny_data()
    plain.setup()
    joined = ConcatDataset([plain.train_data, Subset(data.train_data, [0, 1])])
    loader = DataLoader(joined, batch_size=4, collate_fn=plain.train_data.collate_fn)
    with pytest.raises(ValueError, match="RandomVerticalFlip"):
        build_engine(tmp_path, max_steps=1, limit_val_batches=0).fit(
            build_model(feature_cache=1), train_dataloaders=loader
        )


def test_random_pre_processor_is_refused(tiny_data: Callable, tmp_path: Path) -> None:
    pre_processor = PreProcessor(v2.Compose([v2.Resize((64, 64)), v2.RandomErasing()]))
    engine = build_engine(tmp_path, max_steps=1, limit_val_batches=0)
    with pytest.raises(ValueError, match=r"the pre_processor may change them, got RandomErasing"):
        engine.fit(build_model(feature_cache=1, pre_processor=pre_processor), datamodule=tiny_data())


def test_steady_augmentations_are_fine(tiny_data: Callable, tmp_path: Path) -> None:
    engine = build_engine(tmp_path, max_steps=4, limit_val_batches=0)
    engine.fit(build_quick_model(feature_cache=1), datamodule=tiny_data(train_augmentations=v2.CenterCrop(48)))
    assert engine.trainer.global_step == 4


@pytest.mark.parametrize("change", [lambda x: x.flip(-1), lambda x: x + 0.01, lambda x: x + 0.1 * torch.randn_like(x)])
def test_hidden_changes_are_reported_at_the_end_of_the_epoch(
    change: Callable, tiny_data: Callable, tmp_path: Path
) -> None:
    """For any change of the images, here by a callback of the user."""

    class Hidden(Callback):
        def on_train_batch_start(self, trainer: Trainer, _module: object, batch: ImageBatch, *_: object) -> None:
            if trainer.current_epoch == 1 and any("003" in path for path in batch.image_path):
                batch.image = change(batch.image)

    engine = build_engine(tmp_path, max_epochs=4, limit_val_batches=0, callbacks=[Hidden()])
    with pytest.raises(ValueError, match=r"4 changed, got another image for '.*\.png'"):
        engine.fit(build_quick_model(feature_cache=1), datamodule=tiny_data())
    assert engine.trainer.current_epoch == 1


def test_batches_without_paths_are_refused() -> None:
    model = ready(feature_cache=1)
    model.feature_cache.begin(2)
    with pytest.raises(ValueError, match=r"feature_cache needs batches with image_path"):
        model.training_step(ImageBatch(image=images()))


def test_more_paths_than_images_are_refused() -> None:
    """Names that are new in every epoch would find nothing in the cache."""
    cache = FeatureCache(ALL)
    cache.begin(3)
    teacher = Teacher("resnet18", LAYERS, pre_trained=False)
    cache.features(teacher, images(2), None, ["a", "b"])
    with pytest.raises(ValueError, match="each with its own path; of 3 images there are 4 paths by now"):
        cache.features(teacher, images(2), None, ["c", "d"])


def test_sets_without_a_length_are_refused(tiny_data: Callable, tmp_path: Path) -> None:
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self) -> Iterator[torch.Tensor]:
            yield from images()

    engine = build_engine(tmp_path, max_steps=1, limit_val_batches=0)
    with pytest.raises(ValueError, match=r"feature_cache needs one training set with a length, got .*Stream"):
        engine.fit(
            build_model(feature_cache=1, optimiser={"schedule": "none"}),
            train_dataloaders=DataLoader(Stream()),
        )


def test_a_change_in_one_process_stops_all() -> None:
    """A process that continues alone would wait for the others until the timeout of its group."""
    asked: list[tuple[bool, bool]] = []

    def other_process_found_one(decision: bool, all: bool = True) -> bool:  # noqa: A002 - Lightning's name
        asked.append((decision, all))
        return True

    trainer = SimpleNamespace(strategy=SimpleNamespace(reduce_boolean_decision=other_process_found_one))
    cache = FeatureCache(ALL)
    with pytest.raises(ValueError, match="0 changed, got another image for 'a path of another process'"):
        cache.on_train_epoch_end(trainer, None)
    assert asked == [(False, False)]
