"""Patches of simplex noise and their seeds: closed forms and invariants."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from anomalib_scrd.noise import patches, step_generator
from anomalib_scrd.noise.patches import sample_rectangles
from anomalib_scrd.noise.simplex_patches import SimplexPatches
from anomalib_scrd.presets import PRESETS
from tests.noise.whole_fields import noise_field


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def published(**changes: object) -> SimplexPatches:
    noise = PRESETS["published"].noise
    form = {"strength": (noise.strength, noise.strength), "size": noise.size, "period": noise.period}
    form |= {"octaves": noise.octaves, "persistence": noise.persistence}
    return SimplexPatches(**(form | changes))  # type: ignore[arg-type]


def images(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=generator(99))


def test_no_strength_is_the_identity() -> None:
    x = images(3, 3, 40, 30)
    noisy, mask = published(strength=(0.0, 0.0))(x, generator=generator())
    assert torch.equal(noisy, x)
    assert not mask.any()


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (4, 1, 33, 71), (2, 5, 100, 40)])
def test_changes_lie_in_the_rectangles(shape: tuple) -> None:
    anomalies = published(strength=(0.5, 0.5), size=(0.1, 0.4))
    parameters = anomalies.sample(shape, generator=generator())
    anomaly, mask = anomalies.render(parameters, shape)
    expected = torch.zeros(shape[0], 1, *shape[2:], dtype=torch.bool)
    for image, (top, left, height, width) in enumerate(parameters.rectangles.tolist()):
        assert top >= 0
        assert left >= 0
        assert top + height <= shape[2]
        assert left + width <= shape[3]
        expected[image, 0, top : top + height, left : left + width] = True
    assert torch.equal(mask, expected)
    assert (anomaly[~expected.expand_as(anomaly)] == 0).all()
    assert (anomaly[expected.expand_as(anomaly)] != 0).float().mean() > 0.95


def test_the_noise_in_a_rectangle_is_the_field() -> None:
    """One patch: what is added equals strength times the field from its corner on."""
    anomalies = published(strength=(0.3, 0.3), size=(0.2, 0.5))
    shape = (3, 3, 40, 40)
    parameters = anomalies.sample(shape, generator=generator())
    anomaly, _ = anomalies.render(parameters, shape)
    field = noise_field(parameters.noise, 3, 20, 20, period=5.0, persistence=0.6)
    for image in range(3):
        top, left, height, width = parameters.rectangles[image].tolist()
        torch.testing.assert_close(
            anomaly[image, :, top : top + height, left : left + width], 0.3 * field[image, :, :height, :width]
        )


def test_published_sizes_reach_both_ends() -> None:
    """10 to 31 pixels of 256, every value and both axes; half of that of 128."""
    anomalies = published()
    sizes = anomalies.sample((4000, 3, 256, 256), generator=generator()).rectangles[..., 2:]
    for axis in range(2):
        counts = torch.bincount(sizes[..., axis].flatten(), minlength=32)
        assert counts[:10].sum() == 0
        assert len(counts) == 32
        expected = 4000 / 22
        assert ((counts[10:] - expected) ** 2 / expected).sum() < 50  # chi-square, 21 degrees of freedom
    small = anomalies.sample((4000, 3, 128, 128), generator=generator()).rectangles[..., 2:]
    assert (small.min(), small.max()) == (5, 16)


def test_places_are_even() -> None:
    rectangles = sample_rectangles(6000, (12, 12), (3, 3), (3, 3), generator())
    for axis in range(2):
        counts = torch.bincount(rectangles[..., axis].flatten(), minlength=10).double()
        assert len(counts) == 10
        assert ((counts - 600) ** 2 / 600).sum() < 35


def test_strength_range_and_linearity() -> None:
    strengths = published(strength=(0.1, 0.5)).sample((2000, 3, 64, 64), generator=generator()).strengths
    assert strengths.min() == pytest.approx(0.1, abs=0.01)
    assert strengths.max() == pytest.approx(0.5, abs=0.01)
    x = torch.zeros(4, 3, 64, 64)
    weak, _ = published(strength=(0.1, 0.1))(x, generator=generator())
    strong, _ = published(strength=(0.4, 0.4))(x, generator=generator())
    torch.testing.assert_close(strong, 4 * weak)


def test_nothing_is_clipped() -> None:
    noisy, _ = published(strength=(5.0, 5.0), size=(0.9, 1.0))(torch.ones(2, 3, 32, 32), generator=generator())
    assert noisy.max() > 1.5
    assert noisy.min() < 0.5


def test_seed_decides() -> None:
    anomalies, x = published(strength=(0.3, 0.3)), images(2, 3, 64, 64)
    first, _ = anomalies(x, generator=generator(1))
    assert torch.equal(first, anomalies(x, generator=generator(1))[0])
    assert not torch.equal(first, anomalies(x, generator=generator(2))[0])


def test_every_image_and_step_is_fresh() -> None:
    """The released generator gives every patch of a training the same corner of one field."""
    anomalies, source = published(size=(1.0, 1.0)), generator()
    batches = torch.cat([anomalies(torch.zeros(4, 1, 32, 32), generator=source)[0] for _ in range(3)])
    for first in range(12):
        for second in range(first):
            assert not torch.equal(batches[first], batches[second])


def test_replay() -> None:
    anomalies = published()
    parameters = anomalies.sample((2, 3, 64, 64), generator=generator())
    assert torch.equal(anomalies.render(parameters, (2, 3, 64, 64))[0], anomalies.render(parameters, (2, 3, 64, 64))[0])


def test_a_gpu_and_a_compiler_compute_all_points_of_the_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of points in the rectangles is unknown to the host there; the anomalies are the same."""
    shape = (3, 2, 30, 40)
    anomalies = published(size=(0.2, 0.6))
    parameters = anomalies.sample(shape, generator=generator())
    expected = anomalies.render(parameters, shape)

    compiled = torch.compile(anomalies.render, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(parameters, shape), expected)
    torch._dynamo.reset()

    assert patches._count_is_known(torch.device("cpu"))
    assert not patches._count_is_known(torch.device("cuda"))
    monkeypatch.setattr(patches, "_count_is_known", lambda _: False)
    torch.testing.assert_close(anomalies.render(parameters, shape), expected)


