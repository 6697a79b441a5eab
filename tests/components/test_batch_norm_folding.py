"""Batch norms folded into convolutions: the same features with fewer passes."""

import pytest
import timm
import torch
from torch import nn

from anomalib_scrd.components.batch_norm_folding import fold_batch_norms
from anomalib_scrd.components.teacher import Teacher


def _backbone(name: str) -> nn.Module:
    """A network whose batch norms all do something."""
    network = timm.create_model(name, pretrained=False, features_only=True, feature_cls="getter").eval()
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in ((module.weight, 0.5), (module.running_var, 0.5), (module.bias, -0.5)):
                tensor.data.copy_(low + torch.rand(tensor.shape, generator=generator))
            module.running_mean.copy_(torch.rand(module.running_mean.shape, generator=generator) - 0.5)
    return network


def _batch_norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def _image(size: int = 64) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


class _Layers(nn.Module):
    """A list of tensors from a function of a convolution and a batch norm."""

    def __init__(self, convolution: nn.Module, forward) -> None:
        super().__init__()
        self.convolution = convolution
        self.norm = nn.BatchNorm2d(4)
        self.norm.running_mean.fill_(0.3)
        self.norm.running_var.fill_(2.0)
        self._forward = forward
        self.eval()

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        return [self._forward(self, image)]


@pytest.mark.parametrize("name", ["resnet18", "wide_resnet50_2", "tf_efficientnet_lite0", "mobilenetv3_small_100"])
def test_folding_keeps_the_features_and_removes_batch_norms(name: str) -> None:
    network = _backbone(name)
    number, image = _batch_norms(network), _image()
    with torch.no_grad():
        before = network(image)
        assert fold_batch_norms(network, image[:1]) == number
        after = network(image)
    assert _batch_norms(network) == 0
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new, old, rtol=1e-3, atol=1e-4 * old.abs().max().item())


def test_a_batch_norm_before_its_convolution_stays() -> None:
    pytest.importorskip("timm", minversion="1.0.31")  # which gave DenseNet `forward_intermediates`
    network = _backbone("densenet121")
    number, image = _batch_norms(network), _image()
    with torch.no_grad():
        before = network(image)
        folded = fold_batch_norms(network, image[:1])
        after = network(image)
    assert 0 < folded < number
    assert _batch_norms(network) == number - folded
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new, old, rtol=1e-3, atol=1e-4 * old.abs().max().item())


def test_one_fold_by_hand() -> None:
    convolution = nn.Conv2d(3, 4, 3, padding=1)
    network = _Layers(convolution, lambda self, image: self.norm(self.convolution(image)))
    weight, bias = convolution.weight.detach().clone(), convolution.bias.detach().clone()
    assert fold_batch_norms(network, _image()) == 1
    factor = (2.0 + 1e-5) ** -0.5
    torch.testing.assert_close(convolution.weight.data, weight * factor)
    torch.testing.assert_close(convolution.bias.data, (bias - 0.3) * factor)


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, image: self.norm(self.convolution(image) + 1),
        lambda self, image: self.norm(self.convolution(image)) + self.convolution(image),
        lambda self, image: self.norm(self.norm(self.convolution(image))),
    ],
    ids=["something between", "convolution used twice", "batch norm used twice"],
)
def test_other_pairs_are_not_folded(forward) -> None:
    network, image = _Layers(nn.Conv2d(3, 4, 3), forward), _image()
    (before,) = network(image)
    assert fold_batch_norms(network, image) == 0
    assert _batch_norms(network) == 1
    assert torch.equal(network(image)[0], before)


def test_a_map_with_a_second_reader_leaves_the_network_as_it_was() -> None:
    def forward(self: _Layers, image: torch.Tensor) -> torch.Tensor:
        features = self.convolution(image)
        return self.norm(features) + features

    network, image = _Layers(nn.Conv2d(3, 4, 3, bias=False), forward), _image()
    (before,), keys = network(image), list(network.state_dict())
    assert fold_batch_norms(network, image) == 0
    assert list(network.state_dict()) == keys
    assert torch.equal(network(image)[0], before)


def test_the_teacher_folds_and_stays_frozen() -> None:
    teacher = Teacher("resnet18", pre_trained=False)
    assert _batch_norms(teacher) == 0
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
