"""Synthetic anomalies begin after a share of a training; their effect is measured just before."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.callbacks import ModelCheckpoint
from anomalib.data import Folder
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import Callback
from PIL import Image
from torchvision.transforms.v2 import Resize

from anomalib_scrd import ScaleAwareCRD
from anomalib_scrd.scoring.fitting import learn_difference
from anomalib_scrd.training import scale_weights
from anomalib_scrd.training.held_out import HeldOut
from tests.models import build_engine, build_model


class Students(Callback):
    """Keeps the model before each step."""

    def __init__(self) -> None:
        self.before: list[torch.nn.Module] = []

    def on_train_batch_start(self, _trainer: object, model: ScaleAwareCRD, *_: object) -> None:
        self.before.append(copy.deepcopy(model.model))


def build(**arguments: object) -> ScaleAwareCRD:
    return build_model(**({"seed": 3, "layers": ["layer1", "layer2"]} | arguments))


def fit(
    model: ScaleAwareCRD, data: object, root: Path, *callbacks: Callback, checkpoint: Path | None = None, **length: Any
) -> ScaleAwareCRD:
    engine = build_engine(root, limit_val_batches=0, callbacks=list(callbacks), **length)
    engine.fit(model, datamodule=data, ckpt_path=checkpoint)
    return model


def spoilt_steps(model: ScaleAwareCRD) -> list[bool]:
    """Whether each step of the training to come had anomalies."""
    steps: list[bool] = []
    model.loss.register_forward_hook(lambda _m, _a, terms: steps.append(terms.push is not None))
    return steps


def difference(model: ScaleAwareCRD) -> torch.Tensor:
    return model.model.map_and_score.score_weights.difference.clone()


@pytest.mark.parametrize(
    ("length", "start", "clean"),
    [
        ({"max_steps": 6}, 0.3, 2),
        ({"max_epochs": 2}, 0.5, 3),  # three batches an epoch, the held-out images taken off
        ({"max_steps": 6}, 0.0, 0),
        ({"max_steps": 4, "accumulate_grad_batches": 2}, 0.5, 3),  # steps of the optimiser: 2 + 1 batches an epoch
        ({"max_epochs": -1, "max_time": {"seconds": 2}}, 0.9, 0),  # the number of steps is unknown
    ],
)
def test_anomalies_come_in_after_a_share_of_the_steps(
    length: dict, start: float, clean: int, tiny_data: Callable, tmp_path: Path
) -> None:
    model = build(noise={"start": start})
    steps = spoilt_steps(model)
    fit(model, tiny_data(), tmp_path, **length)
    assert steps == [batch >= clean for batch in range(len(steps))]
    assert len(steps) > clean


def test_the_difference_is_that_of_the_student_before_its_first_anomaly(tiny_data: Callable, tmp_path: Path) -> None:
    students = Students()
    model = fit(build(noise={"start": 0.5}), tiny_data(), tmp_path, students, max_steps=6)
    weights = model.model.map_and_score.score_weights
    assert weights.learned
    images = torch.cat(list(model.held_out.images(model)))
    for step, same in ((3, True), (4, False), (0, False)):
        student = students.before[step]
        student.map_and_score.score_weights.forget_difference()
        learn_difference(student, images, model.normalisation(), seed=3)
        found = student.map_and_score.score_weights.difference
        assert torch.allclose(found, weights.difference, atol=1e-4) == same


def test_without_a_clean_start_the_last_student_decides(tiny_data: Callable, tmp_path: Path) -> None:
    model = fit(build(noise={"start": 0.0}), tiny_data(), tmp_path, max_steps=4)
    assert not model.model.map_and_score.score_weights.learned
    found = difference(model)
    learn_difference(model.model, torch.cat(list(model.held_out.images(model))), model.normalisation(), seed=3)
    torch.testing.assert_close(found, difference(model), atol=1e-4, rtol=1e-4)


def test_a_term_that_needs_anomalies_in_every_step_has_them(tiny_data: Callable, tmp_path: Path) -> None:
    """The published ratio alone: without anomalies there would be nothing to train."""
    model = build(loss={"pull": 0.0, "restore": 0.0, "contrast": 0.0, "ratio": 1.0}, noise={"start": 0.9})
    steps = spoilt_steps(model)
    fit(model, tiny_data(), tmp_path, max_steps=4)
    assert steps == [True] * 4


def test_another_fit_learns_anew(tiny_data: Callable, tmp_path: Path) -> None:
    model = fit(build(noise={"start": 0.5}), tiny_data(), tmp_path, max_steps=4)
    first = difference(model)
    fit(model, tiny_data(), tmp_path, max_steps=4)
    assert not torch.allclose(difference(model), first)


def test_a_student_that_may_have_seen_anomalies_is_not_learned_from(tiny_data: Callable, tmp_path: Path) -> None:
    """A resumed training that had anomalies from the first step, as under a time limit."""
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=4)
    fit(build(noise={"start": 0.0}), tiny_data(), tmp_path, keep, max_steps=4)
    model = build(noise={"start": 0.5})
    fit(model, tiny_data(), tmp_path, checkpoint=tmp_path / "step=4.ckpt", max_steps=6)
    assert not model.model.map_and_score.score_weights.learned


@pytest.mark.parametrize(("form", "prototypes"), [("uniform", 0), ("uniform", 4), ("fitted", 0)])
def test_known_images_are_read_only_where_they_are_needed(
    form: str, prototypes: int, tiny_data: Callable, tmp_path: Path
) -> None:
    model = build(scoring={"scale_adaptation": form, "prototypes": prototypes})
    asked, images = [], model.held_out.images

    def counted(*arguments: object, trained: bool = False) -> Iterator[torch.Tensor]:
        for batch in images(*arguments, trained=trained):
            asked.append(trained)
            yield batch

    model.held_out.images = counted
    fit(model, tiny_data(), tmp_path, max_steps=4)
    assert any(asked) == (form == "fitted" or prototypes > 0)
    assert prototypes == 0 or model.model.map_and_score.prototypes.fitted


def test_a_resumed_training_has_the_same_difference(tiny_data: Callable, tmp_path: Path) -> None:
    """Stopped before the first step with anomalies, just before it and after it."""
    keep = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=1)
    whole = fit(build(noise={"start": 0.5}), tiny_data(), tmp_path, keep, max_steps=6)
    for step in (2, 3, 4):
        resumed, checkpoint = build(noise={"start": 0.5}), tmp_path / f"step={step}.ckpt"
        fit(resumed, tiny_data(), tmp_path, checkpoint=checkpoint, max_steps=6)
        for name, value in whole.model.state_dict().items():
            torch.testing.assert_close(resumed.model.state_dict()[name], value, rtol=0, atol=0, msg=f"{step}: {name}")


def shapes(root: Path) -> Folder:
    """Portrait and landscape images, in batches of one for validation."""
    generator = torch.Generator().manual_seed(0)
    for kind, count in (("good", 16), ("bad", 2)):
        (root / kind).mkdir(parents=True)
        for index in range(count):
            noise = torch.rand(40, 30, generator=generator).mul(255).byte().numpy()
            Image.fromarray(noise if index % 2 else noise.T).save(root / kind / f"{index:02d}.png")
    split = {"test_split_mode": "from_dir", "val_split_mode": "same_as_test"}
    return Folder("shapes", "good", root, "bad", train_batch_size=4, eval_batch_size=1, num_workers=0, seed=0, **split)


def test_held_out_images_of_several_shapes(tmp_path: Path) -> None:
    """The aspect ratio is preserved, so batches of one image differ in size."""
    model = build(noise={"start": 0.5}, pre_processor=PreProcessor(transform=Resize(32)))
    fit(model, shapes(tmp_path / "images"), tmp_path / "results", max_steps=4)
    sizes = {tuple(images.shape[2:]) for images in model.held_out.images(model)}
    assert len(sizes) == 2
    assert model._held_out_images().shape[2:] == tuple(map(max, zip(*sizes, strict=True)))
    assert model.model.map_and_score.score_weights.fitted


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_held_out_images_that_need_much_memory_are_thinned(
    batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = build(pre_processor=False), shapes(tmp_path)
    data.setup()
    data.eval_batch_size = batch
    data.val_data.augmentations = Resize((32, 32))
    model.held_out = HeldOut(0.75)
    model.held_out.take(data)
    everything = model._held_out_images()
    assert len(everything) == 10
    monkeypatch.setattr(scale_weights, "_FEWEST_LARGE", 2)
    for room, step in ((10, 1), (9, 2), (5, 2), (4, 3), (3, 4), (1, 5)):
        monkeypatch.setattr(scale_weights, "_MEMORY", room * everything[0].nbytes)
        found = model._held_out_images()
        assert len(found) == len(everything[::step]), (room, len(found))
        assert torch.equal(found, everything[::step]), room
