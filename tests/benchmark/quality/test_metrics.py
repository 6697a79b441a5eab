"""Metrics against slow references, scikit-learn and closed forms."""

import numpy as np
import pytest
import torch
from skimage.measure import label as connected
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score
from torchmetrics.functional.classification import binary_auroc

from anomalib_scrd.benchmark.quality import metrics


def _scores(count: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    return np.round(rng.normal(50, 1, count) + 0.7 * labels, 1).astype(np.float32), labels  # rounded: many ties


def _aupro(maps: np.ndarray, masks: np.ndarray) -> float:
    return metrics.pixel_metrics(maps, masks)["pixel_aupro"]


def test_auroc_around_fifty_is_scikit_learns_where_a_sigmoid_saturates() -> None:
    scores, labels = _scores()
    found = metrics.image_metrics(scores, labels)
    assert found["image_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert 0.6 < found["image_auroc"] < 0.9
    squashed = binary_auroc(torch.from_numpy(scores), torch.from_numpy(labels))  # applies the sigmoid
    assert float(squashed) == 0.5


def test_auroc_is_the_share_of_pairs_in_order() -> None:
    scores, labels = _scores(seed=1)
    pairs = [
        1.0 if high > low else 0.5 if high == low else 0.0
        for high in scores[labels == 1]
        for low in scores[labels == 0]
    ]
    assert metrics.image_metrics(scores, labels)["image_auroc"] == pytest.approx(np.mean(pairs), abs=1e-12)


@pytest.mark.parametrize("change", [lambda s: s + 1e3, lambda s: s * 1e-6, np.exp, lambda s: s.astype(np.float64) ** 3])
def test_metrics_depend_on_the_order_alone(change) -> None:
    scores, labels = _scores(seed=2)
    before = metrics.image_metrics(scores.astype(np.float64), labels)
    assert metrics.image_metrics(change(scores.astype(np.float64)), labels) == pytest.approx(before)


def test_best_threshold_is_the_best_of_all() -> None:
    scores, labels = _scores(seed=3)
    candidates = [-np.inf, *np.unique(scores)]
    found = metrics.image_metrics(scores, labels)
    assert found["f1_best_on_test"] == pytest.approx(max(f1_score(labels, scores > t) for t in candidates))
    assert found["accuracy_best_on_test"] == pytest.approx(max(accuracy_score(labels, scores > t) for t in candidates))


def test_f1_and_accuracy_are_scikit_learns() -> None:
    scores, labels = _scores(seed=4)
    found = metrics.thresholded_metrics(scores, labels, 50.3)
    assert found["f1"] == pytest.approx(f1_score(labels, scores > 50.3))
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, scores > 50.3))


def test_quantile_is_a_score_that_at_least_the_share_does_not_exceed() -> None:
    assert metrics.quantile_threshold(np.arange(1.0, 21.0), 0.95) == 19.0
    assert metrics.quantile_threshold(np.arange(1.0, 21.0), 0.96) == 20.0
    assert metrics.quantile_threshold(np.array([3.0]), 0.5) == 3.0


def test_aupro_is_that_of_the_definition() -> None:
    rng = np.random.default_rng(5)
    maps = rng.random((3, 16, 16)).astype(np.float32)
    masks = np.zeros((3, 16, 16), dtype=bool)
    masks[0, 2:5, 2:5] = masks[1, 0:8, 0:2] = masks[1, 12:14, 12:14] = True
    maps[masks] += 0.4
    regions = [(i, part == k) for i, m in enumerate(masks) for part in [connected(m)] for k in range(1, part.max() + 1)]
    assert len(regions) == 3
    rates, overlaps = [0.0], [0.0]
    for threshold in np.unique(maps)[::-1]:
        predicted = maps >= threshold
        rates.append(predicted[~masks].mean())
        overlaps.append(np.mean([predicted[index][region].mean() for index, region in regions]))
    grid = np.linspace(0, 0.3, 300_001)
    expected = np.interp(grid, rates, overlaps).mean()
    assert _aupro(maps, masks) == pytest.approx(expected, abs=1e-4)
    assert _aupro(maps * 40 + 50, masks) == pytest.approx(expected, abs=1e-4)


def test_aupro_of_perfect_inverted_and_constant_maps() -> None:
    masks = np.zeros((2, 12, 12), dtype=bool)
    masks[0, 3:6, 3:6] = masks[1, :2, :2] = True
    assert _aupro(masks.astype(np.float32), masks) == pytest.approx(1.0)
    assert _aupro(-masks.astype(np.float32), masks) == 0.0
    constant = np.full(masks.shape, 50, dtype=np.float32)
    assert _aupro(constant, masks) == pytest.approx(0.15)  # the diagonal up to 0.3, over 0.3


def test_scores_without_a_rank_are_refused() -> None:
    with pytest.raises(ValueError, match="2 of 3 image scores are not finite"):
        metrics.check_finite(np.array([1.0, np.nan, np.inf]), "image scores")


def test_pixels_are_ranked_over_all_images_together() -> None:
    rng = np.random.default_rng(6)
    maps, masks = rng.random((3, 8, 8)).astype(np.float32), rng.random((3, 8, 8)) < 0.2
    found = metrics.pixel_metrics(maps + 50, masks)
    high, low = maps[masks][:, None], maps[~masks][None, :]
    assert found["pixel_auroc"] == pytest.approx((high > low).mean())
    order = np.argsort(-maps.ravel())
    hits = masks.ravel()[order]
    precision = hits.cumsum() / np.arange(1, hits.size + 1)
    assert found["pixel_ap"] == pytest.approx(precision[hits].mean())
