"""Means, intervals, paired differences and the choice on other sets, against closed forms, SciPy and slow loops."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from anomalib_scrd.benchmark.quality.intervals import (
    PairedScores,
    bootstrap_difference,
    bootstrap_mean,
    estimate,
    leave_one_set_out,
    paired_difference,
)


def test_interval_of_three_values_is_the_one_in_the_books() -> None:
    value = estimate([1.0, 2.0, 3.0])
    assert value.mean == 2.0
    assert value.high - value.mean == pytest.approx(4.302652729911275 / math.sqrt(3))  # t(0.975, 2 degrees of freedom)
    assert value.mean - value.low == pytest.approx(value.high - value.mean)


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    values = [estimate(sample) for sample in rng.normal(0.8, 0.02, (500, 3))]
    covered = np.mean([value.low <= 0.8 <= value.high for value in values])
    assert covered == pytest.approx(0.95, abs=0.03)


def test_one_value_has_no_interval_and_none_has_no_mean() -> None:
    assert math.isnan(estimate([0.7]).low)
    assert estimate([0.7]).mean == 0.7
    assert math.isnan(estimate([]).mean)
    assert estimate([]).size == 0


def test_paired_difference_is_scipys_and_takes_shared_seeds_only() -> None:
    candidate = pd.Series({0: 0.91, 1: 0.88, 2: 0.93, 7: 0.1})
    baseline = pd.Series({2: 0.90, 0: 0.86, 1: 0.85, 9: 0.99})
    value = paired_difference(candidate, baseline)
    expected = stats.ttest_rel([0.91, 0.88, 0.93], [0.86, 0.85, 0.90]).confidence_interval(0.95)
    assert value.size == 3
    assert (value.low, value.high) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_pairing_removes_what_the_seeds_have_in_common() -> None:
    baseline = pd.Series({0: 0.5, 1: 0.7, 2: 0.9})
    value = paired_difference(baseline + 0.02, baseline)
    assert value.mean == pytest.approx(0.02)
    assert value.high - value.low == pytest.approx(0, abs=1e-12)


def _pairs(gain: float, rng: np.random.Generator, sets: int = 3, seeds: int = 2) -> dict[str, list[PairedScores]]:
    made: dict[str, list[PairedScores]] = {}
    for name in range(sets):
        labels = np.repeat([0, 1], [40, 30])
        made[str(name)] = []
        for _ in range(seeds):
            reference = rng.normal(0, 1, 70) + labels
            candidate = rng.normal(0, 1, 70) + (1 + gain) * labels
            made[str(name)].append(PairedScores(candidate, reference, labels))
    return made


def _auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    return float((scores[labels == 1][:, None] > scores[labels == 0][None, :]).mean())


def _difference(pair: PairedScores, chosen: np.ndarray) -> float:
    labels = pair.labels[chosen]
    return _auroc(pair.candidate[chosen], labels) - _auroc(pair.reference[chosen], labels)


def test_bootstrap_is_that_of_slow_loops() -> None:
    pairs = _pairs(0.5, np.random.default_rng(1))
    rng, means = np.random.default_rng(2), []
    for _ in range(1000):
        drawn = []
        for name in rng.choice(list(pairs), len(pairs)):
            normal, anomalous = (np.flatnonzero(pairs[name][0].labels == label) for label in (0, 1))
            images = np.concatenate([rng.choice(normal, len(normal)), rng.choice(anomalous, len(anomalous))])
            seeds = rng.choice(len(pairs[name]), len(pairs[name]))
            drawn.append(np.mean([_difference(pairs[name][seed], images) for seed in seeds]))
        means.append(np.mean(drawn))
    expected = np.quantile(means, [0.025, 0.975])
    low, high = bootstrap_difference(pairs, resamples=4000)
    width = expected[1] - expected[0]
    assert (low, high) == pytest.approx(tuple(expected), abs=0.12 * width)
    assert bootstrap_difference(pairs, resamples=50, seed=3) == bootstrap_difference(pairs, resamples=50, seed=3)


def test_bootstrap_of_one_model_is_that_of_slow_loops_and_of_hanley_and_mcneil() -> None:
    pairs = _pairs(0.5, np.random.default_rng(5))
    rng, drawn = np.random.default_rng(6), {name: [] for name in pairs}
    for _ in range(1000):
        for name, seeds in pairs.items():
            normal, anomalous = (np.flatnonzero(seeds[0].labels == label) for label in (0, 1))
            images = np.concatenate([rng.choice(normal, len(normal)), rng.choice(anomalous, len(anomalous))])
            chosen = rng.choice(len(seeds), len(seeds))
            drawn[name].append(np.mean([_auroc(seeds[i].candidate[images], seeds[i].labels[images]) for i in chosen]))
    by_set, mean = bootstrap_mean(pairs, resamples=4000)
    assert list(by_set) == list(pairs)
    for found, values in [*zip(by_set.values(), drawn.values(), strict=True), (mean, np.mean(list(drawn.values()), 0))]:
        expected = np.quantile(values, [0.025, 0.975])
        assert found == pytest.approx(tuple(expected), abs=0.12 * (expected[1] - expected[0]))
    one = {"0": pairs["0"][:1]}
    (low, high), same = bootstrap_mean(one)[0]["0"], bootstrap_mean(one)[1]
    assert (low, high) == same
    area = _auroc(one["0"][0].candidate, one["0"][0].labels)  # Radiology 143, 1982: equations 1 and 2
    first, second = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (area * (1 - area) + 29 * (first - area**2) + 39 * (second - area**2)) / (30 * 40)
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(variance), rel=0.2)


def test_bootstrap_of_equal_models_is_a_point_and_ties_count_half() -> None:
    pairs = _pairs(0, np.random.default_rng(4))
    pairs = {name: [pair._replace(candidate=pair.reference) for pair in seeds] for name, seeds in pairs.items()}
    assert bootstrap_difference(pairs) == (0.0, 0.0)
    labels = np.array([0, 1])
    tied, right = np.array([1.0, 1.0]), np.array([0.0, 1.0])
    assert bootstrap_difference({"a": [PairedScores(right, tied, labels)]}) == (0.5, 0.5)


def test_a_variant_is_chosen_without_the_set_that_it_is_reported_on() -> None:
    index = pd.MultiIndex.from_product([["a", "b", "c"], [0, 1]], names=["data", "seed"])
    scores = pd.DataFrame(
        {
            "even": [0.80, 0.82, 0.80, 0.80, 0.80, 0.80],
            "tuned_to_a": [0.99, 0.99, 0.75, 0.75, 0.75, 0.75],
            "incomplete": [1.0, 1.0, 1.0, 1.0, np.nan, np.nan],
        },
        index=index,
    )
    found = leave_one_set_out(scores)
    assert list(found["chosen"]) == ["even", "tuned_to_a", "tuned_to_a"]
    assert list(found["left_out"]) == pytest.approx([0.81, 0.75, 0.75])
    assert list(found["others"]) == pytest.approx([0.80, 0.87, 0.87])
    assert list(found["best"]) == pytest.approx([0.99, 0.80, 0.80])
    assert leave_one_set_out(scores.loc[["a"]]).empty
    assert leave_one_set_out(scores[[]]).empty
