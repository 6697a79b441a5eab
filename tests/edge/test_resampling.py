"""Metrics of the report against scikit-learn, SciPy, closed forms and simulation."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from anomalib_scrd.edge.records import Record
from anomalib_scrd.edge.report.cases import Case
from anomalib_scrd.edge.report.metrics import PixelCounts, image_metrics
from anomalib_scrd.edge.report.resampling import auroc, average_precision, bootstrap, pixel_auroc, pixel_dice, share


@pytest.mark.parametrize(("hits", "count"), [(0, 7), (1, 7), (7, 7), (37, 100), (495, 500)])
def test_share_is_wilsons(hits: int, count: int) -> None:
    interval = share(hits, count)
    expected = stats.binomtest(hits, count).proportion_ci(0.95, "wilson")
    assert interval.value == hits / count
    np.testing.assert_allclose((interval.low, interval.high), (expected.low, expected.high), atol=1e-12)


def test_share_of_nothing() -> None:
    assert math.isnan(share(0, 0).value)


class TestAuroc:
    @pytest.mark.parametrize("seed", range(5))
    def test_value(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        normal, anomalous = rng.integers(0, 12, 40) / 4.0, rng.integers(3, 15, 25) / 4.0  # with ties
        expected = roc_auc_score([0] * 40 + [1] * 25, np.concatenate([normal, anomalous]))
        interval = auroc(normal, anomalous)
        assert interval.value == pytest.approx(expected)
        assert 0 <= interval.low < interval.value < interval.high <= 1

    def test_covers_the_truth(self) -> None:
        """95 % of the intervals, up to the accuracy of 400 repetitions."""
        rng = np.random.default_rng(0)
        truth = stats.norm.cdf(1.2 / math.sqrt(2))
        inside = 0
        for _ in range(400):
            interval = auroc(rng.normal(0, 1, 40), rng.normal(1.2, 1, 60))
            inside += interval.low <= truth <= interval.high
        assert 0.92 < inside / 400 < 0.98

    def test_interval_of_perfect_scores(self) -> None:
        interval = auroc(np.arange(4.0), np.arange(4.0) + 10)
        assert (interval.value, interval.high) == (1, 1)
        assert interval.low == pytest.approx(share(4, 4).low)

    def test_one_kind(self) -> None:
        assert math.isnan(auroc(np.arange(3.0), np.empty(0)).value)


def test_average_precision() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 20, 80) / 5.0, rng.random(80) < 0.3
    assert average_precision(scores, labels) == pytest.approx(average_precision_score(labels, scores))


def test_bootstrap_of_a_mean() -> None:
    values = np.random.default_rng(0).normal(0, 1, 400)
    interval = bootstrap(lambda index: float(values[index].mean()), np.arange(400), np.empty(0, np.int64))
    half = 1.96 * values.std() / 20
    np.testing.assert_allclose((interval.low, interval.high), (values.mean() - half, values.mean() + half), atol=0.015)


class TestPixels:
    @pytest.fixture
    def cases(self) -> list[Case]:
        rng = np.random.default_rng(0)
        cases = []
        for index in range(12):
            mask = np.zeros((20, 30), bool)
            if index % 2:
                mask[5:12, 8:20] = True
            values = rng.normal(0.35, 0.1, mask.shape) + 0.2 * mask
            cases.append(Case(Record("x"), bool(index % 2), values, values.astype(np.float32), mask))
        return cases

    def test_against_all_pixels(self, cases: list[Case]) -> None:
        counts = PixelCounts(0.5)
        for case in cases:
            counts.add(case)
        normal, anomalous = counts.arrays()
        values = np.concatenate([case.anomaly_map.ravel() for case in cases])
        truth = np.concatenate([case.mask.ravel() for case in cases])
        area = pixel_auroc(normal, anomalous)
        assert area.value == pytest.approx(roc_auc_score(truth, values), abs=2e-4)
        assert area.low < area.value < area.high
        dice = pixel_dice(normal, anomalous, normal.shape[1] // 2)
        above = values > 0.5
        assert dice.value == pytest.approx(2 * (above & truth).sum() / (above.sum() + truth.sum()), rel=1e-9)
        assert dice.low < dice.value < dice.high

    def test_just_the_threshold_is_not_above_it(self) -> None:
        counts = PixelCounts(0.3)
        values = np.array([[0.3, np.nextafter(0.3, 1), -1.0, 5.0]])
        counts.add(Case(Record("x"), True, values, values, np.ones((1, 4), bool)))
        _, anomalous = counts.arrays()
        assert anomalous[0, 512:].sum() == 2


def test_metrics_of_one_kind() -> None:
    metrics = image_metrics([0.1, 0.7], [False, False], 0.5)
    assert metrics.auroc is None
    assert metrics.false_alarms is not None
    assert metrics.false_alarms.value == 0.5
    assert image_metrics([0.1], [None], None).false_alarms is None
