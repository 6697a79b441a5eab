"""Standardised and whitened channels against NumPy, and fixed after the first batches."""

import numpy as np
import pytest
import torch

from anomalib_scrd.components.feature_standardisation import ChannelStandardisation, Whitening, inverse_root
from anomalib_scrd.loss import ScaleAwareContrastiveLoss
from anomalib_scrd.torch_model import ScaleAwareCRDModel


def batch(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shift = torch.tensor([5.0, -1.0, 0.0]).view(1, 3, 1, 1)
    spread = torch.tensor([0.1, 10.0, 1.0]).view(1, 3, 1, 1)
    return [torch.randn(4, 3, 6, 5, generator=generator) * spread + shift, torch.rand(4, 2, 3, 3, generator=generator)]


def test_against_numpy() -> None:
    module = ChannelStandardisation([3, 2], batches=5)
    for seed in range(5):
        module.update(batch(seed))
    stack = np.concatenate([batch(seed)[0].double().numpy() for seed in range(5)])
    expected = batch(0)[0].numpy() - stack.mean((0, 2, 3))[None, :, None, None]
    expected /= stack.std((0, 2, 3))[None, :, None, None]
    np.testing.assert_allclose(module(batch(0))[0].numpy(), expected, rtol=1e-5, atol=1e-5)


def correlated(seed: int, offset: float = 3.0) -> torch.Tensor:
    """(4, 6, 5, 7), each position a mixture of six independent numbers."""
    mixture = torch.randn(6, 6, generator=torch.Generator().manual_seed(9))
    generator = torch.Generator().manual_seed(seed)
    shift = torch.randn(6, generator=generator) + offset
    return (torch.randn(4, 5, 7, 6, generator=generator) @ mixture + shift).movedim(-1, 1)


def rows_of(features: torch.Tensor) -> np.ndarray:
    return features.double().movedim(1, -1).flatten(0, -2).numpy()


@pytest.mark.parametrize("offset", [3.0, 1000.0])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_whitening_against_numpy(offset: float, layout: torch.memory_format) -> None:
    """Also where a mean is many times a standard deviation, in which sums of squares would lose the covariance."""
    module = Whitening([6], batches=5)
    batches = [correlated(seed, offset).contiguous(memory_format=layout) for seed in range(5)]
    for features in batches:
        module.update([features])
    seen = rows_of(torch.cat(batches))
    values, vectors = np.linalg.eigh(0.5 * np.corrcoef(seen.T) + 0.5 * np.eye(6))
    new = correlated(7, offset)
    expected = (rows_of(new) - seen.mean(0)) / seen.std(0) @ (vectors / np.sqrt(values)) @ vectors.T
    np.testing.assert_allclose(rows_of(module([new])[0]), expected, rtol=2e-3, atol=1e-5 * offset)


@pytest.mark.parametrize(("count", "rank"), [(1, 1), (5, 0), (5, 1), (300, 20), (300, 1), (1024, 1)])
def test_inverse_root_against_numpy(count: int, rank: int) -> None:
    """From independent channels to equal ones, whose matrix has the smallest eigenvalues relative to the norm."""
    rows = np.random.default_rng(0).normal(size=(rank, count)) + 1e-3
    correlation = np.corrcoef(rows.T) if rank > 1 else np.ones((count, count)) if rank else np.eye(count)
    matrix = 0.5 * np.reshape(correlation, (count, count)) + 0.5 * np.eye(count)
    values, vectors = np.linalg.eigh(matrix)
    expected = (vectors / np.sqrt(values)) @ vectors.T
    found = inverse_root(torch.from_numpy(matrix).float())
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


def test_whitening_shortens_common_directions_and_lengthens_rare_ones() -> None:
    """By the eigenvalues r of the correlation, to r / (r / 2 + 1 / 2)."""
    module = Whitening([6])
    features = correlated(0)
    module.update([features])
    before = np.linalg.eigvalsh(np.corrcoef(rows_of(features).T))
    after = np.linalg.eigvalsh(np.cov(rows_of(module([features])[0]).T, bias=True))
    np.testing.assert_allclose(after, before / (0.5 * before + 0.5), rtol=1e-4)


def test_whitening_of_independent_channels_is_their_standardisation() -> None:
    features = torch.zeros(1, 3, 2, 4)
    features[0, 0], features[0, 1] = torch.tensor([[1.0], [-1.0]]), torch.tensor([2.0, -2.0, 2.0, -2.0])
    features[0, 2] = torch.tensor([5.0, 5.0, -5.0, -5.0])
    whitened, standardised = Whitening([3]), ChannelStandardisation([3])
    for module in (whitened, standardised):
        module.update([features])
    torch.testing.assert_close(whitened([features]), standardised([features]))


def test_whitening_of_fewer_positions_than_channels() -> None:
    module = Whitening([64])
    module.update([torch.randn(2, 64, 1, 1, generator=torch.Generator().manual_seed(0))])
    module.update([torch.randn(1, 64, 1, 1, generator=torch.Generator().manual_seed(1))])
    (result,) = module([torch.randn(2, 64, 3, 3)])
    assert result.isfinite().all()


def test_whitening_under_autocast_measures_in_full_precision() -> None:
    """The statistics are the same; only the features are rounded."""
    inside, outside = Whitening([6]), Whitening([6])
    features = correlated(0, 100.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside.update([features])
        (rounded,) = inside([features])
    outside.update([features])
    for name, value in inside.state_dict().items():
        assert torch.equal(value, outside.state_dict()[name]), name
    torch.testing.assert_close(rounded.float(), outside([features])[0], atol=0.05, rtol=0.02)


def test_whitening_forgets() -> None:
    module = Whitening([6])
    fresh = {name: value.clone() for name, value in module.state_dict().items()}
    module.update([correlated(0)])
    module.reset()
    assert all(torch.equal(value, fresh[name]) for name, value in module.state_dict().items())


def test_features_that_are_not_finite_raise_no_error_of_linear_algebra() -> None:
    """A diverged training is reported where its distances are read."""
    module = Whitening([6])
    module.update([torch.full((2, 6, 3, 3), float("nan"))])
    assert module([correlated(0)])[0].isnan().all()


KINDS = pytest.mark.parametrize("kind", [ChannelStandardisation, Whitening])


@KINDS
def test_fixed_after_the_first_batches(kind: type[ChannelStandardisation]) -> None:
    module = kind([3, 2], batches=2)
    for seed in range(2):
        module.update(batch(seed))
    before = {name: value.clone() for name, value in module.state_dict().items() if name != "seen"}
    module.update([100 * feature for feature in batch(3)])
    assert all(torch.equal(module.state_dict()[name], value) for name, value in before.items())


@KINDS
def test_identity_before_the_first_batch_and_constant_channels(kind: type[ChannelStandardisation]) -> None:
    module = kind([3, 2])
    for mine, theirs in zip(module(batch(0)), batch(0), strict=True):
        torch.testing.assert_close(mine, theirs)
    module.update([torch.full((2, 3, 4, 4), 7.0), torch.zeros(2, 2, 2, 2)])
    for feature in module([torch.full((2, 3, 4, 4), 7.0), torch.zeros(2, 2, 2, 2)]):
        assert torch.isfinite(feature).all()


@KINDS
def test_precision_is_kept(kind: type[ChannelStandardisation]) -> None:
    module = kind([3, 2])
    module.update([feature.bfloat16() for feature in batch(0)])
    assert module([feature.bfloat16() for feature in batch(0)])[0].dtype == torch.bfloat16
    assert module.get_buffer("mean_0").tolist() == pytest.approx([5.0, -1.0, 0.0], abs=3)


@KINDS
@pytest.mark.parametrize("constant", [0.0, 7.0, 300.0])
def test_a_dead_channel_that_becomes_active_has_an_ordinary_weight(
    kind: type[ChannelStandardisation], constant: float
) -> None:
    module = kind([64])
    torch.manual_seed(0)
    features = [3 * torch.randn(4, 64, 8, 8) + 1 for _ in range(4)]
    for feature in features:
        feature[:, 5] = constant
        module.update([feature])
    (before,) = module([features[0].half()])
    assert before.dtype == torch.float16
    assert before[:, 5].abs().max() < 0.2
    awake = features[0].clone()
    awake[:, 5] = constant + 6.0  # two standard deviations of the others
    (after,) = module([awake.half()])
    assert torch.isfinite(after).all()
    assert after[:, 5].mean().item() == pytest.approx(2.0, rel=0.1)
    others = [channel for channel in range(64) if channel != 5]
    assert torch.equal(after[:, others], before[:, others])


@KINDS
def test_only_constant_channels_are_dead(kind: type[ChannelStandardisation]) -> None:
    """A channel with a hundredth of the others' standard deviation is standardised like any other."""
    module = kind([4])
    torch.manual_seed(0)
    feature = torch.randn(8, 4, 16, 16) * torch.tensor([1.0, 1.0, 1.0, 0.02]).view(1, 4, 1, 1)
    module.update([feature])
    torch.testing.assert_close(module([feature])[0].std(dim=(0, 2, 3)), torch.ones(4), atol=2e-2, rtol=0)


def test_dead_channel_under_fp16_autocast() -> None:
    model = ScaleAwareCRDModel(backbone="resnet18", pre_trained=False).train()
    with torch.no_grad():
        for block in (model.teacher.backbone.model.layer1, model.teacher.backbone.model.layer2):
            # the channel is a constant: what enters the last ReLU is that, and so is the shortcut's
            for convolution in (block[-1].conv2, block[-2].conv2):
                convolution.weight[3] = 0.0
                convolution.bias[3] = -1e3
            block[-1].conv2.bias[3] = 7.0
    images = torch.randn(4, 3, 64, 64)
    places = torch.ones(4, 1, 64, 64, dtype=torch.bool)
    loss = ScaleAwareContrastiveLoss(1.0, 1.0, 1.0, 0.0)
    for _ in range(3):
        with torch.autocast("cpu", dtype=torch.float16):
            model.standardise.update(model.teacher(images))
            features = model(images, images + 0.1 * torch.randn_like(images), restore=True)
            terms = loss(features.clean, features.student, features.noisy, features.restored, mask=places)
        assert torch.isfinite(terms.total)
        assert all(torch.isfinite(feature).all() for feature in features.clean)
    assert (model.standardise.get_buffer("mean_0")[3] - 7).abs() < 1e-2
