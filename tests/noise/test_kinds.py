"""The mixed kinds of synthetic anomalies: slow references, closed forms, invariants."""

import math
import time

import numpy as np
import pytest
import torch

from anomalib_scrd.noise import MIXED, Normalisation, SyntheticAnomalies
from anomalib_scrd.noise.kinds import _blurred, altered_ellipse, foreign_texture, pasted_patch
from anomalib_scrd.noise.shapes import at_shifted_places, log_uniform, smooth_fields, soft_ellipses

FORM = {"strength": (0.2, 0.5), "size": (0.03, 0.5), "period": 0.125, "octaves": 6, "persistence": 0.6}
KINDS = [pasted_patch, altered_ellipse, foreign_texture]


def anomalies_of(kind: str = "mixed", **arguments: object) -> SyntheticAnomalies:
    return SyntheticAnomalies(kind, **(FORM | arguments))  # type: ignore[arg-type]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(*shape: int, seed: int = 99) -> torch.Tensor:
    return torch.rand(shape, generator=generator(seed))


def test_log_uniform_is_uniform_in_the_logarithm() -> None:
    draw = log_uniform(20_000, generator(), (0.01, 1.0)).log10().flatten()
    assert draw.min() >= -2
    assert draw.max() <= 0
    counts = torch.histc(draw, 10, -2, 0)
    assert ((counts - 2000) ** 2 / 2000).sum() < 35  # chi-square, 9 degrees of freedom


def test_ellipse_equals_the_loop() -> None:
    soft = soft_ellipses(3, (20, 30), (0.2, 0.8), generator(4)).numpy()
    source = generator(4)

    def draw() -> np.ndarray:
        return torch.rand(3, 1, 1, generator=source).flatten().double().numpy()

    axes = [10 * np.exp(math.log(0.2) + (math.log(0.8) - math.log(0.2)) * draw()) for _ in range(2)]
    down, right, angle = 20 * draw(), 30 * draw(), math.pi * draw()
    for b in range(3):
        for i in range(20):
            for j in range(30):
                y, x = i - down[b], j - right[b]
                along = math.cos(angle[b]) * y + math.sin(angle[b]) * x
                across = math.cos(angle[b]) * x - math.sin(angle[b]) * y
                radius = math.hypot(along / max(axes[0][b], 1), across / max(axes[1][b], 1))
                expected = 1 / (1 + math.exp(-(1 - radius) / 0.15))
                assert soft[b, i, j] == pytest.approx(expected, abs=1e-5)


def test_smooth_fields_have_mean_zero_and_few_cells() -> None:
    fields = smooth_fields(400, (32, 32), generator(), (4,))
    assert fields.mean().abs() < 0.03
    assert fields.diff(dim=-1).abs().mean() < 0.15 * fields.std()  # eight pixels to a cell
    two = smooth_fields(400, (32, 32), generator(), (4, 32))
    assert two.var() == pytest.approx((fields.var() + 0.49).item(), rel=0.1)


@pytest.mark.parametrize("mirrored", [False, True])
def test_shifted_images_hold_the_same_pixels(mirrored: bool) -> None:
    x = images(5, 2, 6, 7)
    shifted = at_shifted_places(x, generator(1), mirrored=mirrored)
    for before, after in zip(x, shifted, strict=True):
        candidates = [
            torch.roll(before.flip(axes), (rows, columns), (1, 2))
            for axes in ([()] if not mirrored else [(), (1,), (2,), (1, 2)])
            for rows in range(6)
            for columns in range(7)
        ]
        assert any(torch.equal(after, candidate) for candidate in candidates)
    assert not torch.equal(x, shifted)
    chosen = torch.tensor([3, 3])
    twice = at_shifted_places(x, generator(), chosen=chosen)
    for copy in twice:
        torch.testing.assert_close(copy.flatten().sort().values, x[3].flatten().sort().values)
    assert not torch.equal(twice[0], twice[1])