class Operations(TorchDispatchMode):
    """Counts what is dispatched: at most one kernel each."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_kernels_do_not_grow_with_octaves_and_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "_count_is_known", lambda _: False)
    counts = set()
    for batch, octaves in [(2, 2), (2, 6), (4, 6)]:
        anomalies, shape = published(octaves=octaves), (batch, 3, 32, 32)
        parameters = anomalies.sample(shape, generator=generator())
        with Operations() as operations:
            anomalies.render(parameters, shape)
        counts.add(operations.count)
    assert len(counts) == 1
    assert counts.pop() < 400


def test_step_generator_depends_on_all_it_is_given() -> None:
    def draw(*arguments: int) -> list[float]:
        return torch.rand(4, generator=step_generator(*arguments)).tolist()

    assert draw(1, 2, 3) == draw(1, 2, 3)
    states = [step_generator(s, n, r).initial_seed() for s in range(6) for n in range(50) for r in range(4)]
    assert len(set(states)) == len(states)
    assert step_generator(2**63 - 1, 10**9).initial_seed() < 2**63


def test_compiles_without_a_break() -> None:
    anomalies = published(size=(0.2, 0.5), octaves=2)
    parameters = anomalies.sample((2, 3, 32, 32), generator=generator())
    compiled = torch.compile(lambda p: anomalies.render(p, (2, 3, 32, 32)), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(parameters)[0], anomalies.render(parameters, (2, 3, 32, 32))[0])
