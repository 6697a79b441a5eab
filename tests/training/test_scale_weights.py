"""Synthetic anomalies come in after a share of a training; what they change is learned just before."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback

from anomalib_scrd import ScaleAwareCRD
from anomalib_scrd.scoring.fitting import learn_difference
from tests.models import build_engine, build_model


class Watched(Callback):
    """Keeps which steps had anomalies, and the model before each step."""

    def __init__(self) -> None:
        self.spoilt: list[bool] = []
        self.before: list[torch.nn.Module] = []

    def on_train_start(self, _trainer: object, model: ScaleAwareCRD) -> None:
        model.loss.register_forward_hook(lambda _m, _a, terms: self.spoilt.append(terms.restore is not None))

    def on_train_batch_start(self, _trainer: object, model: ScaleAwareCRD, *_: object) -> None:
        self.before.append(copy.deepcopy(model.model))


def trained(data: object, root: Path, watched: Callback, length: dict, **arguments: object) -> ScaleAwareCRD:
    model = build_model(seed=3, **arguments)
    build_engine(root, limit_val_batches=0, callbacks=[watched], **length).fit(model, datamodule=data)
    return model


@pytest.mark.parametrize(
    ("length", "start", "clean"),
    [
        ({"max_steps": 6}, 0.3, 2),
        ({"max_epochs": 2}, 0.5, 3),  # three batches an epoch, the held-out images taken off
        ({"max_steps": 6}, 0.0, 0),
        ({"max_steps": 4, "accumulate_grad_batches": 2}, 0.5, 3),  # steps of the optimiser: 2 + 1 batches an epoch
        ({"max_epochs": -1, "max_time": {"seconds": 2}}, 0.9, 0),  # nobody knows how many steps there will be
    ],
)
def test_anomalies_come_in_after_a_share_of_the_steps(
    length: dict, start: float, clean: int, tiny_data: Callable, tmp_path: Path
) -> None:
    watched = Watched()
    trained(tiny_data(), tmp_path, watched, length, noise={"start": start})
    assert watched.spoilt == [batch >= clean for batch in range(len(watched.spoilt))]
    assert len(watched.spoilt) > clean


def test_the_difference_is_that_of_the_student_before_its_first_anomaly(tiny_data: Callable, tmp_path: Path) -> None:
    watched = Watched()
    model = trained(tiny_data(), tmp_path, watched, {"max_steps": 6}, noise={"start": 0.5})
    weights = model.model.map_and_score.score_weights
    assert weights.learned
    images = torch.cat(list(model.held_out.images(model)))
    for step, same in ((3, True), (4, False), (0, False)):
        student = watched.before[step]
        student.map_and_score.score_weights.forget_difference()
        learn_difference(student, images, model.normalisation(), seed=3)
        found = student.map_and_score.score_weights.difference
        assert torch.allclose(found, weights.difference, atol=1e-4) == same


def test_without_a_clean_start_the_last_student_decides(tiny_data: Callable, tmp_path: Path) -> None:
    model = trained(tiny_data(), tmp_path, Watched(), {"max_steps": 4}, noise={"start": 0.0})
    weights = model.model.map_and_score.score_weights
    assert not weights.learned
    found = weights.difference.clone()
    learn_difference(model.model, torch.cat(list(model.held_out.images(model))), model.normalisation(), seed=3)
    torch.testing.assert_close(found, weights.difference, atol=1e-4, rtol=1e-4)


def test_a_term_that_needs_anomalies_in_every_step_has_them(tiny_data: Callable, tmp_path: Path) -> None:
    """The published ratio alone: without anomalies there would be nothing to train."""
    watched, ratio = Watched(), {"pull": 0.0, "restore": 0.0, "contrast": 0.0, "ratio": 1.0}
    model = build_model(seed=3, loss=ratio, noise={"start": 0.9})
    seen = []
    model.loss.register_forward_hook(lambda _m, _a, terms: seen.append(terms.ratio is not None))
    build_engine(tmp_path, limit_val_batches=0, callbacks=[watched], max_steps=4).fit(model, datamodule=tiny_data())
    assert seen == [True] * 4


def test_another_fit_learns_anew(tiny_data: Callable, tmp_path: Path) -> None:
    watched = Watched()
    model = trained(tiny_data(), tmp_path, watched, {"max_steps": 4}, noise={"start": 0.5})
    first = model.model.map_and_score.score_weights.difference.clone()
    build_engine(tmp_path, limit_val_batches=0, max_steps=4).fit(model, datamodule=tiny_data())
    assert not torch.allclose(model.model.map_and_score.score_weights.difference, first)


@pytest.mark.parametrize("stopped", [2, 3, 4], ids=["before", "at the first", "after"])
def test_a_resumed_training_has_the_same_difference(stopped: int, tiny_data: Callable, tmp_path: Path) -> None:
    class Stop(Callback):
        def on_train_batch_end(self, trainer: object, *_: object) -> None:
            if trainer.global_step == stopped:
                trainer.save_checkpoint(tmp_path / "stopped.ckpt")

    whole = trained(tiny_data(), tmp_path / "whole", Stop(), {"max_steps": 6}, noise={"start": 0.5})
    resumed = build_model(seed=3, noise={"start": 0.5})
    engine = build_engine(tmp_path / "rest", limit_val_batches=0, max_steps=6)
    engine.fit(resumed, datamodule=tiny_data(), ckpt_path=tmp_path / "stopped.ckpt")
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], value, rtol=2e-3, atol=2e-4, msg=name)
