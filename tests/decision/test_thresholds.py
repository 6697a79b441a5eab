"""Thresholds by a rate and the calibrated score, against closed forms and simulations."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

from anomalib_scrd.decision.calibrated_score import calibrated, labels_and_outlines, uncalibrated
from anomalib_scrd.decision.thresholds import fewest_images, share_interval, threshold_by_rate, threshold_scale


def test_a_quantile_of_few_numbers_by_hand() -> None:
    values = np.arange(1.0, 20.0)  # 19: the 95 % position (19 + 1) 0.95 is the last
    assert threshold_by_rate(values, 0.05) == pytest.approx(19.0)
    assert threshold_by_rate(values, 0.1) == pytest.approx(18.0)
    assert threshold_by_rate(values, 0.125) == pytest.approx(17.5)
    assert fewest_images(0.05) == 19
    assert fewest_images(0.01) == 99
    assert fewest_images(0.5) == 1


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.01])
@pytest.mark.parametrize("draw", ["normal", "exponential"])
def test_the_rate_on_new_images_is_the_one_asked_for(rate: float, draw: str) -> None:
    rng = np.random.default_rng(0)
    law = {"normal": stats.norm, "exponential": stats.expon}[draw]
    for count in (100, 250):
        samples = law.rvs(size=(4000, count), random_state=rng)
        alarms = [law.sf(threshold_by_rate(sample, rate)) for sample in samples]
        # the interpolation between the two highest values of a skewed law costs a little at 1 % of 100
        assert np.mean(alarms) == pytest.approx(rate, rel=0.06)


@pytest.mark.parametrize("count", [2, 5, 8, 18])
def test_few_images_extrapolate(count: int) -> None:
    """Student's bound is exact for normal values; the largest value alone would be exceeded by 1 / (n + 1) of them."""
    rng = np.random.default_rng(1)
    alarms = [stats.norm.sf(threshold_by_rate(rng.normal(size=count), 0.05)) for _ in range(6000)]
    assert 0.03 < np.mean(alarms) <= 0.055
    assert 1 / (count + 1) > 0.05


def test_one_image_is_its_own_threshold() -> None:
    assert threshold_by_rate([2.5], 0.05) == 2.5


@pytest.mark.parametrize("rate", [0, 1, -0.1, 1.5, float("nan"), "x", True])
def test_a_rate_out_of_range_is_refused(rate: object) -> None:
    with pytest.raises(ValueError, match=r"false_alarm_rate must be in \(0, 1\), got"):
        threshold_by_rate([1.0, 2.0], rate)


@pytest.mark.parametrize("values", [[], [float("nan"), 1.0], [float("inf")]])
def test_values_that_are_none_are_refused(values: list) -> None:
    with pytest.raises(ValueError, match="values must be finite and at least one"):
        threshold_by_rate(values, 0.05)


def test_interval_of_a_share_by_its_definition() -> None:
    for count, total in ((0, 20), (3, 50), (20, 20), (7, 9)):
        low, high = share_interval(count, total)
        if count:
            assert stats.binom.sf(count - 1, total, low) == pytest.approx(0.025, rel=1e-3)
        if count < total:
            assert stats.binom.cdf(count, total, high) == pytest.approx(0.025, rel=1e-3)
    assert share_interval(0, 20)[0] == 0
    assert share_interval(20, 20)[1] == 1
    assert share_interval(0, 0) == (0.0, 1.0)


def test_the_scale_is_never_zero() -> None:
    assert threshold_scale(3.0, [1.0, 2.0, 3.0]) == pytest.approx(1.0)
    assert threshold_scale(2.0, [1.0, 2.0, 3.0]) == pytest.approx(np.std([1, 2, 3]))
    assert threshold_scale(2.0, [2.0, 2.0]) > 0
    assert threshold_scale(0.0, [0.0]) > 0
    assert threshold_scale(-4.0, []) == 4.0


def _calibrated(values: np.ndarray, threshold: float, scale: float) -> np.ndarray:
    return calibrated(torch.from_numpy(values), torch.tensor(threshold), torch.tensor(scale)).numpy()


def test_calibrated_scores_by_hand() -> None:
    values = np.array([1.0, 3.0, 5.0, 7.0, -1.0], np.float32)
    np.testing.assert_allclose(_calibrated(values, 3.0, 2.0), [0.25, 0.5, 0.75, 5 / 6, 1 / 6], rtol=1e-6)


