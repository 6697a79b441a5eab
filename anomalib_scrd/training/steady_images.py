"""Whether training images are the same in every epoch: by their transforms, and by how they look."""

__all__ = ["Thumbnails", "refuse_augmentations", "unsteady_step"]

from collections.abc import Callable, Sequence
from typing import Any

import torch
from anomalib.data.transforms import ExportableCenterCrop, SquarePad
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import ConcatDataset, Subset
from torchvision.transforms import v2

_SIDE = 4
_TOLERANCE = 1e-4
# Their results depend on nothing but the image. By exact type: a subclass may be random.
_STEADY = frozenset(
    {
        ExportableCenterCrop,
        SquarePad,
        v2.CenterCrop,
        v2.ConvertImageDtype,
        v2.Grayscale,
        v2.Identity,
        v2.Normalize,
        v2.Pad,
        v2.RGB,
        v2.Resize,
        v2.ToDtype,
        v2.ToImage,
        v2.ToPureTensor,
    }
)


def unsteady_step(transform: Any) -> Any:
    """The first step of a transform that is not known to give the same result for the same image.

    Args:
        transform: A transform, possibly nested, or None.

    Returns:
        The step, or None where there is none.
    """
    if transform is None or type(transform) in _STEADY:
        return None
    if type(transform) not in {v2.Compose, nn.Sequential}:
        return transform
    steps = transform.transforms if isinstance(transform, v2.Compose) else transform
    return next((found for found in map(unsteady_step, steps) if found is not None), None)


def refuse_augmentations(dataset: Any, pre_processor: Any) -> None:
    """Refuse transforms that may give another image in every epoch.

    Args:
        dataset: Training set, possibly made of others; its attribute ``augmentations`` counts.
        pre_processor: Pre-processor; its attribute ``transform`` counts.

    Raises:
        ValueError: If there is one; the message names it.
    """
    transforms = [("augmentations of the training images", steps) for steps in _augmentations(dataset)]
    for name, transform in [*transforms, ("pre_processor", getattr(pre_processor, "transform", None))]:
        step = unsteady_step(transform)
        if step is not None:
            msg = f"feature_cache needs the same images in every epoch; the {name} may change them, got {step!r}"
            raise ValueError(msg)


def _augmentations(dataset: Any) -> list[Any]:
    if isinstance(dataset, Subset):
        return _augmentations(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        return [steps for part in dataset.datasets for steps in _augmentations(part)]
    return [getattr(dataset, "augmentations", None)]


class Thumbnails:
    """Remembers a thumbnail of each image and compares it with what is seen later under the same path."""

    def __init__(self) -> None:
        self._first: dict[str, torch.Tensor] = {}
        # Paths of each batch, and whether these images changed: on the device, so that the host does not wait for it.
        self._changed: list[tuple[list[str], torch.Tensor]] = []

    def see(self, images: torch.Tensor, paths: Sequence[str]) -> None:
        """Take a batch of images, (B, C, H, W), with their paths into account."""
        looks = F.adaptive_avg_pool2d(images.float(), _SIDE).flatten(1)
        for path, look in zip(paths, looks, strict=True):
            self._first.setdefault(path, look)
        first = torch.stack([self._first[path] for path in paths])
        changed = ((looks - first).abs() > _TOLERANCE * (1 + first.abs())).any(dim=1)
        self._changed.append((list(paths), changed))

    def check(self, anywhere: Callable[[bool], bool] = bool) -> None:
        """Refuse images that changed since their first sight.

        Args:
            anywhere: Tells whether something holds in any process, from whether it does in this one.

        Raises:
            ValueError: If there are some in any process; the message names one of this process.
        """
        changed = {p for paths, marks in self._changed for p, mark in zip(paths, marks.tolist(), strict=True) if mark}
        self._changed = []
        if anywhere(bool(changed)):
            path = min(changed, default="a path of another process")
            msg = (
                "feature_cache needs the same images in every epoch, each with a path of its own; "
                f"{len(changed)} changed, got another image for {path!r}"
            )
            raise ValueError(msg)
