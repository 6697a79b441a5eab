"""Thresholds from few held-out images, to which the weights of the score are fitted as well."""

import numpy as np
import pytest
import torch

from anomalib_scrd.decision.thresholds import threshold_by_rate
from anomalib_scrd.scoring.fitted_weights import FittedWeights
from anomalib_scrd.scoring.fitting import left_out_scores

FEATURES = 36


def test_each_image_is_scored_by_weights_that_have_not_seen_it() -> None:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(5, FEATURES, generator=generator)
    anomalous = (normal + torch.rand(3, 1, FEATURES, generator=generator)).flatten(0, 1)
    changed = normal + torch.rand(2, 5, FEATURES, generator=generator)
    weights = FittedWeights(FEATURES)
    weights.fit(normal, anomalous)
    before = weights.weight.clone()
    found = left_out_scores(weights, normal, anomalous, None, changed)
    assert torch.equal(weights.weight, before)
    for index in range(5):
        own = FittedWeights(FEATURES)
        rows = [row for row in range(15) if row % 5 != index]
        others = [row for row in range(5) if row != index]
        own.fit(normal[others], anomalous[rows], None, changed[:, others])
        assert found[index].item() == pytest.approx(own(normal[index : index + 1]).item(), rel=1e-5)


def test_the_rate_on_new_images_is_near_the_one_asked_for() -> None:
    """Evidence that is correlated, as that of levels and extents is. Fitted to 6 images, their scores are too low."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(6, FEATURES, generator=generator)

    def draw(count: int) -> torch.Tensor:
        common = torch.randn(count, 6, generator=generator) @ mix
        return common + 0.7 * torch.randn(count, FEATURES, generator=generator)

    shifts = 2 * torch.rand(12, 1, FEATURES, generator=generator)
    rates: dict[str, list[float]] = {"fitted": [], "left out": [], "mean": []}
    for _ in range(30):
        normal = draw(6)
        anomalous = (normal + shifts).flatten(0, 1)
        weights = FittedWeights(FEATURES)
        weights.fit(normal, anomalous)
        fitted, left_out = weights(normal), left_out_scores(weights, normal, anomalous)
        new = weights(draw(1000))
        for name, scores in (("fitted", fitted), ("left out", left_out), ("mean", (fitted + left_out) / 2)):
            rates[name].append((new > threshold_by_rate(scores, 0.05)).float().mean().item())
    fitted_rate, left_out_rate, mean_rate = (float(np.mean(values)) for values in rates.values())
    assert fitted_rate > 0.2
    assert left_out_rate < 0.04
    assert 0.03 < mean_rate < 0.11
