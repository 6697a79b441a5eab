"""The teacher's features of clean training images, kept from one epoch to the next."""

__all__ = ["FeatureCache", "unsteady_step"]

import logging
from typing import Any

import torch
from anomalib.data.transforms import ExportableCenterCrop, SquarePad
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torchvision.transforms import v2

logger = logging.getLogger(__name__)

# Transforms without randomness. By exact type: a subclass may be random.
_STEADY = {ExportableCenterCrop, SquarePad, v2.CenterCrop, v2.ConvertImageDtype, v2.Grayscale, v2.Identity}
_STEADY |= {v2.Normalize, v2.Pad, v2.RGB, v2.Resize, v2.ToDtype, v2.ToImage, v2.ToPureTensor}


class FeatureCache(Callback):
    """Caches the teacher's features of clean training images: after the first epoch only noisy ones need a pass.

    The training equals one without a cache up to rounding. Each process keeps features on its device, checkpoints keep
    none. Images beyond the memory, and those of another size than the first, are computed in every epoch. Random
    transforms are refused at the start of a training, other changes of an image at the end of an epoch.

    Args:
        memory: Memory in GiB.
    """

    def __init__(self, memory: float) -> None:
        self.memory = memory
        self.begin(0)

    def begin(self, images: int) -> None:
        """Clear the cache and expect so many images."""
        self._images, self._room = images, -1  # -1: unknown until the first features
        self._size: torch.Size | None = None
        self._kept: dict[str, tuple[Tensor, ...]] = {}  # by path: (1, C_k, H_k, W_k) per scale, not standardised
        self._looks: dict[str, Tensor] = {}  # by path: a thumbnail, (C * 4 * 4,)
        self._changed: list[tuple[list[str], Tensor]] = []  # on the device: the host reads it once per epoch

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse sets without a length and transforms that may be random."""
        dataset: Any = getattr(trainer.train_dataloader, "dataset", None)
        if not hasattr(dataset, "__len__"):
            msg = f"feature_cache needs one training set with a length, got {dataset!r}"
            raise ValueError(msg)
        transform = getattr(getattr(pl_module, "pre_processor", None), "transform", None)
        for name, source in (("augmentations of the training images", dataset), ("pre_processor", transform)):
            if (step := unsteady_step(source)) is not None:
                msg = f"feature_cache needs the same images in every epoch; the {name} may change them, got {step!r}"
                raise ValueError(msg)
        self.begin(len(dataset))

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        """Report changed images, in all processes if in any: one that goes on alone would wait for the others."""
        changed = {p for paths, marks in self._changed for p, mark in zip(paths, marks.tolist(), strict=True) if mark}
        self._changed = []
        if trainer.strategy.reduce_boolean_decision(bool(changed), all=False):
            rule = f"feature_cache needs the same images in every epoch, each with its own path; {len(changed)} changed"
            msg = f"{rule}, got another image for {min(changed, default='a path of another process')!r}"
            raise ValueError(msg)

    def on_train_end(self, *_: Any) -> None:
        """Free the memory."""
        self.begin(0)

    on_exception = on_train_end  # type: ignore[assignment]

    @torch.no_grad()
    def features(self, teacher: Any, images: Tensor, noisy: Tensor | None, paths: list[str] | None) -> list[Tensor]:
        """The teacher's features of clean and noisy images, computed unless they are cached.

        Args:
            teacher: The teacher, from images to a list of feature maps.
            images: (B, 3, H, W), clean.
            noisy: (b, 3, H, W), or None.
            paths: Identity of the clean images, B of them.

        Returns:
            One (B + b, C_k, H_k, W_k) per scale, in the memory layout of the teacher.

        Raises:
            ValueError: If there are no paths.
        """
        if paths is None:
            msg = "feature_cache needs batches with image_path, which tells images apart, got None"
            raise ValueError(msg)
        behind = [] if noisy is None else [noisy]
        self._size = self._size or images.shape[1:]
        if images.shape[1:] != self._size:
            return teacher(torch.cat([images, *behind]))
        looks = F.adaptive_avg_pool2d(images.float(), 4).flatten(1)
        first = torch.stack([self._looks.setdefault(path, look) for path, look in zip(paths, looks, strict=True)])
        self._changed.append((paths, ((looks - first).abs() > 1e-4 * (1 + first.abs())).any(dim=1)))
        kept = [self._kept.get(path) for path in paths]
        new = [image for image, row in zip(images.split(1), kept, strict=True) if row is None]
        computed = teacher(torch.cat([*new, *behind])) if new or behind else []
        if computed and self._room < 0:
            size = sum(feature[0].nbytes for feature in computed)
            self._room = min(self._images, int(self.memory * 2**30) // size)
            rest, needed = self._images - self._room, self._images * size / 2**30
            text = "Teacher's features of images: %d in memory, %d computed in every epoch, %.3f GiB for all"
            logger.log(logging.WARNING if rest else logging.INFO, text, self._room, rest, needed)
        fresh = zip(*(feature.split(1) for feature in computed), strict=True)
        rows = [next(fresh) if row is None else row for row in kept] + list(fresh)
        for path, row in zip(paths, rows, strict=False):
            if path not in self._kept and len(self._kept) < self._room:
                self._kept[path] = tuple(feature.clone() for feature in row)
        return computed if len(new) == len(paths) else [torch.cat(scale) for scale in zip(*rows, strict=True)]


def unsteady_step(source: Any) -> Any:
    """The first possibly random step of a transform, or of a data set's augmentations; None if there is none."""
    if type(source) in {v2.Compose, nn.Sequential}:
        steps = getattr(source, "transforms", source)
    elif source is None or callable(source):
        return None if source is None or type(source) in _STEADY else source
    else:  # a data set, possibly made of others
        steps = getattr(source, "datasets", [getattr(source, "dataset", getattr(source, "augmentations", None))])
    return next((step for step in map(unsteady_step, steps) if step is not None), None)
