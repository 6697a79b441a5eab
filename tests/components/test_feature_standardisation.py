"""Standardised channels against NumPy, and fixed after the first batches."""

import numpy as np
import pytest
import torch

from anomalib_scrd.components.feature_standardisation import ChannelStandardisation
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
    np.testing.assert_allclose(module(batch(0))[0].numpy(), expected, rtol=2e-3, atol=2e-3)


def test_fixed_after_the_first_batches() -> None:
    module = ChannelStandardisation([3, 2], batches=2)
    for seed in range(2):
        module.update(batch(seed))
    before = {name: value.clone() for name, value in module.state_dict().items() if name != "seen"}
    module.update([100 * feature for feature in batch(3)])
    assert all(torch.equal(module.state_dict()[name], value) for name, value in before.items())


def test_identity_before_the_first_batch_and_constant_channels() -> None:
    module = ChannelStandardisation([3, 2])
    for mine, theirs in zip(module(batch(0)), batch(0), strict=True):
        torch.testing.assert_close(mine, theirs)
    module.update([torch.full((2, 3, 4, 4), 7.0), torch.zeros(2, 2, 2, 2)])
    for feature in module([torch.full((2, 3, 4, 4), 7.0), torch.zeros(2, 2, 2, 2)]):
        assert torch.isfinite(feature).all()


def test_precision_is_kept() -> None:
    module = ChannelStandardisation([3, 2])
    module.update([feature.bfloat16() for feature in batch(0)])
    assert module([feature.bfloat16() for feature in batch(0)])[0].dtype == torch.bfloat16
    assert module.get_buffer("mean_0").tolist() == pytest.approx([5.0, -1.0, 0.0], abs=3)


@pytest.mark.parametrize("constant", [0.0, 7.0, 300.0])
def test_a_dead_channel_that_becomes_active_has_an_ordinary_weight(constant: float) -> None:
    module = ChannelStandardisation([64])
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


def test_only_constant_channels_are_dead() -> None:
    """A channel with a hundredth of the others' standard deviation is standardised like any other."""
    module = ChannelStandardisation([4])
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
            features = model(images, images + 0.1 * torch.randn_like(images), restore=True)
            terms = loss(features.clean, features.student, features.noisy, features.restored, mask=places)
        assert torch.isfinite(terms.total)
        assert all(torch.isfinite(feature).all() for feature in features.clean)
    assert (model.standardise.get_buffer("mean_0")[3] - 7).abs() < 1e-2
