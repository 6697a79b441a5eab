"""The models that the benchmark compares with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anomalib.data import Folder
from anomalib.models.image.reverse_distillation.loss import ReverseDistillationLoss

from anomalib_scrd.benchmark import baselines
from anomalib_scrd.benchmark.baselines import FittedLevels, NearestNeighbour, TimmReverseDistillation
from anomalib_scrd.benchmark.models import build_model
from tests.models import build_engine

PLACE = "anomalib_scrd.benchmark.baselines"
SMALL: dict[str, Any] = {"backbone": "resnet18", "pre_trained": False}


def trained(data: Callable[..., Folder], root: Path, **arguments: Any) -> NearestNeighbour:
    torch.manual_seed(0)
    model = build_model(f"{PLACE}.NearestNeighbour", SMALL | {"held_out": 0.0} | arguments, (64, 64))
    module = data(val_split_mode="none")
    build_engine(root, limit_val_batches=0, logger=False).fit(model, datamodule=module)
    assert isinstance(model, NearestNeighbour)
    return model.eval()


def features(model: NearestNeighbour, data: Callable[..., Folder], level: int) -> np.ndarray:
    """All normal patches of a level, (N, C) in float64."""
    module = data(val_split_mode="none")
    module.setup()
    found = []
    for item in module.train_data:
        images = model.pre_processor(item.image[None])
        found.append(model.model.teacher(images)[level][0].flatten(1).T.double().numpy())
    return np.concatenate(found)


def test_distances_are_those_of_slow_loops(tiny_data: Callable[..., Folder], tmp_path: Path) -> None:
    model = trained(tiny_data, tmp_path)  # fewer patches than it may keep: all are there
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    distances = model.model.distances(images)
    assert [tuple(level.shape) for level in distances] == [(2, 16, 16), (2, 8, 8), (2, 4, 4)]
    for level in (1, 2):
        normal = features(model, tiny_data, level)
        variance = normal.var(0, ddof=1)
        scale = np.sqrt(np.where(variance < 1e-4 * variance.mean(), variance.mean(), variance))  # some are dead
        taught = model.model.teacher(images)[level].double().numpy()
        for image in range(2):
            for row, column in ((0, 0), (1, 3), (3, 2)):
                apart = ((taught[image, :, row, column] - normal) / scale) ** 2
                expected = np.sqrt(apart.mean(1)).min()
                assert distances[level][image, row, column].item() == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_a_normal_patch_is_at_no_distance_from_itself(tiny_data: Callable[..., Folder], tmp_path: Path) -> None:
    model = trained(tiny_data, tmp_path)
    module = tiny_data(val_split_mode="none")
    module.setup()
    image = model.pre_processor(module.train_data[0].image[None])
    for level in model.model.distances(image):
        assert level.abs().max() < 0.01


def test_patches_are_an_even_draw_of_the_size_asked_for(tiny_data: Callable[..., Folder], tmp_path: Path) -> None:
    model = trained(tiny_data, tmp_path, patches=300)
    sizes = [len(model.model.get_buffer(f"bank_{level}")) for level in range(3)]
    assert sizes == [300, 300, 12 * 16]
    for level in range(3):
        bank = model.model.get_buffer(f"bank_{level}")
        assert bank.mean(0).abs().max() < 1e-4
        alive = bank.std(0) > 0.1
        assert alive.float().mean() > 0.8
        torch.testing.assert_close(bank.std(0)[alive], torch.ones(int(alive.sum())))
    # every image has its share: it has 256 of 3072 patches of the finest level, so about 25 of those kept
    normal = features(model, tiny_data, 0)
    kept = (
        model.model.get_buffer("bank_0") * model.model.get_buffer("scale_0") + model.model.get_buffer("mean_0")
    ).numpy()
    nearest = np.array([np.abs(normal - patch).sum(1).argmin() for patch in kept.astype(np.float64)])
    shares = np.bincount(nearest // 256, minlength=12)
    assert shares.min() >= 10
    assert shares.max() <= 45


def test_weights_are_fitted_on_images_that_gave_no_patches(
    tiny_data: Callable[..., Folder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    original = baselines.fit_weights

    def spy(model: Any, images: torch.Tensor, *args: Any) -> None:
        seen.append(images)
        original(model, images, *args)

    monkeypatch.setattr(baselines, "fit_weights", spy)
    model = trained(tiny_data, tmp_path, held_out=0.25)
    scoring = model.model.map_and_score
    assert len(seen[0]) == 3
    assert [len(model.model.get_buffer(f"bank_{level}")) for level in range(3)] == [9 * 256, 9 * 64, 9 * 16]
    assert all(level.amax() > 0.1 for level in model.model.distances(seen[0]))
    assert scoring.score_weights.fitted
    assert scoring.map_weights.fitted
    assert scoring.score_weights.weight.unique().numel() > 1
    # normal images have log odds below 0, and patches of noise above
    spoilt = seen[0].clone()
    spoilt[:, :, 16:48, 16:48] = 3 * torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert (model.model(seen[0]).pred_score < 0).all()
    assert (model.model(spoilt).pred_score > 0).all()
    module = tiny_data(val_split_mode="none")
    module.setup()
    assert len(module.train_data) == 12


def test_uniform_weights_are_equal(tiny_data: Callable[..., Folder], tmp_path: Path) -> None:
    model = trained(tiny_data, tmp_path, held_out=0.25, scale_adaptation="uniform", patches=50)
    weights = model.model.map_and_score
    assert weights.score_weights.weight.unique().numel() == 1
    assert weights.score_weights.spread.unique().numel() > 1  # standardised by the held-out images
    flat = FittedLevels(2, "uniform")([torch.full((1, 4, 4), 1.0), torch.full((1, 2, 2), 4.0)], (64, 64))
    torch.testing.assert_close(flat.anomaly_map, torch.full((1, 1, 64, 64), 1.25))  # half of the mean is subtracted
    torch.testing.assert_close(flat.pred_score, torch.tensor([(np.log(1.0001) + np.log(4.0001)) / 2]).float())


def test_reverse_distillation_on_another_backbone_is_anomalibs_but_for_two_parts() -> None:
    model = build_model(f"{PLACE}.TimmReverseDistillation", {"pre_trained": False, "depth": [1, 1, 1, 1]}, (64, 96))
    assert isinstance(model, TimmReverseDistillation)
    teacher, student = model.model.train()(torch.rand(2, 3, 64, 96))
    assert [feature.shape for feature in student] == [feature.shape for feature in teacher]
    assert isinstance(model.loss, ReverseDistillationLoss)
    own = build_model("ReverseDistillation", {"backbone": "resnet18", "pre_trained": False}, (64, 96))
    for name in ("mode", "image_size", "sigma"):
        assert getattr(model.model.anomaly_map_generator, name) == getattr(own.model.anomaly_map_generator, name)
    (group,) = model.configure_optimizers().param_groups
    trained_parameters = {id(parameter) for parameter in group["params"]}
    assert trained_parameters == {id(parameter) for parameter in model.model.decoder.parameters()}
    model.loss(teacher, student).backward()
    assert all(parameter.grad is not None for parameter in group["params"])
    predicted = model.model.eval()(torch.rand(2, 3, 64, 96))
    assert predicted.anomaly_map.shape == (2, 1, 64, 96)
    torch.testing.assert_close(predicted.pred_score.flatten(), predicted.anomaly_map.amax(dim=(1, 2, 3)))
