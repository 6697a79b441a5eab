"""Smoothing of distance maps and their grids."""

import copy

import numpy as np
import pytest
import torch

from anomalib_scrd.components.resampling import AxisMatrices, resized
from anomalib_scrd.scoring.anomaly_map import SmoothMaps, compared_with_image
from anomalib_scrd.scoring.smoothing import gaussian_kernel, smoothed
from tests import reference


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_maps_equal_the_loops() -> None:
    """The first map of each level, then the second of each."""
    levels = [rand(2, 2, 8, 6), rand(2, 2, 4, 3, seed=1), rand(2, 2, 2, 2, seed=2)]
    result = SmoothMaps(sigma=1.0)(levels, (16, 12))
    assert result.shape == (2, 6, 16, 12)
    for b, n, k in np.ndindex(2, 2, 3):
        expected = reference.smooth(reference.bilinear(levels[k][b, n].numpy(), 16, 12), 1.0)
        np.testing.assert_allclose(result[b, 3 * n + k].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("sigma", [2.0, 4.0])
def test_wide_smoothing_on_every_second_pixel_is_that_of_all(sigma: float) -> None:
    """The maps of a wide smoothing against the loops on their own grid, and against the smoothing of every pixel."""
    levels = [rand(1, 1, 16, 12) ** 4, rand(1, 1, 8, 6, seed=1) ** 4]
    maps = SmoothMaps(sigma=sigma)
    grid = maps(levels, (64, 47))
    assert grid.shape == (1, 2, 32, 24)
    for k, level in enumerate(levels):
        expected = reference.smooth(reference.bilinear(level[0, 0].numpy(), 32, 24), sigma / 2)
        np.testing.assert_allclose(grid[0, k].numpy(), expected, atol=1e-5)
    result = maps.enlarged(grid, (64, 47))[0]
    for k, level in enumerate(levels):
        np.testing.assert_allclose(result[k].numpy(), reference.bilinear(grid[0, k].numpy(), 64, 47), atol=1e-5)
        every = reference.smooth(reference.bilinear(level[0, 0].numpy(), 64, 47), sigma)
        assert np.abs(result[k].numpy() - every).max() < 0.1 * (every.max() - every.min())
        assert np.corrcoef(result[k].numpy().ravel(), every.ravel())[0, 1] > 0.995


@pytest.mark.parametrize(
    ("sigma", "stride", "thinning"), [(4.0, 2, 2), (2.0, 2, 2), (1.0, 1, 2), (0.9, 1, 1), (0.0, 1, 1)]
)
def test_thin_maps_are_twice_as_wide_and_every_second_row_and_column(sigma: float, stride: int, thinning: int) -> None:
    maps, levels = SmoothMaps(sigma), [rand(2, 3, 9, 7), rand(2, 3, 5, 4, seed=1)]
    assert (maps.stride, maps.thinning) == (stride, thinning)
    wide = AxisMatrices(lambda signals, length: smoothed(resized(signals, length), 2 * sigma / stride))
    grid = [wide(level, (-(-37 // stride), -(-28 // stride))) for level in levels]
    expected = torch.stack(grid, dim=2).flatten(1, 2)[..., ::thinning, ::thinning]
    torch.testing.assert_close(maps.thin(levels, (37, 28)), expected)


@pytest.mark.parametrize("size", [(128, 96), (75, 61), (512, 40), (40, 1030)])
def test_the_map_is_interpolated(size: tuple[int, int]) -> None:
    """By a product of matrices or, where that would take longer, by the interpolation itself."""
    maps = rand(2, 1, -(-size[0] // 2), -(-size[1] // 2))
    expected = torch.nn.functional.interpolate(maps, size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(SmoothMaps(4.0).enlarged(maps, size), expected)


@pytest.mark.parametrize("size", [(16, 16), (50, 70), (33, 31)])
def test_a_constant_stays_one_at_any_size(size: tuple[int, int]) -> None:
    maps = SmoothMaps(4.0)
    grid = maps([torch.full((2, 1, 4, 4), 0.5)] * 2, size)
    torch.testing.assert_close(maps.enlarged(grid, size), torch.full((2, 2, *size), 0.5))


def test_half_of_the_mean_of_an_image_is_subtracted() -> None:
    maps = rand(2, 3, 5, 4)
    result = compared_with_image(maps)
    for b, m in np.ndindex(2, 3):
        mean = sum(maps[b, m].flatten().tolist()) / 20
        np.testing.assert_allclose(result[b, m].numpy(), maps[b, m].numpy() - 0.5 * mean, atol=1e-6)
    torch.testing.assert_close(compared_with_image(maps, torch.tensor([[2.0, 4.0, 6.0]]))[1, 2], maps[1, 2] - 3)


def test_negative_smoothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"scoring.sigma must be at least 0 pixels, got -1"):
        SmoothMaps(-1)


def test_maps_stay_in_float32_under_autocast() -> None:
    maps = rand(1, 1, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        result = SmoothMaps(2.0)([maps], (32, 32))
    assert torch.equal(result, SmoothMaps(2.0)([maps], (32, 32)))


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
