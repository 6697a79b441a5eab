"""Changes of whole images, and their part in the weights of the score."""

import math

import pytest
import torch

from anomalib_scrd.noise import Normalisation
from anomalib_scrd.scoring.fitted_weights import FittedWeights
from anomalib_scrd.scoring.fitting import fit_weights
from anomalib_scrd.scoring.global_changes import CHANGES, moved, turned
from anomalib_scrd.torch_model import ScaleAwareCRDModel


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_a_shift_moves_every_pixel() -> None:
    x = images(2, 3, 64, 48)
    result = moved(x, pixels=2)
    torch.testing.assert_close(result[..., 2:, 2:], x[..., :-2, :-2], atol=1e-5, rtol=0)
    torch.testing.assert_close(result[..., 0, 2:], x[..., 2, :-2], atol=1e-5, rtol=0)  # mirrored
    torch.testing.assert_close(moved(x), x, atol=1e-5, rtol=0)


def test_a_rotation_is_about_the_centre_and_clockwise() -> None:
    """A bright spot to the right of the centre goes down by the angle's sine."""
    y, x = torch.meshgrid(torch.arange(65.0), torch.arange(65.0), indexing="ij")
    spot = torch.exp(-((x - 52).square() + (y - 32).square()) / 8)
    turned = moved(spot.expand(1, 3, -1, -1), degrees=10.0)[0, 0]
    weight = turned / turned.sum()
    assert (weight * y).sum().item() == pytest.approx(32 + 20 * math.sin(math.radians(10)), abs=0.2)
    assert (weight * x).sum().item() == pytest.approx(32 + 20 * math.cos(math.radians(10)), abs=0.2)


@pytest.mark.parametrize("size", [(32, 32), (16, 128), (128, 16), (1, 8), (1, 1)])
@pytest.mark.parametrize("degrees", [5.0, -5.0])
def test_no_corner_is_black(size: tuple[int, int], degrees: float) -> None:
    result = moved(torch.full((1, 3, *size), 0.7), degrees=degrees, pixels=max(size) // 30)
    assert result.shape == (1, 3, *size)
    if min(size) > 1:
        torch.testing.assert_close(result, torch.full_like(result, 0.7))


def test_each_image_is_turned_by_its_own_angle() -> None:
    """Of a bright spot to the right of the centre the angle is read: uniform in [-3, 3], by the generator's seed."""
    y, x = torch.meshgrid(torch.arange(65.0), torch.arange(65.0), indexing="ij")
    spot = torch.exp(-((x - 52).square() + (y - 32).square()) / 8).expand(200, 1, -1, -1)
    result = turned(spot, torch.Generator().manual_seed(5))[:, 0]
    weight = result / result.sum((1, 2), keepdim=True)
    down, right = (weight * y).sum((1, 2)) - 32, (weight * x).sum((1, 2)) - 32
    angles = torch.rad2deg(torch.atan2(down, right))
    assert -3.05 < angles.min() < -2.8
    assert 2.8 < angles.max() < 3.05
    assert abs(angles.mean()) < 0.4
    assert angles.std() == pytest.approx(3**0.5, abs=0.2)
    again, other = (turned(spot, torch.Generator().manual_seed(seed))[:, 0] for seed in (5, 6))
    assert torch.equal(again, result)
    assert not torch.allclose(other, result)


def test_gain_and_contrast() -> None:
    """Each image by its own mean; values stay in [0, 1]."""
    grey = torch.tensor([0.2, 0.4, 0.9]).view(1, 1, 1, 3).expand(1, 3, 1, 3)
    darker, brighter, flatter, steeper = (change(torch.cat([grey, 0 * grey]))[0, 0, 0] for change in CHANGES[2:])
    torch.testing.assert_close(darker, torch.tensor([0.18, 0.36, 0.81]))
    torch.testing.assert_close(brighter, torch.tensor([0.22, 0.44, 0.99]))
    torch.testing.assert_close(flatter, torch.tensor([0.245, 0.415, 0.84]), atol=1e-4, rtol=0)
    torch.testing.assert_close(steeper, torch.tensor([0.155, 0.385, 0.96]), atol=1e-4, rtol=0)
    assert all(bool(((y >= 0) & (y <= 1)).all()) for y in (change(images(2, 3, 16, 16)) for change in CHANGES))


@pytest.mark.parametrize("normalised", [True, False])
def test_weights_are_fitted_to_the_changed_images(monkeypatch: pytest.MonkeyPatch, normalised: bool) -> None:
    """The first 20 images, changed as values in [0, 1] and normalised again; fewer where there are fewer."""
    torch.manual_seed(0)
    model = ScaleAwareCRDModel(
        backbone="resnet18",
        layers=["layer1", "layer2"],
        pre_trained=False,
        student={"depth": 1},
        scoring={"prototypes": 0},
    )
    by = Normalisation(torch.tensor([0.4]), torch.tensor([0.2])) if normalised else None
    plain = images(22, 3, 32, 32)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    original = FittedWeights.fit

    def spy(self: FittedWeights, *arguments: torch.Tensor) -> None:
        if len(arguments) > 3:
            seen.append((arguments[0], arguments[3]))
        original(self, *arguments)

    monkeypatch.setattr(FittedWeights, "fit", spy)
    fit_weights(model, plain if by is None else by(plain), by, seed=0)
    ((normal, changed),) = seen
    assert changed.shape == (len(CHANGES), 20, normal.shape[1])
    model.eval()
    for index, change in enumerate(CHANGES):
        new = change(plain[:20])
        expected, _ = model.evidence(new if by is None else by(new))
        torch.testing.assert_close(changed[index], expected, atol=2e-4, rtol=1e-3)
