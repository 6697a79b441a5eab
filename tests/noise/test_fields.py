"""Noise fields against slow references, and their moments against those of the paper's generator."""

import math

import numpy as np
import pytest
import torch

from anomalib_scrd.noise import fields
from anomalib_scrd.noise.fields import noise_at, sample_state
from anomalib_scrd.noise.hashing import PRIMES, hash_lattice, uniform
from anomalib_scrd.noise.patches import Points
from anomalib_scrd.noise.simplex import AMPLITUDE, STRETCH, simplex
from tests.noise.whole_fields import noise_field


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def wrap(value: int) -> int:
    """A Python integer as a signed 32-bit one."""
    return (value + 2**31) % 2**32 - 2**31


def hash_slow(lattice: tuple[int, int, int], seed: int) -> int:
    mixed = seed
    for coordinate, prime in zip(lattice, PRIMES, strict=True):
        mixed ^= wrap(coordinate * prime)
    mixed = wrap((mixed ^ (mixed >> 15)) * 0x2C1B3C6D)
    return wrap((mixed ^ (mixed >> 12)) * PRIMES[0]) >> 11


def simplex_slow(z: float, y: float, x: float, seed: int) -> float:
    """Simplex noise at one point: sort the fractions, walk from corner to corner, sum the faded gradients."""
    point = np.array([x, y, z]) * STRETCH
    cell = np.floor(point + point.sum() / 3)
    fraction = point - cell + cell.sum() / 6
    order = sorted(range(3), key=lambda axis: -fraction[axis])
    corner = np.zeros(3)
    corners = [corner.copy()]
    for axis in order:
        corner[axis] += 1
        corners.append(corner.copy())
    total = 0.0
    for steps in corners:
        offset = fraction - steps + steps.sum() / 6
        fade = 0.6 - float((offset**2).sum())
        if fade > 0:
            bits = hash_slow(tuple(int(c) for c in cell + steps), seed) & 15
            total += fade**4 * gradient(bits, offset)
    return AMPLITUDE * 32 * total


def gradient(bits: int, offset: np.ndarray) -> float:
    """Perlin's gradient function: four bits choose two coordinates and their signs."""
    x, y, z = offset
    first = x if bits < 8 else y
    second = y if bits < 4 else (x if bits in {12, 14} else z)
    return (first if bits & 1 == 0 else -first) + (second if bits & 2 == 0 else -second)


def test_hash_equals_the_loop() -> None:
    points = torch.randint(-1000, 1000, (50, 3), generator=generator(), dtype=torch.int32)
    seed = torch.tensor(-123456789, dtype=torch.int32)
    mixed = seed.clone()
    for axis, prime in enumerate(PRIMES):
        mixed = mixed ^ (points[:, axis] * prime)
    assert hash_lattice(mixed).tolist() == [hash_slow(tuple(p), -123456789) for p in points.tolist()]


def test_hash_is_even() -> None:
    """Sixteen values of the low bits, over a block of the lattice: a chi-square test with 15 degrees of freedom."""
    z, y, x = torch.meshgrid(*[torch.arange(40, dtype=torch.int32)] * 3, indexing="ij")
    bits = hash_lattice((z * PRIMES[0]) ^ (y * PRIMES[1]) ^ (x * PRIMES[2]) ^ 77)
    counts = torch.bincount((bits & 15).flatten().long(), minlength=16).double()
    expected = counts.sum() / 16
    assert ((counts - expected) ** 2 / expected).sum() < 45
    numbers = uniform(bits)
    assert 0 < numbers.min() < 1e-3
    assert 1 - 1e-3 < numbers.max() < 1
    assert numbers.mean().item() == pytest.approx(0.5, abs=0.01)


def test_simplex_equals_the_loop() -> None:
    points = torch.rand(200, 3, generator=generator()) * 40 - 20
    result = simplex(points[:, 0], points[:, 1], points[:, 2], torch.tensor(987654, dtype=torch.int32))
    expected = [simplex_slow(*point, 987654) for point in points.double().tolist()]
    np.testing.assert_allclose(result.numpy(), expected, atol=2e-4)
    assert np.abs(expected).max() > 0.2


def test_simplex_broadcasts() -> None:
    seeds = torch.randint(-(2**31), 2**31, (4, 1, 1), generator=generator()).to(torch.int32)
    z, y, x = torch.tensor(0.3), torch.rand(5, 1, generator=generator()), torch.rand(6, generator=generator())
    result = simplex(z, y, x, seeds)
    assert result.shape == (4, 5, 6)
    assert result[2, 3, 4].item() == pytest.approx(simplex_slow(0.3, float(y[3]), float(x[4]), int(seeds[2])), abs=2e-4)