@pytest.mark.parametrize(("threshold", "scale"), [(3.5, 1.7), (-12.0, 4.0), (0.001, 1e-4), (900.0, 30.0)])
def test_order_and_range_are_kept_far_out(threshold: float, scale: float) -> None:
    rng = np.random.default_rng(0)
    distance = np.sort(np.concatenate([-(10 ** rng.uniform(-3, 3, 5000)), 10 ** rng.uniform(-3, 3, 5000)]))
    values = (threshold + scale * distance).astype(np.float32)
    result = _calibrated(values, threshold, scale)
    assert ((result > 0) & (result < 1)).all()
    assert (np.diff(result) >= 0).all()
    # Values that differ by a thousandth of their distance from the threshold stay apart.
    real = (values.astype(np.float64) - threshold) / scale
    apart = values[np.concatenate([[True], np.diff(real) > 1e-3 * np.abs(real[1:])])]
    assert (np.diff(_calibrated(apart, threshold, scale)) > 0).all()
    np.testing.assert_array_equal(result > 0.5, values > np.float32(threshold))


def test_the_area_under_the_curve_is_that_of_the_raw_scores() -> None:
    """Also for scores far beyond those of validation, which a clamp would tie (0.867 became 0.856 on magnetic_tile)."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 200)
    raw = np.concatenate([rng.lognormal(0, 0.5, 200), rng.lognormal(1.5, 1.2, 200)]).astype(np.float32)
    threshold = threshold_by_rate(raw[:50])
    scores = _calibrated(raw, threshold, threshold_scale(threshold, raw[:50]))
    assert roc_auc_score(labels, scores) == roc_auc_score(labels, raw)
    assert len(np.unique(scores)) == len(np.unique(raw))
    clamped = np.clip((raw - threshold) / (raw[:50].max() - raw[:50].min()) + 0.5, 0, 1)
    assert roc_auc_score(labels, clamped) < roc_auc_score(labels, raw)


def test_without_a_threshold_values_stay() -> None:
    values = np.array([0.5, 40.0], np.float32)
    np.testing.assert_array_equal(_calibrated(values, float("nan"), float("nan")), values)


def test_raw_values_come_back() -> None:
    raw = torch.tensor([-40.0, 1.0, 3.0, 3.1, 60.0])
    threshold, scale = torch.tensor(3.0), torch.tensor(2.0)
    torch.testing.assert_close(
        uncalibrated(calibrated(raw, threshold, scale), threshold, scale), raw, rtol=1e-4, atol=0
    )
    ends = uncalibrated(torch.tensor([0.0, 1.0]), threshold, scale)
    assert ends.tolist() == [-float("inf"), float("inf")]


def test_a_score_that_is_not_a_number_is_anomalous() -> None:
    maps = torch.full((1, 2, 2), float("nan"))
    labels, masks = labels_and_outlines(torch.tensor([float("nan")]), maps, torch.tensor(0.5), torch.tensor(0.5))
    assert labels.tolist() == [True]
    assert not masks.any()


def test_label_and_outline_agree() -> None:
    rng = np.random.default_rng(0)
    maps = torch.from_numpy(rng.uniform(0, 0.45, (6, 8, 8)).astype(np.float32))
    maps[0, 2:4, 2:4] = 0.9  # called normal, though its map rises above the threshold
    maps[1, 5, 5] = 0.8
    maps[2, 1, 1] = 0.47  # called anomalous without a pixel above the threshold
    scores = torch.tensor([0.4, 0.9, 0.7, 0.5, 0.51, 0.2])
    labels, masks = labels_and_outlines(scores, maps, torch.tensor(0.5), torch.tensor(0.5))
    assert labels.tolist() == [False, True, True, False, True, False]
    assert masks.flatten(1).any(dim=1).tolist() == labels.tolist()
    assert masks[1].nonzero().tolist() == [[5, 5]]
    for index in labels.nonzero().flatten():
        peak = maps[index].argmax()
        assert masks[index].flatten()[peak]
    assert torch.equal(masks[2], maps[2] >= 0.9 * maps[2].max())
    assert labels_and_outlines(scores, None, torch.tensor(0.5), torch.tensor(0.5))[1] is None
    _, with_channel = labels_and_outlines(scores, maps[:, None], torch.tensor(0.5), torch.tensor(0.5))
    assert torch.equal(with_channel[:, 0], masks)
    _, raw = labels_and_outlines(scores, -maps, torch.tensor(0.5), torch.tensor(float("nan")))
    assert raw.flatten(1).any(dim=1).tolist() == labels.tolist()
