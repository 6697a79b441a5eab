"""Standardised channels against NumPy, and fixed after the first batches."""

import numpy as np
import pytest
import torch

from anomalib_scrd.standardisation import ChannelStandardisation


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
