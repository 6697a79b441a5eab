"""A training that resumes from any of its checkpoints ends like an uninterrupted one."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from anomalib.callbacks import ModelCheckpoint
from lightning.pytorch import Callback, Trainer
from torchvision.transforms import v2

from anomalib_scrd import ScaleAwareCRD
from anomalib_scrd.training import validation_times
from anomalib_scrd.training.checkpoint_files import AtomicCheckpointIO
from tests.models import build_engine, build_model, build_quick_model

# 12 images, 3 of them held out, in batches of 4: epochs of three steps, the last of which is filled up.
STEPS = 8


class Order(Callback):
    def __init__(self) -> None:
        self.seen: list[list[str]] = []

    def on_train_batch_start(self, _trainer: Trainer, _module: object, batch: object, _index: int) -> None:
        self.seen.append([Path(path).name for path in batch.image_path])


def fit(
    data: object,
    root: Path,
    model: dict,
    checkpoint: Path | None = None,
    callback: Callback | None = None,
    **more: object,
) -> tuple[ScaleAwareCRD, list[list[str]]]:
    order = Order()
    callbacks = [order] if callback is None else [order, callback]
    engine = build_engine(root, **({"max_steps": STEPS, "callbacks": callbacks, "logger": False} | more))
    small = {"layers": ["layer1", "layer2"], "pre_processor": ScaleAwareCRD.configure_pre_processor((32, 32))}
    built = build_model(**({"seed": 3} | small | model))
    torch.manual_seed(len(str(root)) if checkpoint is None else 99)
    engine.fit(built, datamodule=data, ckpt_path=checkpoint)
    return built, order.seen


FORMS: dict[str, tuple[dict, dict, dict]] = {  # model, data, trainer
    "default": ({}, {}, {}),
    "features kept": ({"feature_cache": 1.0}, {}, {}),
    "augmentations": ({}, {"train_augmentations": v2.RandomHorizontalFlip()}, {}),
    "worker": ({}, {"num_workers": 1}, {}),
    "two batches a step": ({}, {}, {"max_steps": -1, "max_epochs": 3, "accumulate_grad_batches": 2}),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_resumed_training_ends_as_the_uninterrupted_one(form: str, tiny_data: Callable, tmp_path: Path) -> None:
    """Checkpoints in the first epoch, at its end, before the last batch of the second one, and in the third."""
    model, images, trainer = FORMS[form]
    keep = ModelCheckpoint(tmp_path / "kept", "{step}", save_top_k=-1, every_n_train_steps=1)
    whole, order = fit(tiny_data(**images), tmp_path / "whole", model, callback=keep, **trainer)
    expected = whole.state_dict()
    for step in {"default": (1, 3, 5, 7), "two batches a step": (3,)}.get(form, (5,)):
        checkpoint = tmp_path / "kept" / f"step={step}.ckpt"
        resumed, rest = fit(tiny_data(**images), tmp_path / str(step), model, checkpoint, **trainer)
        assert rest == order[len(order) - len(rest) :], step
        for name, value in resumed.state_dict().items():
            torch.testing.assert_close(value, expected[name], rtol=0, atol=0, equal_nan=True, msg=f"{step}: {name}")


def test_the_plan_of_validations_changes_no_training(tiny_data: Callable, tmp_path: Path) -> None:
    """Validations draw random numbers, and the clock decides about some: augmentations must not depend on it."""
    arguments = {"train_augmentations": v2.RandomHorizontalFlip()}
    often, _ = fit(tiny_data(**arguments), tmp_path / "a", {}, val_check_interval=1)
    never, _ = fit(tiny_data(**arguments), tmp_path / "b", {}, limit_val_batches=0)
    for (name, value), other in zip(
        often.model.student.named_parameters(), never.model.student.parameters(), strict=True
    ):
        assert torch.equal(value, other), name


def test_no_checkpoint_is_written_while_gradients_wait(
    tiny_data: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fit that is planned by epochs would validate in the middle of an accumulation."""
    monkeypatch.setattr(validation_times, "_WORTH_SAVING", 1e6)
    seen: list[int] = []

    class Look(Callback):
        def on_validation_start(self, trainer: Trainer, _module: object) -> None:
            seen.append(trainer.fit_loop.epoch_loop.batch_progress.current.ready)

    settings = {"max_steps": -1, "max_epochs": 1, "accumulate_grad_batches": 2}
    fit(tiny_data(train_batch_size=1), tmp_path, {}, callback=Look(), **settings)  # nine batches
    assert seen[-1] == 9
    assert len(seen) > 2
    assert all(batches % 2 == 0 for batches in seen[:-1])


@pytest.mark.parametrize("damage", ["cut", "flipped", "text", "empty", "other"])
def test_a_damaged_checkpoint_is_named(damage: str, tiny_data: Callable, tmp_path: Path) -> None:
    """The message does not suggest loading it with code; for `load_from_checkpoint` and for a trainer."""
    model = build_quick_model()
    engine = build_engine(tmp_path, max_steps=1, limit_val_batches=0, logger=False)
    engine.fit(model, datamodule=tiny_data())
    path = Path(engine.best_model_path)
    content = bytearray(path.read_bytes())
    if damage == "cut":
        del content[len(content) // 2 :]
    elif damage == "flipped":
        place = content.index(b"data.pkl") + 100
        content[place] ^= 0xFF
    else:
        content = bytearray({"text": b"weights", "empty": b"", "other": b"PK\x03\x04" + bytes(100)}[damage])
    path.write_bytes(content)
    for load in (
        lambda: ScaleAwareCRD.load_from_checkpoint(path),
        lambda: AtomicCheckpointIO().load_checkpoint(path),
        lambda: build_engine(tmp_path).test(build_quick_model(), tiny_data(), ckpt_path=path),
    ):
        with pytest.raises(ValueError, match=r"checkpoint '.*model.ckpt' is damaged or not a checkpoint") as caught:
            load()
        assert "weights_only" not in str(caught.value)


def test_a_field_of_another_version_is_named(tiny_data: Callable, tmp_path: Path) -> None:
    engine = build_engine(tmp_path, max_steps=1, limit_val_batches=0, logger=False)
    engine.fit(build_quick_model(), datamodule=tiny_data())
    path = Path(engine.best_model_path)
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["hyper_parameters"]["noise"]["begin"] = 0.3
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match=r"not a checkpoint of this version of this model.*noise\.begin is unknown"):
        ScaleAwareCRD.load_from_checkpoint(path)
