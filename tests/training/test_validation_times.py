"""When a fit validates and writes; thresholds and weights stored at the end match."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.callbacks import ModelCheckpoint
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.callbacks import ModelCheckpoint as LightningModelCheckpoint

from anomalib_scrd import ScaleAwareCRD
from anomalib_scrd.training import validation_times
from anomalib_scrd.training.held_out import HeldOut
from tests.models import build_engine, build_model, build_quick_model

TWO = ["layer1", "layer2"]


class Log(Callback):
    """Steps at which validations end and files are written."""

    def __init__(self) -> None:
        self.validated: list[int] = []
        self.written: list[int] = []
        self.modes: set[bool] = set()

    def on_train_batch_start(self, _trainer: Trainer, module: ScaleAwareCRD, *_: object) -> None:
        self.modes |= {part.training for part in module.model.student.modules()}

    def on_validation_end(self, trainer: Trainer, _module: object) -> None:
        self.validated.append(trainer.global_step)

    def on_save_checkpoint(self, trainer: Trainer, _module: object, _checkpoint: dict) -> None:
        self.written.append(trainer.global_step)


def thresholds(model: ScaleAwareCRD) -> list[float]:
    processor = model.post_processor
    return [processor.image_threshold.item(), processor.pixel_threshold.item(), processor.image_scale.item()]


def assert_stored_numbers_belong_to_stored_weights(
    path: str, tiny_data: Callable, tmp_path: Path, **trainer: object
) -> None:
    """Thresholds of the checkpoint are those that its weights give on the same images."""
    model = ScaleAwareCRD.load_from_checkpoint(path)
    stored = thresholds(model)
    assert np.isfinite(stored).all()
    data = tiny_data()
    data.setup()
    model.held_out.take(data)
    engine = build_engine(tmp_path / "again", **trainer)
    engine._setup_trainer(model)
    for value in ("image_threshold", "pixel_threshold"):
        getattr(model.post_processor, f"_{value}").fill_(float("nan"))
    engine.trainer.validate(model, datamodule=data, verbose=False)
    assert thresholds(model)[:2] == pytest.approx(stored[:2], rel=1e-5)


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        ({"max_steps": 40}, [12, 21, 30, 40]),  # an epoch has 3 steps: at the end of one, but for the last
        ({"max_steps": 2}, [1, 2]),  # within the first epoch
        ({"max_epochs": 20}, [15, 30, 45, 60]),
        ({"max_epochs": 1}, [1, 2, 3]),
        ({"max_steps": 100, "max_epochs": 8}, [6, 12, 18, 24]),
        ({"max_steps": 40, "accumulate_grad_batches": 2}, [10, 20, 30, 40]),  # 2 steps an epoch
    ],
)
def test_a_handful_of_validations_and_one_at_the_end(
    length: dict, expected: list[int], tiny_data: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation_times, "_WORTH_SAVING", 600.0)  # however slow the machine is
    log = Log()
    engine = build_engine(tmp_path, callbacks=[log], **length)
    engine.fit(build_quick_model(), datamodule=tiny_data())
    assert log.validated == expected
    assert log.written == expected
    assert (engine.trainer.check_val_every_n_epoch, engine.trainer.val_check_interval) == (1, 1.0)


def test_a_fit_that_ends_within_its_first_epoch_has_thresholds(tiny_data: Callable, tmp_path: Path) -> None:
    engine, model = build_engine(tmp_path, max_steps=2), build_model()
    engine.fit(model, datamodule=tiny_data())
    assert np.isfinite(thresholds(model)).all()
    results = engine.predict(model, datamodule=tiny_data())
    scores = torch.cat([batch.pred_score for batch in results])
    assert ((scores > 0) & (scores < 1)).all()
    labels = torch.cat([batch.pred_label for batch in results])
    assert 0 < labels.sum() < len(labels)
    assert_stored_numbers_belong_to_stored_weights(engine.best_model_path, tiny_data, tmp_path)


@pytest.mark.parametrize("settings", [{}, {"check_val_every_n_epoch": 2}, {"val_check_interval": 2}])
def test_thresholds_of_a_fit_that_ends_within_an_epoch_are_those_of_its_last_weights(
    settings: dict, tiny_data: Callable, tmp_path: Path
) -> None:
    log, model = Log(), build_model(layers=TWO, optimiser={"learning_rate": 0.01})
    engine = build_engine(tmp_path, max_steps=5, callbacks=[log], **settings)
    engine.fit(model, datamodule=tiny_data())
    assert log.validated[-1] == log.written[-1] == 5
    assert thresholds(ScaleAwareCRD.load_from_checkpoint(engine.best_model_path)) == thresholds(model)
    assert_stored_numbers_belong_to_stored_weights(engine.best_model_path, tiny_data, tmp_path)


def test_a_time_limit_counts_as_a_length(tiny_data: Callable, tmp_path: Path) -> None:
    log = Log()
    engine = build_engine(tmp_path, max_time=timedelta(seconds=4), callbacks=[log])
    engine.fit(build_quick_model(), datamodule=tiny_data())
    assert 1 < len(log.validated) <= 4
    assert log.validated == log.written
    assert log.validated[-1] == engine.trainer.global_step


@pytest.mark.parametrize(("hook", "step"), [("batch", 7), ("model", 7), ("epoch", 9)])
def test_a_stop_before_the_end_is_followed_by_a_validation(
    hook: str, step: int, tiny_data: Callable, tmp_path: Path
) -> None:
    def stop(trainer: Trainer, *_: object) -> None:
        trainer.should_stop = trainer.global_step >= 7

    log, model, callback = Log(), build_quick_model(), Callback()
    if hook == "model":  # after all callbacks
        model.on_train_batch_end = lambda *_: stop(model.trainer)
    else:
        setattr(callback, f"on_train_{hook}_end", stop)
    engine = build_engine(tmp_path, max_steps=60, callbacks=[log, callback])
    engine.fit(model, datamodule=tiny_data())
    assert engine.trainer.global_step == step
    assert log.validated[-1] == log.written[-1] == step
    assert torch.load(engine.best_model_path, weights_only=True)["global_step"] == step


@pytest.mark.parametrize(
    ("settings", "validated"),
    [
        ({"check_val_every_n_epoch": 2}, [6, 12, 15]),
        ({"val_check_interval": 2}, [2, 5, 8, 11, 14, 15]),
        ({"val_check_interval": 4, "check_val_every_n_epoch": None}, [4, 8, 12, 15]),
        ({"val_check_interval": timedelta(hours=1)}, [15]),
    ],
)
def test_the_users_own_plan_wins(settings: dict, validated: list[int], tiny_data: Callable, tmp_path: Path) -> None:
    log = Log()
    engine = build_engine(tmp_path, max_epochs=5, callbacks=[log], **settings)
    engine.fit(build_quick_model(), datamodule=tiny_data())
    assert log.validated == validated
    assert log.written[-1] == 15
    assert torch.load(engine.best_model_path, weights_only=True)["global_step"] == 15


def test_the_users_own_callbacks_win(tiny_data: Callable, tmp_path: Path) -> None:
    own = [
        EarlyStopping("train_loss_epoch", patience=100),
        LightningModelCheckpoint(tmp_path / "own", every_n_train_steps=4, save_top_k=-1),
        ModelCheckpoint(tmp_path / "own", filename="mine", save_last=True),
    ]
    for number, callback in enumerate(own):
        log = Log()
        engine = build_engine(tmp_path / str(number), max_epochs=4, callbacks=[log, callback])
        engine.fit(build_quick_model(), datamodule=tiny_data())
        assert log.validated == [3, 6, 9, 12]
    assert len(list((tmp_path / "own").glob("epoch=*"))) == 3
    assert (tmp_path / "own/mine.ckpt").is_file()


@pytest.mark.parametrize("trainer", [{"limit_val_batches": 0}, {}])
def test_thresholds_without_validation_come_from_held_out_images(
    trainer: dict, tiny_data: Callable, tmp_path: Path
) -> None:
    log, model = Log(), build_model(layers=TWO)
    data = tiny_data(val_split_mode="none")
    engine = build_engine(tmp_path, max_steps=40, callbacks=[log], **trainer)
    engine.fit(model, datamodule=data)
    assert log.written == [12, 21, 30, 40]
    assert log.validated == ([] if trainer else log.written)
    assert len(model.post_processor.normal_evidence) == 3
    loaded = ScaleAwareCRD.load_from_checkpoint(engine.best_model_path)
    assert thresholds(loaded) == thresholds(model)
    assert log.modes == {True}


def test_the_model_gets_ready_before_each_finding_of_thresholds(tiny_data: Callable, tmp_path: Path) -> None:
    for settings in ({}, {"limit_val_batches": 0}):
        model, calls = build_quick_model(), []

        def before(model: ScaleAwareCRD = model, calls: list = calls) -> None:
            assert not model.training
            assert not model.model.training
            assert not torch.is_grad_enabled()
            assert torch.isnan(model.post_processor.image_threshold) == (not calls)
            calls.append(model.trainer.global_step)

        model.before_thresholds = before
        engine = build_engine(tmp_path / str(len(settings)), max_steps=40, **settings)
        engine.fit(model, datamodule=tiny_data())
        assert calls == [12, 21, 30, 40]
        engine.test(model, datamodule=tiny_data())
        assert len(calls) == 4


def test_a_slow_validation_is_made_once_and_at_the_end(
    tiny_data: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(validation_times.time, "monotonic", lambda: now[0])

    class Clock(Callback):
        def on_train_batch_end(self, *_: object) -> None:
            now[0] += 1

        def on_validation_batch_end(self, *_: object) -> None:
            now[0] += 10

    log = Log()
    build_engine(tmp_path, max_steps=40, callbacks=[Clock(), log]).fit(build_quick_model(), datamodule=tiny_data())
    assert log.validated == [12, 40]


def test_half_an_hour_is_the_longest_time_without(
    tiny_data: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(validation_times.time, "monotonic", lambda: now[0])

    class Clock(Callback):
        def on_train_batch_end(self, *_: object) -> None:
            now[0] += 100

    log = Log()
    engine = build_engine(tmp_path, max_steps=150, callbacks=[Clock(), log])
    engine.fit(build_quick_model(), datamodule=tiny_data(train_batch_size=1))
    # looks at the clock after 50, 100 and 150 batches; quarters after 38, 75, 113; an epoch has 9 batches
    assert log.validated == [45, 81, 108, 117, 150]


def test_a_resumed_fit_goes_on_with_its_plan(tiny_data: Callable, tmp_path: Path) -> None:
    first = build_engine(tmp_path / "a", max_epochs=5)
    first.fit(build_quick_model(), datamodule=tiny_data())
    log = Log()
    second = build_engine(tmp_path / "b", max_epochs=10, callbacks=[log])
    second.fit(build_quick_model(), datamodule=tiny_data(), ckpt_path=first.best_model_path)
    assert second.trainer.global_step == 30
    assert log.validated == [24, 30]


def test_nothing_is_held_out_and_nothing_validated(
    tiny_data: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log, model = Log(), build_quick_model()
    model.held_out = HeldOut(0)
    engine = build_engine(tmp_path, max_steps=40, callbacks=[log], limit_val_batches=0)
    engine.fit(model, datamodule=tiny_data())
    assert log.written == [12, 21, 30, 40]
    assert not model.post_processor.has_thresholds