def test_octaves_add_up() -> None:
    state = sample_state(2, 3, generator())
    field = noise_field(state, 3, 4, 5, period=6.0, persistence=0.5)
    for n, c, i, j in [(0, 0, 0, 0), (1, 2, 3, 4), (0, 1, 2, 3)]:
        expected = sum(
            0.5**o
            * simplex_slow(
                *(float(state.offsets[n, o, axis]) + 2**o * step / 6.0 for axis, step in enumerate((c, i, j))),
                int(state.seeds[n, o]),
            )
            for o in range(3)
        )
        assert field[n, c, i, j].item() == pytest.approx(expected, abs=2e-4)


def test_simplex_is_continuous_and_zero_on_the_lattice() -> None:
    seed = torch.tensor(5, dtype=torch.int32)
    line = torch.linspace(-3, 3, 20001)
    values = simplex(0.3 * line, 0.7 * line, line, seed)
    # Gustavson's radius of 0.6 reaches a little over the next face: jumps of under a percent of the range remain.
    assert values.diff().abs().max() < 5e-3
    zero = torch.zeros(1)
    assert simplex(zero, zero, zero, seed).abs() < 1e-6


def moments(field: np.ndarray) -> dict[str, float | list[float]]:
    centred = field - field.mean()
    variance = (centred**2).mean()
    return {
        "mean": field.mean(),
        "std": math.sqrt(variance),
        "lags": [(centred[..., :-lag] * centred[..., lag:]).mean() / variance for lag in (1, 2, 4, 8, 16)],
        "channels": (centred[:, :-1] * centred[:, 1:]).mean() / variance,
    }


def test_moments_are_those_of_the_papers_generator() -> None:
    """Its field on 32 x 32 patches over 200 seeds. 2,000 fields here, so that the sampling error is the reference's.

    The standard error of the mean over 200 fields is about 0.02: half the variance is in the first octave, of which a
    patch shows less than one period.
    """
    field = noise_field(sample_state(2000, 6, generator()), 3, 32, 32, period=32, persistence=0.6).numpy()
    result = moments(field)
    assert result["mean"] == pytest.approx(0.008, abs=0.04)
    assert result["std"] == pytest.approx(0.410, rel=0.03)
    assert result["lags"] == pytest.approx([0.983, 0.951, 0.878, 0.722, 0.414], abs=0.03)
    assert result["channels"] == pytest.approx(0.986, abs=0.01)
    assert -1.9 < field.min() < -1.2
    assert 1.2 < field.max() < 1.9


def test_moments_are_those_of_opensimplex() -> None:
    opensimplex = pytest.importorskip("opensimplex", reason="opensimplex is in the extra 'test'")
    fields = []
    for seed in range(40):
        opensimplex.seed(seed)
        fields.append(
            sum(
                0.6**o * opensimplex.noise3array(*[(np.arange(n) * 2**o / 32) + 50 * o + 0.37 for n in (24, 24, 3)])
                for o in range(6)
            ),
        )
    theirs = moments(np.stack(fields))
    mine = moments(noise_field(sample_state(1000, 6, generator(1)), 3, 24, 24, period=32, persistence=0.6).numpy())
    assert mine["std"] == pytest.approx(theirs["std"], rel=0.12)
    assert mine["lags"][:3] == pytest.approx(theirs["lags"][:3], abs=0.05)


def test_strength_of_a_field() -> None:
    field = noise_field(sample_state(400, 6, generator()), 3, 32, 32, period=32, persistence=0.6)
    assert field.shape == (400, 3, 32, 32)
    assert field.dtype == torch.float32
    assert field.mean().abs() < 0.05
    assert field.std().item() == pytest.approx(0.41, rel=0.06)


def test_fields_differ_and_come_again() -> None:
    first = noise_field(sample_state(4, 6, generator(1)), 1, 16, 16, period=16, persistence=0.6)
    again = noise_field(sample_state(4, 6, generator(1)), 1, 16, 16, period=16, persistence=0.6)
    other = noise_field(sample_state(4, 6, generator(2)), 1, 16, 16, period=16, persistence=0.6)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    correlation = torch.corrcoef(first.flatten(1))
    assert (correlation - torch.eye(4)).abs().max() < 0.95


def test_some_points_of_a_field(monkeypatch: pytest.MonkeyPatch) -> None:
    """In any order, split into pieces or not."""
    state, form = sample_state(3, 4, generator()), {"period": 8.0, "persistence": 0.6}
    field = noise_field(state, 2, 9, 7, **form)
    points = Points(*(torch.randint(0, size, (50,), generator=generator(1)) for size in (3, 9, 7)))
    for numbers in (1, 100, 2**16):
        monkeypatch.setattr(fields, "_AT_ONCE_CPU", numbers)
        torch.testing.assert_close(
            noise_at(state, points, 2, **form), field[points.field, :, points.row, points.column].t()
        )
