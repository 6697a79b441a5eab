"""Folding of frozen batch norms into the convolutions before them."""

__all__ = ["fold_batch_norms"]

from collections import Counter
from typing import Any

import torch
from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

_TOLERANCE = 1e-3


@torch.no_grad()
def fold_batch_norms(network: nn.Module, example: torch.Tensor) -> int:
    """Fold the batch norms of a frozen network into the convolutions that feed them; in place.

    In evaluation mode batch norm is an affine map of each channel, which the convolution before it can include:
    ``w' = w g / sqrt(v + eps)``, ``b' = (b - m) g / sqrt(v + eps) + beta``. This saves one pass over every feature map,
    a third of the time of a MobileNet-like backbone. The network is run once to find which convolution feeds which
    batch norm. Other batch norms, and those after a convolution that is used twice, are kept.

    Args:
        network: A network in evaluation mode that returns a list of tensors.
        example: An input of the network, (1, 3, H, W).

    Returns:
        Number of batch norms that were folded; 0 if an output would change by more than 0.001 of its largest value, and
        the network is then unchanged.
    """
    before = network(example)
    pairs = _fed_by_convolutions(network, example)
    original = {key: value.clone() for key, value in network.state_dict().items()}
    replaced = [_fold(network, convolution, norm) for convolution, norm in pairs]
    after = network(example)
    if all(_agree(*outputs) for outputs in zip(before, after, strict=True)):
        return len(pairs)
    for (convolution, _), (parent, name, norm, had_bias) in zip(pairs, replaced, strict=True):
        parent.register_module(name, norm)
        if not had_bias:
            convolution.bias = None
    network.load_state_dict(original)
    return 0


def _agree(before: torch.Tensor, after: torch.Tensor) -> bool:
    return bool((before - after).abs().max() <= _TOLERANCE * before.abs().max())


def _fed_by_convolutions(network: nn.Module, example: torch.Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Pairs of a convolution and the batch norm that takes its output directly, each used once."""
    made_by: dict[int, nn.Conv2d] = {}
    outputs: list[torch.Tensor] = []  # kept, so that no two have the same id
    takes: list[tuple[nn.Conv2d | None, nn.BatchNorm2d]] = []
    uses: Counter[int] = Counter()

    def remember(convolution: Any, _: Any, output: torch.Tensor) -> None:
        uses[id(convolution)] += 1
        outputs.append(output)
        made_by[id(output)] = convolution

    def look_up(norm: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        uses[id(norm)] += 1
        takes.append((made_by.get(id(inputs[0])), norm))

    hooks = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(remember))
        elif type(module) in {nn.BatchNorm2d, BatchNormAct2d} and module.track_running_stats:
            hooks.append(module.register_forward_pre_hook(look_up))
    try:
        network(example)
    finally:
        for hook in hooks:
            hook.remove()
    return [
        (convolution, norm)
        for convolution, norm in takes
        if convolution is not None and uses[id(convolution)] == uses[id(norm)] == 1
    ]


def _fold(
    network: nn.Module, convolution: nn.Conv2d, norm: nn.BatchNorm2d
) -> tuple[nn.Module, str, nn.BatchNorm2d, bool]:
    """Fold one pair; return the batch norm's parent, name and module, and whether the convolution had a bias."""
    had_bias = convolution.bias is not None
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None  # noqa: PT018 - it tracks them
    weight, bias = fuse_conv_bn_weights(
        convolution.weight,
        convolution.bias,
        mean,
        variance,
        norm.eps,
        norm.weight,
        norm.bias,
    )
    convolution.weight, convolution.bias = (
        nn.Parameter(tensor, requires_grad=convolution.weight.requires_grad) for tensor in (weight, bias)
    )
    parent, name = next(
        (parent, name) for parent in network.modules() for name, child in parent.named_children() if child is norm
    )
    parent.register_module(name, _activation_after(norm))
    return parent, name, norm, had_bias


def _activation_after(norm: nn.BatchNorm2d) -> nn.Module:
    """The activation that timm's batch norm applies after normalising."""
    return norm.act if isinstance(norm, BatchNormAct2d) else nn.Identity()
