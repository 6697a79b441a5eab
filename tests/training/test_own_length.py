"""Length of a training that is started without one."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.callbacks import ModelCheckpoint
from lightning.pytorch import Trainer

from anomalib_scrd import ScaleAwareCRD
from anomalib_scrd.training import own_length
from anomalib_scrd.training.own_length import CYCLES, DEFAULT_STEPS, LEAST_FALL, OwnLength, held_out_distance
from anomalib_scrd.training.schedule import cosine_with_warmup
from tests.models import build_engine, build_model, build_quick_model


@pytest.fixture
def short_cycles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_length, "CYCLES", (2, 3, 4))


@pytest.fixture
def distances(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Distances that are measured at the ends of cycles; used ones are removed."""
    given: list[float] = []
    monkeypatch.setattr(own_length, "held_out_distance", lambda _model: given.pop(0))
    return given


def train(root: Path, data: object, model: ScaleAwareCRD | None = None, **arguments: object) -> Trainer:
    checkpoint = arguments.pop("ckpt_path", None)
    engine = build_engine(root, limit_val_batches=0, logger=False, **arguments)
    engine.fit(model or build_quick_model(seed=3), datamodule=data, ckpt_path=checkpoint)
    return engine.trainer


@pytest.mark.parametrize(
    ("fall", "steps"),
    [
        (-0.5, 2 + 3),  # the first distance is compared with none
        (LEAST_FALL - 0.01, 2 + 3),
        (LEAST_FALL + 0.01, 2 + 3 + 4),  # none is measured after the last cycle
    ],
)
@pytest.mark.usefixtures("short_cycles")
def test_ends_when_the_held_out_distance_stops_falling(
    fall: float, steps: int, distances: list[float], tiny_data: Callable, tmp_path: Path
) -> None:
    distances += [0.4, 0.4 * (1 - fall)]
    trainer = train(tmp_path, tiny_data())
    assert (trainer.global_step, distances) == (steps, [])
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.0 if steps == 9 else 5e-3 / 3, abs=1e-9)


@pytest.mark.usefixtures("short_cycles")
def test_accumulated_gradients_measure_once_a_cycle(
    distances: list[float], tiny_data: Callable, tmp_path: Path
) -> None:
    distances += [0.4, 0.39]
    trainer = train(tmp_path, tiny_data(train_batch_size=2), accumulate_grad_batches=2)
    assert (trainer.global_step, distances) == (5, [])


@pytest.mark.usefixtures("short_cycles")
def test_without_held_out_images_it_takes_all_cycles(
    distances: list[float], tiny_data: Callable, tmp_path: Path
) -> None:
    model = build_quick_model(scoring={"held_out": 0.0})
    assert train(tmp_path, tiny_data(), model).global_step == 9
    assert distances == []


def test_published_length_with_a_constant_learning_rate(
    monkeypatch: pytest.MonkeyPatch, tiny_data: Callable, tmp_path: Path
) -> None:
    assert DEFAULT_STEPS == 40_000
    assert sum(CYCLES) <= DEFAULT_STEPS / 4
    monkeypatch.setattr(own_length, "DEFAULT_STEPS", 5)
    trainer = train(tmp_path, tiny_data(), build_quick_model(optimiser={"schedule": "none"}))
    assert trainer.global_step == 5


@pytest.mark.parametrize(
    "arguments", [{"max_epochs": 7}, {"max_steps": 9}, {"max_time": "00:01:00:00"}, {"fast_dev_run": True}]
)
def test_lengths_that_are_left_alone(arguments: dict) -> None:
    model, length = build_quick_model(), OwnLength()
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, **arguments)
    model.trainer = trainer
    before = trainer.max_epochs, trainer.max_steps
    length.setup(trainer, model, "fit")
    assert length.cycles == ()
    assert (trainer.max_epochs, trainer.max_steps) == before


@pytest.mark.parametrize("interrupted", [3, 5])
@pytest.mark.usefixtures("short_cycles")
def test_resumed_training_ends_where_the_uninterrupted_one_does(
    interrupted: int, monkeypatch: pytest.MonkeyPatch, tiny_data: Callable, tmp_path: Path
) -> None:
    monkeypatch.setattr(own_length, "LEAST_FALL", 0.99)  # ends after the second cycle
    whole = build_quick_model(seed=3)
    assert train(tmp_path / "whole", tiny_data(), whole).global_step == 5

    every = ModelCheckpoint(dirpath=tmp_path / "steps", filename="{step}", save_top_k=-1, every_n_train_steps=1)
    train(tmp_path / "first", tiny_data(), callbacks=[every])
    resumed = build_quick_model(seed=3)
    checkpoint = tmp_path / "steps" / f"step={interrupted}.ckpt"
    assert train(tmp_path / "second", tiny_data(), resumed, ckpt_path=checkpoint).global_step == 5
    for name, value in whole.model.student.state_dict().items():
        torch.testing.assert_close(resumed.model.student.state_dict()[name], value, rtol=0, atol=0, msg=name)


def test_held_out_distance_by_a_loop() -> None:
    """The mean over images and scales of one minus the cosine of whole feature maps, in evaluation mode."""
    model = build_model().train()
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))

    class Images:
        def images(self, _model: object) -> Iterator[torch.Tensor]:
            yield from images.split(2)

    model.held_out = Images()
    found = held_out_distance(model)
    assert model.model.student.training
    network = model.model.eval()
    expected = []
    with torch.no_grad():
        for image in images:
            teacher, student, _ = network.compared(image[None])
            for first, second in zip(teacher, student, strict=True):
                a, b = first.numpy().astype(float).ravel(), second.numpy().astype(float).ravel()
                expected.append(1 - a @ b / np.sqrt((a @ a) * (b @ b)))
    assert found == pytest.approx(np.mean(expected), abs=1e-5)
    assert len(expected) == 3 * len(network.teacher.layers)


def test_cycles_of_the_learning_rate_in_closed_form() -> None:
    """Each cycle has the learning rates of a training of its length, and the last one ends at zero."""
    rates: dict[tuple[int, ...], list[float]] = {}
    for cycles in ((10,), (4,), (10, 4, 10)):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        scheduler = cosine_with_warmup(optimizer, cycles, warmup_steps=3)
        rates[cycles] = []
        for _ in range(sum(cycles)):
            rates[cycles].append(scheduler.get_last_lr()[0])
            optimizer.step()
            scheduler.step()
        assert scheduler.get_last_lr()[0] == pytest.approx(0.0)
    assert rates[10, 4, 10] == pytest.approx(rates[10,] + rates[4,] + rates[10,])
