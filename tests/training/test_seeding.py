"""The seed of a model: its weights, the order of its images, its synthetic anomalies; and a run that is resumed."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from anomalib.engine import Engine
from lightning.pytorch import Callback, Trainer

from anomalib_scrd import ScaleAwareCRD
from tests.models import build_engine, build_model, build_quick_model

State = dict[str, torch.Tensor]

PLAIN = {"restore": 0.0, "contrast": 0.0}


class Order(Callback):
    """The images of every batch, in order."""

    def __init__(self) -> None:
        self.seen: list[list[str]] = []

    def on_train_batch_start(self, _trainer: Trainer, _module: object, batch: object, _index: int) -> None:
        self.seen.append([Path(path).name for path in batch.image_path])


def student(model: ScaleAwareCRD) -> State:
    return {name: value.clone() for name, value in model.model.student.state_dict().items()}


def equal(first: State, second: State) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


def build(seed: int | None, state: int, schedule: str = "none") -> ScaleAwareCRD:
    """A model with a seed of its own, from some global random state."""
    # Most tests have no schedule, because it depends on the length.
    optimiser = {"schedule": schedule, "learning_rate": 1e-3}
    model = build_quick_model(seed=seed, loss={"contrast": 0.1}, optimiser=optimiser)
    torch.manual_seed(state)  # building it seeds as well
    return model


def test_weights_come_from_the_seed_alone() -> None:
    def weights(seed: int | None, state: int) -> State:
        torch.manual_seed(state)
        before = torch.get_rng_state()
        model = ScaleAwareCRD(backbone="resnet18", pre_trained=False, layers=["layer1", "layer2"], seed=seed)
        assert torch.equal(torch.get_rng_state(), before) == (seed is not None)
        return student(model)

    first = weights(3, 0)
    assert equal(first, weights(3, 1))
    assert not equal(first, weights(4, 0))
    assert equal(weights(None, 0), weights(None, 0))
    assert not equal(weights(None, 0), weights(None, 1))


def fit(model: ScaleAwareCRD, data: object, root: Path, epochs: int, checkpoint: str | None = None) -> tuple:
    order = Order()
    engine = build_engine(root, max_epochs=epochs, limit_val_batches=0, callbacks=[order], logger=False)
    engine.fit(model, datamodule=data, ckpt_path=checkpoint)
    return order.seen, model.state_dict(), engine.best_model_path


def assert_same(first: State, second: State) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():  # without a validation the thresholds are NaN
        torch.testing.assert_close(value, second[name], rtol=0, atol=0, equal_nan=True, msg=name)


@pytest.mark.parametrize("schedule", ["none", "cosine"])
def test_the_seed_determines_a_training(schedule: str, tiny_data: Callable, tmp_path: Path) -> None:
    """Shuffled, with synthetic anomalies, from two states of the global generator."""
    first, weights, _ = fit(build(7, 0, schedule), tiny_data(), tmp_path / "a", 2)
    again, others, _ = fit(build(7, 1, schedule), tiny_data(), tmp_path / "b", 2)
    assert first == again
    assert_same(weights, others)
    assert first[:3] != first[3:]  # each epoch has an order of its own
    different, _, _ = fit(build(8, 0, schedule), tiny_data(), tmp_path / "c", 2)
    assert different != first
    unseeded, _, _ = fit(build(None, 5), tiny_data(), tmp_path / "d", 2)
    assert unseeded != fit(build(None, 6), tiny_data(), tmp_path / "e", 2)[0]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_training_goes_on_as_the_uninterrupted_one(workers: int, tiny_data: Callable, tmp_path: Path) -> None:
    """The order of the images too, whatever the global random state is then."""
    whole, expected, _ = fit(build(7, 0), tiny_data(num_workers=workers), tmp_path / "whole", 3)
    _, _, checkpoint = fit(build(7, 1), tiny_data(num_workers=workers), tmp_path / "half", 1)
    rest, resumed, _ = fit(build(7, 2), tiny_data(num_workers=workers), tmp_path / "rest", 3, checkpoint)
    assert rest == whole[3:]
    assert_same(resumed, expected)


def statistics(model: ScaleAwareCRD) -> State:
    """The standardisation of the channels."""
    return {name: value.clone() for name, value in model.model.standardise.state_dict().items()}


def test_a_second_fit_measures_its_own_data(tiny_data: Callable, tmp_path: Path) -> None:
    """The channels' statistics on the first data do not apply to the second."""

    class Brighter(Callback):
        def on_train_batch_start(self, _trainer: Trainer, _module: object, batch: object, _index: int) -> None:
            batch.image = 2 * batch.image + 1

    def engine(folder: str, callbacks: list[Callback]) -> Engine:
        return build_engine(tmp_path / folder, max_epochs=1, limit_val_batches=0, callbacks=callbacks, logger=False)

    twice, once = build(3, 0), build(3, 0)
    engine("first", []).fit(twice, datamodule=tiny_data())
    before = statistics(twice)
    engine("second", [Brighter()]).fit(twice, datamodule=tiny_data())
    engine("only", [Brighter()]).fit(once, datamodule=tiny_data())
    assert_same(statistics(twice), statistics(once))  # of the teacher, which does not learn
    for name, value in statistics(twice).items():
        assert name == "seen" or not torch.allclose(value, before[name]), name


def test_a_fit_that_has_nothing_to_do_leaves_the_statistics(tiny_data: Callable, tmp_path: Path) -> None:
    model = build(3, 0)
    engine = build_engine(tmp_path, max_epochs=1, limit_val_batches=0, logger=False)
    engine.fit(model, datamodule=tiny_data())
    before = statistics(model)
    engine.fit(model, datamodule=tiny_data())  # its epoch is over
    assert_same(statistics(model), before)


@pytest.mark.parametrize(("preset", "sizes"), [("default", [5, 5, 5]), ("published", [5, 5, 2])])
def test_the_last_batch_is_filled_up_where_that_is_asked_for(
    preset: str, sizes: list[int], tiny_data: Callable, tmp_path: Path
) -> None:
    """12 images in batches of 5. The published training does not fill up."""
    seen: list[int] = []
    common = {"preset": preset, "layers": ["layer1", "layer2"], "loss": PLAIN, "scoring": {"held_out": 0.0}}
    filled = sizes == [5, 5, 5]
    for given, expected in (({}, sizes), ({"fill_last_batch": not filled}, [5, 5, 2] if filled else [5, 5, 5])):
        seen.clear()
        model = build_model(**common, optimiser=given)
        model.model.bottleneck.register_forward_pre_hook(lambda _m, args: seen.append(len(args[0][0])))
        build_engine(tmp_path, max_epochs=1, limit_val_batches=0, logger=False).fit(
            model, datamodule=tiny_data(train_batch_size=5)
        )
        assert seen[:3] == expected
