"""Anomaly map, smoothing, calibration, scale weights and score."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from anomalib_scrd.components.scale_adaptation import ScaleAdaptation, scale_weights
from anomalib_scrd.scoring.anomaly_map import AnomalyMap, joined_scales
from anomalib_scrd.scoring.image_score import image_score, map_level, map_peak
from anomalib_scrd.scoring.map_standardisation import MapCalibration, PeakCalibration, averaging_rate
from anomalib_scrd.scoring.smoothing import AxisMatrices, gaussian_kernel, resized, smoothed
from tests import reference


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("merge", ["norm", "max", "mean"])
def test_map_equals_the_loops(merge: str) -> None:
    scales = [rand(2, 8, 6), rand(2, 4, 3, seed=1), rand(2, 2, 2, seed=2)]
    merging = AnomalyMap(merge, sigma=1.0, broad_weight=0)  # type: ignore[arg-type]
    result = merging.merged(merging.scales(scales, (16, 12)), (16, 12))
    assert result.shape == (2, 1, 16, 12)
    for b in range(2):
        smooth = [reference.smooth(reference.bilinear(scale[b].numpy(), 16, 12), 1.0) for scale in scales]
        norm = np.sqrt(sum(np.log1p(np.exp(one)) ** 2 for one in smooth))
        merged = {"norm": norm, "max": np.max(smooth, axis=0), "mean": np.mean(smooth, axis=0)}[merge]
        np.testing.assert_allclose(result[b, 0].numpy(), merged, atol=1e-5)


def test_wide_smoothing_on_every_second_pixel_is_that_of_all() -> None:
    """The map of sigma 4 against the loops on its own grid, and against the smoothing of every pixel."""
    scales = [rand(1, 16, 12) ** 4, rand(1, 8, 6, seed=1) ** 4]
    merging = AnomalyMap("mean", sigma=4.0, broad_weight=0)
    grid = merging.scales(scales, (64, 47))
    assert grid.shape == (1, 2, 32, 24)
    for k, scale in enumerate(scales):
        expected = reference.smooth(reference.bilinear(scale[0].numpy(), 32, 24), 2.0)
        np.testing.assert_allclose(grid[0, k].numpy(), expected, atol=1e-5)
    result = merging.merged(grid, (64, 47))[0, 0].numpy()
    np.testing.assert_allclose(result, reference.bilinear(grid[0].mean(0).numpy(), 64, 47), atol=1e-5)
    every = np.mean([reference.smooth(reference.bilinear(s[0].numpy(), 64, 47), 4.0) for s in scales], axis=0)
    assert np.abs(result - every).max() < 0.1 * (every.max() - every.min())
    assert np.corrcoef(result.ravel(), every.ravel())[0, 1] > 0.995


def test_broad_maps_are_those_of_the_wider_kernel() -> None:
    """The pyramid against the loops, step for step, and against one wide smoothing of every pixel."""
    scales = [rand(1, 16, 12), rand(1, 8, 6, seed=1) ** 4, rand(1, 4, 3, seed=2)]
    merging = AnomalyMap(sigma=4.0)
    fine = merging.scales(scales, (64, 48))
    maps = merging.all_maps(scales, (64, 48))
    assert maps.shape == (1, 5, 32, 24)
    assert merging.number(3) == 5
    assert torch.equal(maps[:, :3], fine)
    for k in (1, 2):
        small = reference.bilinear(fine[0, k].numpy(), 8, 6)
        further = reference.smooth(small, math.sqrt(16**2 - 4**2) / 8, mode="edge")
        np.testing.assert_allclose(maps[0, 2 + k].numpy(), reference.bilinear(further, 32, 24), atol=1e-5)
    for without in (AnomalyMap(broad_weight=0), AnomalyMap(sigma=0)):
        assert torch.equal(without.all_maps(scales, (64, 48)), without.scales(scales, (64, 48)))
        assert without.number(3) == 3


def test_maps_that_are_merged() -> None:
    """Fine ones of all scales but the coarsest, broad ones of all but the finest, each by the weight of its scale."""
    maps, weights = rand(2, 5, 4, 4), torch.tensor([[0.5, 1.0, 2.0], [3.0, 4.0, 5.0]])
    shown = AnomalyMap(broad_weight=0.1).shown(maps, weights)
    for b, (first, second, third) in enumerate(weights.tolist()):
        expected = [
            first * maps[b, 0],
            second * maps[b, 1],
            0.1 * second * maps[b, 3],
            0.1 * third * maps[b, 4],
        ]
        torch.testing.assert_close(shown[b], torch.stack(expected))
    plain = AnomalyMap(broad_weight=0).shown(maps[:, :3], weights)
    torch.testing.assert_close(plain, maps[:, :3] * weights[..., None, None])


def test_broad_smoothing_of_one_place_is_a_wide_gaussian() -> None:
    place = torch.zeros(1, 48, 48)
    place[0, 20, 27] = 1
    merging = AnomalyMap("mean", sigma=4.0)
    maps = merging.all_maps([torch.zeros_like(place), place], (192, 192))
    result = merging.merged(maps[:, 2:], (192, 192))[0, 0].numpy()
    expected = gaussian_filter(reference.bilinear(place[0].numpy(), 192, 192), 16.0)
    assert np.abs(result - expected).max() < 0.1 * expected.max()
    assert result.sum() == pytest.approx(expected.sum(), rel=0.02)


@pytest.mark.parametrize("size", [(128, 96), (75, 61), (512, 40), (40, 1030)])
def test_the_merged_map_is_interpolated(size: tuple[int, int]) -> None:
    """By a product of matrices or, where that would take longer, by the interpolation itself."""
    maps = rand(2, 3, -(-size[0] // 2), -(-size[1] // 2))
    expected = torch.nn.functional.interpolate(maps.mean(1, keepdim=True), size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(AnomalyMap("mean").merged(maps, size), expected)


@pytest.mark.parametrize("size", [(16, 16), (50, 70), (33, 31)])
def test_maps_of_any_size(size: tuple[int, int]) -> None:
    merging = AnomalyMap("mean")
    maps = merging.all_maps([torch.full((2, 4, 4), 0.5)] * 2, size)
    torch.testing.assert_close(merging.merged(maps, size), torch.full((2, 1, *size), 0.5))


def test_a_faint_large_anomaly_shows_in_the_broad_map() -> None:
    """A third of a standard deviation over a quarter of an image of noise."""
    maps = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    normal = torch.randn(64, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    maps[..., :16, :16] += 1 / 3
    merging, calibration = AnomalyMap(), MapCalibration(3)

    def all_maps(distances: torch.Tensor) -> torch.Tensor:
        return merging.all_maps([distances[:, 0]] * 2, (128, 128))

    calibration.update(all_maps(normal))
    _, fine, broad = calibration(all_maps(maps))[0]
    inside = (slice(0, 32), slice(0, 32))
    assert broad[inside].mean() > 1.5 * fine[inside].mean()


def test_kernel_sums_to_one_and_has_the_variance() -> None:
    kernel = gaussian_kernel(4.0).double()
    offsets = torch.arange(-16, 17, dtype=torch.float64)
    assert kernel.shape == (33,)
    assert kernel.sum().item() == pytest.approx(1.0, abs=1e-6)
    assert (kernel * offsets.square()).sum().item() == pytest.approx(16.0, rel=2e-2)


def test_smoothing_keeps_constants_and_short_signals() -> None:
    for length in (5, 17, 40):
        signals = torch.full((1, length), 3.0)
        torch.testing.assert_close(smoothed(signals, 4.0), signals)
    signals = rand(1, 9)
    assert torch.equal(smoothed(signals, 0), signals)


def test_a_matrix_for_each_axis_is_the_operation_on_maps() -> None:
    """Against the loops in two dimensions, for maps that grow along one axis and shrink along the other."""
    maps = rand(2, 3, 7, 20)
    result = AxisMatrices(lambda signals, length: smoothed(resized(signals, length), 1.5))(maps, (16, 11))
    assert result.shape == (2, 3, 16, 11)
    for b in range(2):
        for k in range(3):
            expected = reference.smooth(reference.bilinear(maps[b, k].numpy(), 16, 11), 1.5)
            np.testing.assert_allclose(result[b, k].numpy(), expected, atol=1e-5)


def test_matrices_are_built_once_and_stay_out_of_copies() -> None:
    calls = []

    def function(signals: torch.Tensor, length: int) -> torch.Tensor:
        calls.append(length)
        return resized(signals, length)

    matrices, maps = AxisMatrices(function), rand(1, 1, 4, 6)
    first = matrices(maps, (8, 9))
    assert torch.equal(matrices(maps, (8, 9)), first)
    assert calls == [8, 9]
    assert torch.equal(copy.deepcopy(matrices)(maps, (8, 9)), first)
    assert calls == [8, 9, 8, 9]


def test_matrices_of_an_inference_serve_a_gradient() -> None:
    """Lightning validates in inference mode, whose own tensors autograd refuses."""
    matrices, maps = AxisMatrices(resized), rand(1, 1, 4, 4)
    with torch.inference_mode():
        matrices(maps, (8, 8))
    maps.requires_grad_()
    matrices(maps, (8, 8)).sum().backward()
    assert maps.grad.sum().item() == pytest.approx(64)


def test_maps_stay_in_float32_under_autocast() -> None:
    maps = rand(1, 1, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        result = AnomalyMap(sigma=2.0).scales([maps[0]], (32, 32))
    assert torch.equal(result, AnomalyMap(sigma=2.0).scales([maps[0]], (32, 32)))


def test_scores_in_closed_form() -> None:
    maps = torch.arange(100.0).view(1, 1, 10, 10)
    assert image_score(maps, "mean").item() == pytest.approx(49.5)
    assert image_score(maps, "max").item() == 99
    assert image_score(maps, "top_k", 0.1, level=0).item() == pytest.approx(94.5)
    assert image_score(maps, "top_k", 1.0, level=0).item() == pytest.approx(49.5)
    assert image_score(maps, "top_k", 1e-9, level=0).item() == 99
    with pytest.raises(ValueError, match=r"score must be one of .*'median'"):
        image_score(maps, "median")  # type: ignore[arg-type]


def test_scores_ignore_where_the_anomaly_is() -> None:
    maps = rand(3, 1, 12, 9)
    moved = maps.flip(-1).roll(4, dims=-2)
    for kind in ("mean", "max", "top_k"):
        torch.testing.assert_close(image_score(maps, kind, level=0), image_score(moved, kind, level=0))


def test_level_is_the_median_of_the_grid() -> None:
    maps = rand(3, 1, 37, 50)
    grid = maps[..., ::2, ::2].flatten(1).numpy()
    expected = [sorted(row)[grid.shape[1] // 2] for row in grid.tolist()]
    np.testing.assert_allclose(map_level(maps)[:, 0].numpy(), expected, rtol=1e-6)


def test_what_a_shift_leaves_in_the_score() -> None:
    """A map that shifts as a whole moves the score by the share 1 - level, a local anomaly by all of it."""
    flat, local = torch.zeros(1, 1, 64, 64), torch.zeros(1, 1, 64, 64)
    local[..., 8:24, 8:24] = 1.0
    for level in (0.0, 0.5, 1.0):
        assert image_score(flat + 1, "top_k", level=level).item() == pytest.approx(1 - level)
        assert image_score(local, "top_k", level=level).item() == pytest.approx(1.0)


def test_peak_against_the_loops() -> None:
    maps = rand(2, 3, 11, 7)
    peaks = map_peak(maps, top_k=0.1, level=0.5)
    for b in range(2):
        for k in range(3):
            values = sorted(maps[b, k].flatten().tolist(), reverse=True)
            grid = sorted(maps[b, k, ::2, ::2].flatten().tolist())
            expected = sum(values[:7]) / 7 - 0.5 * grid[len(grid) // 2]
            assert peaks[b, k].item() == pytest.approx(expected, abs=1e-6)


def test_peaks_and_levels_of_thinned_maps_are_those_of_all_pixels() -> None:
    """Maps with one anomaly in the noise: their peaks against those of every pixel, in units of the peaks' spread."""
    distances = rand(32, 32, 32)
    for image, distance in enumerate(distances):
        distance[image // 2 : image // 2 + 5, 8:12] += 0.05 * image
    merging = AnomalyMap(sigma=4.0)
    maps = merging.scales([distances], (128, 128))
    thin = merging.thinned(maps)
    assert torch.equal(thin, maps[..., ::2, ::2])
    torch.testing.assert_close(merging.thin_scales([distances], (128, 128)), thin)
    for top_k, level in ((0.02, 1.0), (0.1, 0.5)):
        every, few = map_peak(maps, top_k, level)[:, 0], map_peak(thin, top_k, level)[:, 0]
        assert ((every - few).std() / every.std()).item() < 0.05
        assert torch.corrcoef(torch.stack([every, few]))[0, 1].item() > 0.998
    for sigma in (0.0, 1.0):
        rough = AnomalyMap(sigma=sigma)
        assert rough.thinned(maps).shape == maps.shape


def test_score_of_the_scales_in_closed_form() -> None:
    deviations = torch.tensor([[3.0, -1.0], [0.0, 0.0], [-50.0, -50.0], [40.0, 30.0]])
    expected = [math.hypot(math.log(1 + math.exp(a)), math.log(1 + math.exp(b))) for a, b in deviations.tolist()]
    np.testing.assert_allclose(joined_scales(deviations).numpy(), expected, rtol=1e-5, atol=1e-9)
    assert joined_scales(deviations)[3].item() == pytest.approx(50.0, rel=1e-5)


def weights_of_batches(number: int, reach: int) -> np.ndarray:
    """The weight that each batch has in the end, from the rates one after the other."""
    weights = np.zeros(number)
    for n in range(1, number + 1):
        rate = reach / (n + reach - 1)
        weights *= 1 - rate
        weights[n - 1] = rate
    return weights


@pytest.mark.parametrize("reach", [1, 5, 20])
def test_averages_reach_back_over_the_same_share_of_any_training(reach: int) -> None:
    for number in (200, 2000):
        rates = [averaging_rate(torch.tensor(float(n)), reach).item() for n in range(1, number + 1)]
        np.testing.assert_allclose(rates, [reach / (n + reach - 1) for n in range(1, number + 1)], rtol=1e-6)
        weights = weights_of_batches(number, reach)
        assert weights.sum() == pytest.approx(1)
        age = (weights * np.arange(number)[::-1]).sum()
        assert age / number == pytest.approx(1 / (reach + 1), abs=0.005)
    if reach == 1:
        np.testing.assert_allclose(weights, 1 / number, rtol=1e-9)


@pytest.mark.parametrize(("reach", "size"), [(1, 4), (10, 4), (10, 1)])
def test_peak_calibration_against_numpy(reach: int, size: int) -> None:
    """Weighted mean and unbiased weighted variance of all peaks at once."""
    calibration = PeakCalibration(2, reach)
    batches = [rand(size, 2, seed=s) * torch.tensor([0.1, 20.0]) + torch.tensor([3.0, -5.0]) for s in range(8)]
    assert torch.equal(calibration(batches[0]), batches[0])  # nothing seen: nothing changed
    for batch in batches:
        calibration.update(batch)
    peaks = torch.cat(batches).double().numpy()
    weights = np.repeat(weights_of_batches(8, reach) / size, size)[:, None]
    mean = (weights * peaks).sum(0)
    variance = (weights * (peaks - mean) ** 2).sum(0) / (1 - (weights**2).sum())
    if reach == 1:
        np.testing.assert_allclose(variance, peaks.var(0, ddof=1), rtol=1e-9)
    expected = (batches[0].numpy() - mean) / np.sqrt(variance)
    np.testing.assert_allclose(calibration(batches[0]).numpy(), expected, rtol=1e-4, atol=1e-4)


def test_one_peak_tells_no_spread() -> None:
    """A training with small batches shows the calibration one image at a time."""
    calibration = PeakCalibration(2)
    peaks = rand(2, 2)
    calibration.update(peaks[:1])
    torch.testing.assert_close(calibration(peaks[1:]), peaks[1:] - peaks[:1])  # a spread of 1, not of nothing
    calibration.update(peaks[1:])
    assert (calibration(peaks[:1]) - calibration(peaks[1:])).abs().tolist()[0] == pytest.approx([2**0.5] * 2, rel=1e-3)


def test_peaks_of_an_untrained_student_are_forgotten() -> None:
    """Distances that fall over the training leave no trace in what counts as normal at its end."""
    calibration = PeakCalibration(1)
    for step in range(600):
        calibration.update(
            1 + 4 * math.exp(-step / 100) + 0.1 * torch.randn(4, 1, generator=torch.Generator().manual_seed(step))
        )
    assert calibration.mean.item() == pytest.approx(1.0, abs=0.05)
    assert calibration(torch.tensor([[2.0]])).item() == pytest.approx(10, rel=0.15)


def test_a_scale_with_high_peaks_in_normal_images_does_not_outvote_the_others() -> None:
    """Two scales with standardised pixels, one of them with a bright speck in every normal image."""

    def images(count: int, seed: int) -> torch.Tensor:
        maps = torch.randn(count, 2, 32, 32, generator=torch.Generator().manual_seed(seed)) * 0.2
        maps[:, 1, 4:9, 4:9] += 8 + rand(count, 1, 1, seed=seed + 1)
        return maps

    calibration = PeakCalibration(2)
    calibration.update(map_peak(images(64, 0)))
    normal, anomalous = images(16, 2), images(16, 4)
    anomalous[:, 0, 20:26, 20:26] += 2
    scores = [joined_scales(calibration(map_peak(maps))) for maps in (normal, anomalous)]
    assert scores[1].min() > scores[0].max()
    merged = [map_peak(maps.amax(1, keepdim=True))[:, 0] for maps in (normal, anomalous)]
    assert merged[1].min() < merged[0].max()


@pytest.mark.parametrize("mode", ["scale", "position"])
def test_calibration_against_numpy(mode: str) -> None:
    """With a reach of 1 the averages are plain means."""
    calibration = MapCalibration(2, mode, reach=1)  # type: ignore[arg-type]
    units = torch.tensor([[[0.1]], [[2.0]]])
    batches = [rand(4, 2, 6, 5, seed=s) * units + 3 * units for s in range(8)]
    for batch in batches:
        calibration.update(batch)
    result = calibration(batches[0])
    for index in range(2):
        stack = np.stack([batch[:, index].numpy() for batch in batches]).astype(np.float64)
        running, square = 0.0, 0.0
        for n, data in enumerate(stack, start=1):
            mean = data.mean(0) if mode == "position" else data.mean()
            running = running + (mean - running) / n
            square = square + (((data - running) ** 2).mean() - square) / n
        expected = (stack[0] - running) / math.sqrt(square)
        np.testing.assert_allclose(result[:, index].numpy(), expected, rtol=1e-4, atol=1e-4)
    overall = torch.cat([calibration(batch)[:, 0].flatten() for batch in batches])
    assert overall.mean().abs() < 0.05
    assert overall.std().item() == pytest.approx(1.0, abs=0.1)


def test_calibration_before_the_first_batch_and_none_change_nothing() -> None:
    maps = rand(2, 1, 4, 4)
    for mode in ("none", "scale", "position"):
        assert torch.equal(MapCalibration(1, mode)(maps), maps)


def test_calibration_comes_back_from_a_checkpoint_and_serves_other_sizes() -> None:
    calibration = MapCalibration(2, "position")
    calibration.update(rand(4, 2, 6, 5))
    fresh = MapCalibration(2, "position")
    fresh.load_state_dict(calibration.state_dict())
    assert torch.equal(fresh(rand(1, 2, 6, 5)), calibration(rand(1, 2, 6, 5)))
    assert fresh(rand(1, 2, 9, 9)).shape == (1, 2, 9, 9)
    fresh.update(rand(2, 2, 9, 9))
    assert fresh.mean.shape == (2, 6, 5)
    with pytest.raises(RuntimeError, match="size mismatch"):
        MapCalibration(3, "position").load_state_dict(calibration.state_dict())


def test_calibration_makes_scales_comparable() -> None:
    calibration = MapCalibration(2, "scale")
    maps = torch.stack([rand(64, 8, 8) * 1e-3, rand(64, 8, 8, seed=1) * 10 + 5], dim=1)
    calibration.update(maps)
    first, second = calibration(maps).unbind(1)
    assert first.std().item() == pytest.approx(second.std().item(), rel=1e-3)


def test_calibration_mode_is_checked() -> None:
    with pytest.raises(ValueError, match="calibration must be one of"):
        MapCalibration(1, "pixel")  # type: ignore[arg-type]


def test_scale_weights_in_closed_form() -> None:
    log_expected = torch.tensor([[math.log(0.01), math.log(0.04), math.log(0.16)]])
    expected = np.array([10, 5, 2.5]) * 3 / 17.5
    np.testing.assert_allclose(scale_weights(log_expected, 0.5)[0].numpy(), expected, rtol=1e-5)
    assert torch.equal(scale_weights(log_expected, 0.0), torch.ones(1, 3))


def test_adaptive_weights_do_not_collapse_where_the_published_ones_do() -> None:
    """One scale is five times as easy. Minimising the weighted sum gives it everything, the likelihood does not."""
    embedding = rand(16, 8, 2, 2)
    distances = torch.tensor([0.5, 0.4, 0.1]).expand(16, 3)
    from anomalib_scrd.loss import expected_distance_nll

    entropies = {}
    for mode in ("published", "adaptive"):
        head = ScaleAdaptation(8, 3, mode)  # type: ignore[arg-type]
        optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
        for _ in range(400):
            scale = head(embedding)
            loss = (scale.weights * distances).sum(1).mean()
            if scale.log_expected is not None:
                loss = loss + expected_distance_nll(distances, scale.log_expected)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        share = head(embedding).weights / 3
        entropies[mode] = -(share * share.log()).sum(1).mean().item() / math.log(3)
        torch.testing.assert_close(share.sum(1), torch.ones(16))
    assert entropies["published"] < 0.1
    assert entropies["adaptive"] > 0.85


def test_adaptive_weights_differ_between_images() -> None:
    head = ScaleAdaptation(8, 3, "adaptive")
    torch.nn.init.normal_(head.linear.weight, generator=torch.Generator().manual_seed(0))
    weights = head(rand(4, 8, 2, 2)).weights
    assert (weights[0] - weights[1]).abs().max() > 1e-3


def test_uniform_and_start_are_ones() -> None:
    for mode in ("uniform", "adaptive", "published"):
        torch.testing.assert_close(ScaleAdaptation(8, 3, mode)(rand(2, 8, 2, 2)).weights, torch.ones(2, 3))
    with pytest.raises(ValueError, match="scale_adaptation must be one of"):
        ScaleAdaptation(8, 3, "free")  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(64, 64), (63, 100)])
def test_no_setting_of_float32_products_changes_a_map(size: tuple[int, int]) -> None:
    """`torch.set_float32_matmul_precision`, as Lightning suggests it: TF32 on GPUs, bfloat16 on CPUs that have it."""
    distances = [torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0)) for _ in range(2)]
    merging = AnomalyMap("mean", sigma=4.0)
    reference = merging.merged(merging.scales(distances, size), size)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        result = AnomalyMap("mean", sigma=4.0).merged(merging.scales(distances, size), size)
    finally:
        torch.set_float32_matmul_precision(before)
    torch.testing.assert_close(result, reference, rtol=1e-6, atol=1e-7)
