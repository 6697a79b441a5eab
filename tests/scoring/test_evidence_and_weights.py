"""Evidence of an image, and the weights that are fitted to it: slow references, closed forms, invariants."""

import math

import numpy as np
import pytest
import torch

from anomalib_scrd.scoring.evidence import EXTENTS, evidence, extents
from anomalib_scrd.scoring.fitted_weights import FittedWeights
from tests import reference


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(5, 8), (7, 3), (1, 1), (16, 16)])
def test_extents_equal_the_loops(size: tuple[int, int]) -> None:
    maps = normal(2, 3, *size).abs()
    result = extents(maps)
    assert result.shape == (2, 3, len(EXTENTS))
    count = size[0] * size[1]
    for b in range(2):
        for m in range(3):
            values = sorted(maps[b, m].flatten().tolist(), reverse=True)
            tops = []
            for share in (0.25, 0.1, 0.02):
                number = max(1, round(share * count))
                tops.append(sum(values[:number]) / number)
            expected = [sum(values) / count, values[count // 2], *tops, values[0]]
            np.testing.assert_allclose(result[b, m].numpy(), expected, rtol=1e-5)


def test_extents_do_not_depend_on_places() -> None:
    maps = normal(1, 2, 8, 8)
    torch.testing.assert_close(extents(maps), extents(maps.flip(-1).roll(3, -2)))


def test_extents_tell_local_from_diffuse() -> None:
    """One bright place changes the largest value and not the median; a shift changes all equally."""
    flat = torch.full((1, 1, 20, 20), 0.2)
    spot = flat.clone()
    spot[..., 3, 4] = 0.9
    change = (extents(spot) - extents(flat))[0, 0]
    assert change[-1] == pytest.approx(0.7)
    assert change[1] == 0
    assert change[0] == pytest.approx(0.7 / 400, rel=1e-3)
    torch.testing.assert_close(extents(spot + 0.1), extents(spot) + 0.1)


def test_evidence_is_the_logarithm_map_by_map() -> None:
    maps = normal(2, 4, 6, 6).abs()
    result = evidence(maps)
    assert result.shape == (2, 24)
    np.testing.assert_allclose(result[1, 6:12].numpy(), np.log(extents(maps)[1, 1].numpy() + 1e-4), rtol=1e-5)
    assert evidence(-maps)[0, 0] == pytest.approx(math.log(1e-4))  # also for rounding below 0
    assert evidence(maps.half()).dtype == torch.float32


def test_fit_equals_the_loops() -> None:
    mixing = normal(5, 5, seed=3)
    normals, anomalous = normal(40, 5) @ mixing, normal(60, 5, seed=1) @ mixing + 2
    weights = FittedWeights(5)
    weights.fit(normals, anomalous)
    weight, bias = reference.discriminant(normals.double().numpy(), anomalous.double().numpy())
    np.testing.assert_allclose(weights.weight.numpy(), weight, rtol=1e-4)
    assert weights.bias.item() == pytest.approx(bias, rel=1e-4)
    assert weights.fitted


def test_images_that_the_student_knows_count_half_in_the_covariance() -> None:
    """Their mean and standard deviation are not used: the student was trained on these images."""
    mixing = normal(5, 5, seed=3)
    normals, anomalous = normal(12, 5) @ mixing, normal(60, 5, seed=1) @ mixing + 2
    trained = 0.5 * normal(200, 5, seed=2) @ mixing - 7
    weights = FittedWeights(5)
    weights.fit(normals, anomalous, trained)
    weight, bias = reference.discriminant(*(part.double().numpy() for part in (normals, anomalous, trained)))
    np.testing.assert_allclose(weights.weight.numpy(), weight, rtol=1e-4)
    assert weights.bias.item() == pytest.approx(bias, rel=1e-4)
    torch.testing.assert_close(weights.mean, normals.mean(0))
    alone = FittedWeights(5)
    alone.fit(normals, anomalous, trained[:1])  # one image has no covariance
    weights.fit(normals, anomalous)
    assert torch.equal(alone.weight, weights.weight)


@pytest.mark.parametrize("images", [12, 5])
@pytest.mark.parametrize("size", [0.01, 0.5, 1.0, 3.0, 30.0])
def test_changes_of_the_first_images_equal_the_loops(images: int, size: float) -> None:
    """Changes of any size, from one that needs no weight to one for which the largest is not enough."""
    mixing = normal(5, 5, seed=3)
    normals, anomalous = normal(12, 5) @ mixing, normal(60, 5, seed=1) @ mixing + 2
    changed = normals[:images] + size * (normal(3, images, 5, seed=4) @ mixing + torch.tensor([0.0, 2.0, 0, 9.0, 0]))
    weights = FittedWeights(5)
    weights.fit(normals, anomalous, None, changed)
    both = (part.double().numpy() for part in (normals, anomalous))
    weight, bias = reference.discriminant(*both, None, changed.numpy())
    np.testing.assert_allclose(weights.weight.numpy(), weight, rtol=1e-4, atol=1e-5)
    assert weights.bias.item() == pytest.approx(bias, rel=1e-4)


def test_what_responds_to_changes_counts_less() -> None:
    """Two features that see anomalies equally well; only the second one sees that an image was moved."""
    normals = normal(40, 2)
    anomalous, changed = normals + 2, normals[None, :20] + torch.tensor([0.0, 3.0])
    weights = FittedWeights(2)
    weights.fit(normals, anomalous)
    before = (weights(changed[0]) - weights(normals[:20])).mean() / weights(normals).std()
    weights.fit(normals, anomalous, None, changed)
    after = (weights(changed[0]) - weights(normals[:20])).mean() / weights(normals).std()
    assert before > 1.2
    assert 0.3 < after <= 0.5001
    assert 0 < weights.weight[1] < 0.7 * weights.weight[0]
    with pytest.raises(ValueError, match="not finite"):
        weights.fit(normals, anomalous, None, changed * math.nan)


@pytest.mark.parametrize("move", [torch.tensor([0.0, 0.5]), torch.tensor([0.0, -3.0])])
def test_changes_that_raise_no_alarm_cost_nothing(move: torch.Tensor) -> None:
    """Small ones, and those that lower the score."""
    normals = normal(40, 2)
    anomalous, weights, others = normals + 2, FittedWeights(2), FittedWeights(2)
    weights.fit(normals, anomalous, None, normals[None, :20] + move)
    others.fit(normals, anomalous)
    assert torch.equal(weights.weight, others.weight)


def test_score_is_the_log_odds_of_two_normal_distributions() -> None:
    """One feature, so that no shrinkage acts: log N(z; d, 1) - log N(z; 0, 1), up to the moments of the sample."""
    normals, anomalous = normal(20_000, 1), normal(20_000, 1, seed=1) + 1.5
    weights = FittedWeights(1)
    weights.fit(normals, anomalous)
    points = torch.linspace(-3, 4, 9).unsqueeze(1)
    expected = (points[:, 0].square() - (points[:, 0] - 1.5).square()) / 2
    torch.testing.assert_close(weights(points), expected, atol=0.08, rtol=0.02)


def test_midpoint_has_even_odds_and_the_order_is_right() -> None:
    normals, anomalous = normal(50, 6), normal(50, 6, seed=1) + 1
    weights = FittedWeights(6)
    weights.fit(normals, anomalous)
    middle = (normals.mean(0) + anomalous.mean(0)) / 2
    assert weights(middle.unsqueeze(0)).item() == pytest.approx(0, abs=0.2)
    assert weights(anomalous).mean() > 0 > weights(normals).mean()


def test_what_does_not_change_has_no_weight_and_what_does_counts() -> None:
    normals = normal(200, 3)
    anomalous = normals + torch.tensor([2.0, 0.0, 0.0])
    weights = FittedWeights(3)
    weights.fit(normals, anomalous)
    assert weights.weight[0] > 1
    assert weights.weight[1:].abs().max() < 0.1 * weights.weight[0]


def test_units_of_the_evidence_do_not_matter() -> None:
    normals, anomalous, test = normal(30, 4), normal(30, 4, seed=1) + 1, normal(10, 4, seed=2)
    scale, shift = torch.tensor([1.0, 10.0, 0.1, 3.0]), torch.tensor([0.0, 5.0, -2.0, 1.0])
    first, second = FittedWeights(4), FittedWeights(4)
    first.fit(normals, anomalous)
    second.fit(normals * scale + shift, anomalous * scale + shift)
    torch.testing.assert_close(first(test), second(test * scale + shift), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("length", "share"), [(1.0, 0.25), (0.5, 0.0)])
def test_effects_of_features_with_counterparts_get_their_length_and_a_share_of_them(
    length: float, share: float
) -> None:
    normals, anomalous = normal(40, 4), normal(60, 4, seed=1) + torch.tensor([1.0, 0.0, 2.0, 0.5])
    weights, alone = FittedWeights(4, [2, 3, 2, 3], length, share), FittedWeights(4)
    weights.fit(normals, anomalous)
    alone.fit(normals, anomalous)
    z = ((normals - normals.mean(0)) / normals.std(0, correction=0)).double().numpy()
    spoilt = ((anomalous - normals.mean(0)) / normals.std(0, correction=0)).double().numpy()
    covariance = np.cov(z.T)
    inverse = np.linalg.inv(0.3 * covariance + 0.7 * np.trace(covariance) / 4 * np.eye(4))
    own = spoilt.mean(0) - z.mean(0)
    factor = (np.hypot(own[2], own[3]) / np.hypot(own[0], own[1])) ** length
    mixed = [*((1 - share) * factor * own[:2] + share * own[2:]), *own[2:]]
    np.testing.assert_allclose(alone.weight, inverse @ own, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(weights.weight, inverse @ mixed, rtol=1e-3, atol=1e-4)
    assert weights.bias.item() == pytest.approx(-(inverse @ mixed) @ (z.mean(0) + np.array(mixed) / 2), rel=1e-3)


def test_a_larger_effect_of_what_was_trained_with_anomalies_changes_nothing() -> None:
    normals, effect = normal(40, 4), torch.tensor([1.0, 0.5, 2.0, 0.5])
    first, second = FittedWeights(4, [2, 3, 2, 3]), FittedWeights(4, [2, 3, 2, 3])
    first.fit(normals, normals + effect)
    second.fit(normals, normals + effect * torch.tensor([2.0, 2.0, 1.0, 1.0]))
    torch.testing.assert_close(first.weight, second.weight, atol=1e-4, rtol=1e-4)


def test_no_effect_on_features_with_counterparts_gives_no_error() -> None:
    normals, weights = normal(40, 4), FittedWeights(4, [2, 3, 2, 3])
    weights.fit(normals, normals + torch.tensor([0.0, 0.0, 1.0, 1.0]))
    assert weights.weight.isfinite().all()


def test_a_feature_far_out_is_clipped() -> None:
    weights = FittedWeights(2)
    weights.fit(normal(30, 2), normal(30, 2, seed=1) + 1)
    far, farther = weights(torch.tensor([[50.0, 0.0]])), weights(torch.tensor([[5000.0, 0.0]]))
    assert torch.equal(far, farther)


def test_maps_are_scored_place_by_place() -> None:
    weights, maps = FittedWeights(3), normal(2, 3, 4, 5)
    weights.fit(normal(50, 3), normal(50, 3, seed=1) + 1)
    result = weights(maps)
    assert result.shape == (2, 4, 5)
    torch.testing.assert_close(result[1, 2, 3], weights(maps[1, :, 2, 3].unsqueeze(0))[0])


def test_uniform_weights_are_equal() -> None:
    weights = FittedWeights(4)
    weights.fit(normal(30, 4), normal(30, 4, seed=1) + 1)
    weights.fit(normal(30, 4) * 3 + 1, None)
    assert torch.equal(weights.weight, torch.full((4,), 0.25))
    assert weights(normal(30, 4) * 3 + 1).mean() == pytest.approx(0, abs=1e-5)
    assert weights.fitted


@pytest.mark.parametrize("number", [2, 3])
def test_few_or_equal_images(number: int) -> None:
    """Fewer images than features, or equal ones: the weights are finite."""
    for normals in (normal(number, 8), torch.zeros(number, 8)):
        weights = FittedWeights(8)
        weights.fit(normals, normal(12, 8, seed=1) + 1)
        assert weights.weight.isfinite().all()
        assert weights(normal(3, 8)).isfinite().all()


def test_what_cannot_be_fitted_is_refused() -> None:
    weights = FittedWeights(2)
    with pytest.raises(ValueError, match="at least 2 held-out normal images, got 1"):
        weights.fit(normal(1, 2), normal(3, 2))
    with pytest.raises(ValueError, match="not finite"):
        weights.fit(torch.tensor([[0.0, math.nan], [1.0, 2.0]]), normal(3, 2))
    assert not weights.fitted


def test_state_comes_back() -> None:
    first, second = FittedWeights(3), FittedWeights(3)
    first.fit(normal(20, 3), normal(20, 3, seed=1) + 1)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(normal(5, 3)), second(normal(5, 3)))
    assert second.fitted


def test_half_precision_autocast_changes_nothing() -> None:
    weights, x = FittedWeights(3), normal(5, 3)
    weights.fit(normal(20, 3), normal(20, 3, seed=1) + 1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(weights(x), weights(x).float())
        result = weights(x)
    assert torch.equal(result, weights(x))
