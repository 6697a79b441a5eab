"""Means, intervals and paired differences against closed forms and SciPy."""

import math

import numpy as np
import pytest
from scipy import stats

from anomalib_scrd.benchmark.quality.intervals import best_name, estimate, paired_difference
from anomalib_scrd.benchmark.quality.report import macro_average


def test_interval_of_three_values_is_the_one_in_the_books() -> None:
    value = estimate([1.0, 2.0, 3.0])
    assert value.mean == 2.0
    assert value.half_width == pytest.approx(4.302652729911275 / math.sqrt(3))  # t(0.975, 2 degrees of freedom)
    assert (value.low, value.high) == (pytest.approx(2 - value.half_width), pytest.approx(2 + value.half_width))


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    values = [estimate(sample) for sample in rng.normal(0.8, 0.02, (4000, 3))]
    covered = np.mean([value.low <= 0.8 <= value.high for value in values])
    assert covered == pytest.approx(0.95, abs=0.015)


def test_one_value_has_no_interval_and_none_has_no_mean() -> None:
    assert math.isnan(estimate([0.7]).half_width)
    assert estimate([0.7]).mean == 0.7
    assert math.isnan(estimate([]).mean)


def test_paired_difference_is_scipys_and_takes_shared_seeds_only() -> None:
    candidate = {0: 0.91, 1: 0.88, 2: 0.93, 7: 0.1}
    baseline = {2: 0.90, 0: 0.86, 1: 0.85, 9: 0.99}
    value = paired_difference(candidate, baseline)
    expected = stats.ttest_rel([0.91, 0.88, 0.93], [0.86, 0.85, 0.90]).confidence_interval(0.95)
    assert value.count == 3
    assert (value.low, value.high) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_pairing_removes_what_the_seeds_have_in_common() -> None:
    baseline = {0: 0.5, 1: 0.7, 2: 0.9}
    value = paired_difference({seed: score + 0.02 for seed, score in baseline.items()}, baseline)
    assert value.mean == pytest.approx(0.02)
    assert value.half_width == pytest.approx(0, abs=1e-12)


def test_best_baseline_has_the_highest_mean_not_the_highest_value() -> None:
    assert best_name({"steady": {0: 0.8, 1: 0.8}, "lucky": {0: 0.95, 1: 0.5}}) == "steady"
    assert best_name({"nothing": {}}) is None


def test_average_over_data_sets_wants_every_set() -> None:
    def result(data: str, model: str, seed: int, score: float) -> dict:
        return {"status": "ok", "data": data, "model": model, "seed": seed, "metrics": {"image_auroc": score}}

    results = [
        result("a", "full", 0, 0.8),
        result("b", "full", 0, 0.6),
        result("a", "full", 1, 0.9),
        result("a", "half", 0, 0.99),
    ]
    assert macro_average(results, ["a", "b"], "image_auroc") == {"full": {0: pytest.approx(0.7)}}