@pytest.mark.parametrize("function", KINDS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("shape", [(8, 3, 32, 32), (3, 1, 33, 50), (1, 3, 64, 40)])
def test_what_lies_outside_the_anomaly_is_unchanged(function, shape: tuple) -> None:
    x, pool = images(*shape), images(4, *shape[1:], seed=7)
    spoilt, mask = function(x, pool, (0.1, 0.5), generator(3))
    assert spoilt.shape == x.shape
    assert mask.shape == (shape[0], *shape[2:])
    assert mask.dtype == torch.bool
    assert mask.flatten(1).any(dim=1).all()
    assert spoilt.min() >= 0
    assert spoilt.max() <= 1
    changed = (spoilt - x).abs().amax(dim=1)
    # The borders are soft: an anomaly fades within a pixel, or within the soft border of an ellipse.
    near = torch.nn.functional.max_pool2d(mask.float()[:, None], 3, 1, 1)[:, 0] > 0
    if function is altered_ellipse:
        assert changed[~mask].max() < 0.4  # at most 0.3 of the full effect
        assert changed[mask].mean() > 3 * changed[~mask].mean()
    else:
        assert changed[~near].max() == 0
        assert changed[mask].mean() > 0.02


@pytest.mark.parametrize("function", KINDS, ids=lambda f: f.__name__)
def test_extent_is_kept(function) -> None:
    """The share of the image that an anomaly covers grows with its extent, and is at most the extent squared."""
    x = images(200, 1, 64, 64)
    shares = []
    for extent in ((0.05, 0.05), (0.2, 0.2), (0.6, 0.6)):
        _, mask = function(x, x, extent, generator(1))
        shares.append(mask.float().mean().item())
        most = (1.5 * extent[0] + 4 / 64) ** 2
        assert mask.float().mean(dim=(1, 2)).max() <= most
    assert shares[0] < shares[1] < shares[2]


def test_pasted_patch_is_an_opaque_mixture() -> None:
    """Inside a rectangle a black image shows a white one, at an opacity from one half to one."""
    x, pool = torch.zeros(300, 1, 32, 32), torch.ones(1, 1, 32, 32)
    spoilt, mask = pasted_patch(x, pool, (0.3, 0.6), generator())
    for image, inside in zip(spoilt[:, 0], mask, strict=True):
        rows, columns = inside.any(dim=1).nonzero().flatten(), inside.any(dim=0).nonzero().flatten()
        rectangle = torch.zeros_like(inside)
        rectangle[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
        assert torch.equal(inside, rectangle)
        core = image[rows[0] + 1 : rows[-1], columns[0] + 1 : columns[-1]]
        assert core.max() - core.min() < 1e-6
    opacity = spoilt.amax(dim=(1, 2, 3))
    assert opacity.min() == pytest.approx(0.5, abs=0.02)
    assert opacity.max() == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("size", [(40, 50), (64, 33), (8, 9)])
def test_blurred_pixels_are_means_over_squares(size: tuple[int, int]) -> None:
    sharp = images(2, 3, *size)
    half = max(3, min(size) // 16 * 2 + 1) // 2
    with torch.autocast("cpu", torch.bfloat16):
        blurred = _blurred(sharp)
    for b, c in np.ndindex(2, 3):
        padded = np.pad(sharp[b, c].double().numpy(), half, mode="reflect")
        for row, column in np.ndindex(*size):
            mean = padded[row : row + 2 * half + 1, column : column + 2 * half + 1].mean()
            assert blurred[b, c, row, column].item() == pytest.approx(mean, abs=1e-6)


def test_the_time_of_an_ellipse_grows_as_the_pixels_do() -> None:
    """The time of a blur by pooling over squares grows with the fourth power of the side."""
    seconds = []
    for side in (64, 256):
        normal = images(2, 3, side, side)
        rounds = []
        for _ in range(5):
            began = time.perf_counter()
            altered_ellipse(normal, normal, (0.1, 0.5), generator())
            rounds.append(time.perf_counter() - began)
        seconds.append(min(rounds))
    assert seconds[1] < 60 * seconds[0]  # 16 times the pixels; the pooling over squares took 235 times as long


def test_ellipses_are_of_four_changes() -> None:
    """On a chequered image: brighter, darker, other contrast (the mean stays), blurred (the contrast goes)."""
    rows, columns = torch.arange(64).view(-1, 1), torch.arange(64)
    board = (0.4 + 0.2 * ((rows + columns) % 2)).expand(400, 1, 64, 64)
    spoilt, mask = altered_ellipse(board, board, (0.5, 0.6), generator())
    kinds = {"brighter": 0, "darker": 0, "contrast": 0, "blurred": 0}
    for image, inside in zip(spoilt[:, 0], mask, strict=True):
        core = image[inside]
        mean, spread = core.mean().item() - 0.5, core.std().item()
        if abs(mean) > 0.03:
            kinds["brighter" if mean > 0 else "darker"] += 1
        elif spread < 0.06:
            kinds["blurred"] += 1
        else:
            kinds["contrast"] += 1
    assert min(kinds["brighter"], kinds["darker"]) > 60
    assert kinds["contrast"] + kinds["blurred"] > 140
    assert kinds["blurred"] > 40


def test_texture_opacity() -> None:
    x, pool = torch.full((400, 1, 48, 48), 0.5), torch.ones(1, 1, 48, 48)
    spoilt, mask = foreign_texture(x, pool, (0.5, 0.6), generator(2))
    core = torch.nn.functional.avg_pool2d(mask.float()[:, None], 3, 1, 1)[:, 0] == 1
    change = torch.stack(
        [(s[0] - 0.5)[c].mean() if c.any() else torch.zeros(()) for s, c in zip(spoilt, core, strict=True)]
    )
    assert (change < -0.05).float().mean() == pytest.approx(0.4, abs=0.08)  # inverted: two in five
    assert change.abs().max() < 0.8 * 0.5 + 0.15


@pytest.mark.parametrize("name", MIXED)
def test_grey_images_stay_grey(name: str) -> None:
    grey = images(6, 1, 32, 32).expand(6, 3, 32, 32)
    spoilt, mask = anomalies_of().spoil(grey, grey, name, (0.2, 0.4), generator())
    torch.testing.assert_close(spoilt[:, :1].expand(6, 3, 32, 32), spoilt, atol=1e-6, rtol=0)
    assert mask.shape == (6, 1, 32, 32)


def test_noise_on_a_colour_image_is_coloured() -> None:
    spoilt, _ = anomalies_of().spoil(images(6, 3, 32, 32), images(6, 3, 32, 32), "simplex", (0.3, 0.4), generator())
    change = spoilt - images(6, 3, 32, 32)
    assert (change[:, 0] - change[:, 1]).abs().max() > 1e-3


def test_kinds_take_turns() -> None:
    """Six images, four kinds: each kind is in every batch, and has six images over four batches."""
    anomalies, x = anomalies_of(), images(6, 3, 32, 32)
    counts = dict.fromkeys(MIXED, 0)
    original = anomalies.spoil

    def counted(piece, pool, name, extent, source):
        counts[name] += len(piece)
        return original(piece, pool, name, extent, source)

    anomalies.spoil = counted  # type: ignore[method-assign]
    for turn in range(4):
        anomalies(x, generator=generator(turn), turn=turn)
    assert set(counts.values()) == {6}


@pytest.mark.parametrize("kind", ["mixed", "simplex"])
def test_normalised_images_get_the_anomalies_of_plain_ones(kind: str) -> None:
    """Normalising after is the same as undoing the normalisation before."""
    anomalies, x = anomalies_of(kind), images(5, 3, 40, 40)
    normalisation = Normalisation(torch.tensor([0.4, 0.5, 0.3]), torch.tensor([0.2, 0.25, 0.5]))
    before, mask = anomalies(x, generator=generator())
    after, same = anomalies(normalisation(x), generator=generator(), normalisation=normalisation)
    torch.testing.assert_close(after, normalisation(before), atol=1e-5, rtol=1e-5)
    assert torch.equal(mask, same)


def test_simplex_is_not_clipped_and_mixed_is() -> None:
    bright = torch.ones(8, 3, 32, 32)
    published, _ = anomalies_of("simplex", strength=2.0, size=(0.9, 1.0))(bright, generator=generator())
    assert published.max() > 1.5
    mixed, _ = anomalies_of("mixed", strength=2.0, size=(0.9, 1.0))(bright, generator=generator())
    assert mixed.max() <= 1


def test_one_number_is_a_range_of_itself_and_kinds_are_checked() -> None:
    anomalies = anomalies_of("simplex", strength=0.2, size=0.3)
    assert (anomalies.strength, anomalies.size) == ((0.2, 0.2), (0.3, 0.3))
    with pytest.raises(ValueError, match=r"noise.kind must be one of .*'pink'"):
        anomalies_of("pink")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_kept(dtype: torch.dtype) -> None:
    x = images(4, 3, 64, 64)
    full, _ = anomalies_of()(x, generator=generator())
    half, _ = anomalies_of()(x.to(dtype), generator=generator())
    assert half.dtype == dtype
    torch.testing.assert_close(half.float(), full, atol=2e-2, rtol=2e-2)


def test_seed_decides() -> None:
    anomalies, x = anomalies_of(), images(4, 3, 48, 48)
    first, _ = anomalies(x, generator=generator(1))
    assert torch.equal(first, anomalies(x, generator=generator(1))[0])
    assert not torch.equal(first, anomalies(x, generator=generator(2))[0])
