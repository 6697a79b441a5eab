"""Every step has synthetic anomalies; the weights are fitted to held-out images."""

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
from anomalib_scrd.training import scale_weights
from anomalib_scrd.training.held_out import HeldOut
from tests.models import build_engine, build_model


def build(**arguments: object) -> ScaleAwareCRD:
    return build_model(**({"seed": 3, "layers": ["layer1", "layer2"]} | arguments))


def fit(
    model: ScaleAwareCRD, data: object, root: Path, *callbacks: Callback, checkpoint: Path | None = None, **length: Any
) -> ScaleAwareCRD:
    engine = build_engine(root, limit_val_batches=0, callbacks=list(callbacks), **length)
    engine.fit(model, datamodule=data, ckpt_path=checkpoint)
    return model


@pytest.mark.parametrize("length", [{"max_steps": 3}, {"max_epochs": -1, "max_time": {"seconds": 2}}])
def test_every_step_has_anomalies(length: dict, tiny_data: Callable, tmp_path: Path) -> None:
    model, steps = build(), []
    model.loss.register_forward_hook(
        lambda _m, _a, terms: steps.append(terms.push is not None and terms.restore is not None)
    )
    fit(model, tiny_data(), tmp_path, **length)
    assert len(steps) >= 3
    assert all(steps)


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


def test_a_resumed_training_has_the_same_weights(tiny_data: Callable, tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=1)
    whole = fit(build(), tiny_data(), tmp_path, keep, max_steps=4)
    for step in (1, 3):
        resumed, checkpoint = build(), tmp_path / f"step={step}.ckpt"
        fit(resumed, tiny_data(), tmp_path, checkpoint=checkpoint, max_steps=4)
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
    model = build(pre_processor=PreProcessor(transform=Resize(32)))
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
