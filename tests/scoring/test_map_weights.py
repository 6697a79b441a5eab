"""Weights of the anomaly map: places against normal images and against the rest of their image."""

import math

import numpy as np
import pytest
import torch

from anomalib_scrd.scoring.map_weights import MapWeights
from tests import reference


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def fitted(maps: torch.Tensor, inside: torch.Tensor | None, *, uniform: bool = False) -> MapWeights:
    weights = MapWeights(maps.shape[1], uniform=uniform)
    weights.fit(maps, inside)
    return weights


def test_fit_equals_the_loops() -> None:
    """Fisher's discriminant of maps and means; an anomaly does not change the means."""
    maps = normal(7, 2, 3, 4) + 0.7 * normal(7, 2, 1, 1, seed=1) + 2
    inside = normal(9, 2, seed=2) + 4
    weights = fitted(maps, inside)
    rows, overall = [], np.zeros(2)
    for image in maps.double().numpy():
        means = [image[m].sum() / 12 for m in range(2)]
        overall += np.array(means) / 7
        rows += [[image[0, i, j], image[1, i, j], *means] for i in range(3) for j in range(4)]
    anomalous = [[*row, *overall] for row in inside.double().numpy()]
    weight, bias = reference.discriminant(np.array(rows), np.array(anomalous))
    np.testing.assert_allclose(weights.linear.weight.numpy(), weight, rtol=1e-4, atol=1e-5)
    assert weights.linear.bias.item() == pytest.approx(bias, rel=1e-4)
    torch.testing.assert_close(weights.linear.difference[2:], torch.zeros(2), atol=1e-5, rtol=0)


@pytest.mark.parametrize("share", [0.0, 0.5, 2.0])
def test_three_tenths_of_the_mean_of_one_map_are_subtracted(share: float) -> None:
    """Closed form, whatever normal images have in common: S = 0.3 C + 0.7 I of a place and its mean, d = (d, 0)."""
    maps = normal(40, 1, 8, 8) + share * normal(40, 1, 1, 1, seed=1)
    weights = fitted(maps, maps.mean() + 3 + normal(30, 1, seed=2))
    place, mean = (weights.linear.weight / weights.linear.spread).tolist()
    assert mean == pytest.approx(-0.3 * place, rel=0.02)
    assert place > 0


def test_means_of_another_image_can_be_given() -> None:
    maps = normal(6, 2, 4, 4) + normal(6, 2, 1, 1, seed=1)
    weights = fitted(maps, maps.mean(dim=(0, 2, 3)) + 2 + normal(5, 2, seed=2))
    means = maps.mean(dim=(2, 3))
    torch.testing.assert_close(weights(maps, means), weights(maps))
    moved = weights(maps, means + 0.1) - weights(maps)
    torch.testing.assert_close(moved, moved[:, :1, :1].expand_as(moved), atol=1e-4, rtol=1e-4)
    assert moved.abs().min() > 1e-3


@pytest.mark.parametrize("uniform", [True, False])
def test_before_a_fit_the_map_is_the_mean_of_the_maps(uniform: bool) -> None:
    maps = normal(3, 5, 4, 6)
    torch.testing.assert_close(MapWeights(5, uniform=uniform)(maps), maps.mean(dim=1))


def test_uniform_weights_standardise_only() -> None:
    maps = normal(10, 3, 4, 4) * 5 + 2
    rows = maps.movedim(1, -1).flatten(0, 2)
    standardised = (maps - rows.mean(0)[:, None, None]) / rows.std(0, correction=0)[:, None, None]
    torch.testing.assert_close(fitted(maps, None, uniform=True)(maps), standardised.mean(dim=1))


def test_distances_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        fitted(normal(4, 2, 3, 3) * math.nan, normal(3, 2))
